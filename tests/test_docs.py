"""The documentation does what it says: tutorials run, flags and files that are named exist, the site builds.

In a tutorial's fenced blocks

    ```sh                       is run; a command that ends with `# exit code 2` must exit so
    ```sh title="needs ..."     is not run, for what its title says
    ```LANGUAGE title="FILE"    is written to FILE first
    ```diff title="FILE"        changes FILE, which has the lines without a plus in one place
    ```text                     is in the output of the commands before it, but for numbers and lines of `...`
    ```text title="for instance"    differs from machine to machine

Pages follow each other in one folder, as a reader's do in a clone.
"""

import collections
import dataclasses
import importlib.util
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import ROOT

from lm_jax import cli, finetune_config, strict
from lm_jax.config import Config

DOCS = ROOT / "docs"
# In the order in which they are read.
TUTORIALS = ("first_sweep", "own_task", "own_corpus", "pretrained_family", "cluster", "reading_the_report")
NOT_RUN = {"needs a download": 2, "needs Ray": 1, "needs Slurm": 1, "needs a bucket": 1}
PAGES = [
  *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "experiments/README.md")),
  *sorted(DOCS.rglob("*.md")),
]

_BLOCK = re.compile(r'^```(?P<language>\w+)(?: title="(?P<title>[^"]*)")?\n(?P<body>.*?)^```$', re.M | re.S)
_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
_CELL_ID = re.compile(r"\b[0-9a-f]{12}\b")
_EXIT = re.compile(r"# exit code (\d+)$", re.M)


@dataclasses.dataclass(frozen=True)
class Block:
  language: str
  title: str | None
  body: str

  @property
  def is_run(self) -> bool:
    return self.language == "sh" and self.title is None


def blocks(page: Path) -> list[Block]:
  text = page.read_text(encoding="utf-8")
  found = [Block(**match.groupdict()) for match in _BLOCK.finditer(text)]
  assert 2 * len(found) == len(re.findall(r"^\s*`{3}", text, re.M)), f"{page}: a fence that no rule knows"
  return found


def tutorial(name: str) -> list[Block]:
  return blocks(DOCS / "tutorials" / f"{name}.md")


# --- tutorials ------------------------------------------------------------------------------------


class Clone:
  """A folder with what a clone has, and `lm-jax` and `python` that run what is in it."""

  def __init__(self, folder: Path):
    self.folder = folder
    for name in ("lm_jax", "configs"):
      shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "experiments").symlink_to(ROOT / "experiments")
    for name, words in (("lm-jax", "-m lm_jax "), ("python", "")):
      command = folder / "bin" / name
      command.parent.mkdir(exist_ok=True)
      command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words}"$@"\n')
      command.chmod(command.stat().st_mode | stat.S_IXUSR)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))}
    self.env = env | {
      "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(folder), "LM_JAX_SHARED": str(folder / "nothing"),
      "PATH": os.pathsep.join([str(folder / "bin"), env["PATH"]]),
    }  # fmt: skip

  def run(self, script: str) -> str:
    """Runs a block of commands, which must exit as it says, and returns what they print."""
    done = subprocess.run(
      ["bash", "-euo", "pipefail", "-c", script], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1800,
    )  # fmt: skip
    expected = _EXIT.search(script)
    assert done.returncode == (int(expected[1]) if expected else 0), f"{script}\n{done.stdout}"
    return done.stdout

  def write(self, name: str, text: str) -> None:
    path = self.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

  def change(self, name: str, diff: str) -> None:
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    text = (self.folder / name).read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{name} has these lines {text.count(before)} times:\n{before}"
    self.write(name, text.replace(before, after))


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
  return Clone(tmp_path_factory.mktemp("clone"))


@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorials_work_as_written(name, clone):
  printed = ""
  for block in tutorial(name):
    if block.is_run:
      assert len(_EXIT.findall(block.body)) == 0 or block.body.count("lm-jax") == 1
      printed = clone.run(block.body)
    elif block.language == "diff":
      clone.change(block.title, block.body)
    elif block.language == "text":
      if block.title != "for instance":
        assert_shown(block.body, printed)
    elif block.language != "sh":
      clone.write(block.title, block.body)


def assert_shown(shown: str, printed: str) -> None:
  there = {_without_numbers(line) for line in printed.splitlines()}
  for line in shown.splitlines():
    assert line == "..." or _without_numbers(line) in there, f"{line!r} is not in\n{printed}"


def _without_numbers(line: str) -> str:
  return " ".join(_NUMBER.sub("0", _CELL_ID.sub("0", line)).split())


def test_what_is_shown_is_compared():
  assert_shown("d8 L2   1,768    0.247\n...\n", "cell\n  d8 L2  1,832  0.3\n")
  with pytest.raises(AssertionError):
    assert_shown("d8 L2  decoder  1,768", "d8 L2  encoder  1,768")


def test_blocks_that_are_not_run_say_why():
  titles = [
    block.title for name in TUTORIALS for block in tutorial(name) if block.language == "sh" and block.title
  ]
  assert collections.Counter(titles) == NOT_RUN


def test_all_tutorials_are_run():
  assert {path.stem for path in (DOCS / "tutorials").iterdir()} == set(TUTORIALS)
  assert all(any(block.is_run for block in tutorial(name)) for name in TUTORIALS)


# --- what is named --------------------------------------------------------------------------------

# Up to the end of a line, a continued one included, or of code in a line, or the next command.
_COMMAND = re.compile(r"lm-jax\s+([a-z]\w*)((?:(?!lm-jax)(?:\\\n|[^`\n]))*)")
_FLAG = re.compile(r"(?<![\w-])--(no)?([a-z]\w*)((?:\.\w+)*)")
_LINK = re.compile(r"\]\(([^()\s#]+)(?:#[^()\s]*)?\)")
_FLAGS = {flag for command in cli.COMMANDS.values() for flag in command.flags}


def named_wrongly(text: str) -> Iterator[str]:
  """Yields the commands, flags and fields of a text that there are not, but for commands that are to fail."""
  text = re.sub(r".*# exit code 2$", "", text, flags=re.M)
  for name, words in _COMMAND.findall(text):
    if name not in cli.COMMANDS:
      yield f"lm-jax {name}"
      continue
    command = cli.COMMANDS[name]
    for negated, flag, field in _FLAG.findall(words):
      if field:
        if not command.takes_config or not is_field(field[1:].split(".")):
          yield f"lm-jax {name} --{negated}{flag}{field}"
      elif f"{negated}{flag}" not in (*command.flags, "help") and flag not in command.flags:
        yield f"lm-jax {name} --{negated}{flag}"
  for negated, flag, field in (m for code in re.findall(r"`(--[^`\n]*)`", text) for m in _FLAG.findall(code)):
    if not (is_field(field[1:].split(".")) if field else negated + flag in _FLAGS or flag in _FLAGS):
      yield f"--{negated}{flag}{field}"


def is_field(path: list[str]) -> bool:
  known = path in (["path", "to", "field"], ["model", "preset"])  # an example; a name for several fields
  return known or any(_has(c, path) for c in (Config, finetune_config.FinetuneConfig))


def _has(annotation, path: list[str]) -> bool:
  if not path:
    return True
  found = strict.variants(annotation)
  classes = list(found.values()) if found else [annotation] if dataclasses.is_dataclass(annotation) else []
  return any(_has(types[path[0]], path[1:]) for types in map(strict.field_types, classes) if path[0] in types)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_flags_and_fields_that_are_named_exist(page):
  assert not list(named_wrongly(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
  ("text", "wrong"),
  [
    ("`lm-jax swep --workdir=a`", ["lm-jax swep"]),
    ("lm-jax plan --config=F \\\n  --worker=3", ["lm-jax plan --worker"]),
    ("lm-jax status --watch; lm-jax serve --watch", ["lm-jax serve --watch"]),
    (
      "lm-jax train --config.train.steps=3 --config.task.tokenizer.kind=bpe",
      ["lm-jax train --config.train.steps"],
    ),
    ("`--halvin`, `--halving`", ["--halvin"]),
  ],
)
def test_what_does_not_exist_is_found(text, wrong):
  assert list(named_wrongly(text)) == wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
  made = {DOCS / "reference" / "command_line.md"}  # by docs/site_hooks.py
  targets = [
    t for t in _LINK.findall(page.read_text(encoding="utf-8")) if not t.startswith(("http", "mailto"))
  ]
  missing = [t for t in targets if not (page.parent / t).exists() and (page.parent / t).resolve() not in made]
  assert not missing


# --- the site -------------------------------------------------------------------------------------

_LOADS = re.compile(
  r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^"' >]*"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
  for needed in ("mkdocs", "material", "mkdocstrings_handlers.python"):
    try:
      there = importlib.util.find_spec(needed)
    except ModuleNotFoundError:
      there = None
    if there is None:
      pytest.skip(f"{needed} is not installed (extra docs)")
  folder = tmp_path_factory.mktemp("site")
  env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "NO_MKDOCS_2_WARNING": "1"}
  done = subprocess.run(
    [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
    cwd=ROOT, env=env, capture_output=True, text=True, timeout=600,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr
  return folder


def test_site_loads_nothing_from_a_network(site):
  pages = list(site.rglob("*.html"))
  assert len(pages) > len(PAGES)
  loads = {match for page in pages for match in _LOADS.findall(page.read_text(encoding="utf-8"))}
  styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
  assert not loads
  assert not [url for style in styles for url in re.findall(r"""url\(["']?(?:https?:)?//[^)]*""", style)]


def test_site_has_every_command_and_flag(site):
  page = (site / "reference" / "command_line.html").read_text(encoding="utf-8")
  for name, command in cli.COMMANDS.items():
    section = page.split(f'<h2 id="lm-jax-{name}">')[1].split("<h2 ")[0]
    assert re.findall(r"<code>--(\w+)</code>", section) == list(command.flags)


def test_fields_are_documented_by_their_comments(site):
  page = (site / "reference" / "config.html").read_text(encoding="utf-8")
  assert "sequences a step" in page  # of train.batch_size, at the end of its line
  assert "documents one after another, cut every T tokens" in page  # of task.packing, above it
