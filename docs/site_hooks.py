"""MkDocs hooks: the page of the command line, and what pages link to in the rest of the repository.

Links in docs/ lead to files of the repository, so that they work where the repository is browsed. In the site
such a file is at repository/PATH: Markdown as a page, images and tables as they are, other text as a page
of its source. What those pages link to comes along.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from lm_jax import cli
from lm_jax.cli.command_flags import Command

ROOT = Path(__file__).resolve().parents[1]
INSIDE = "repository"  # folder of the site
COMMAND_LINE = "reference/command_line.md"
LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<target>[^()\s#:]+)(?P<anchor>#[^()\s]*)?\)")
AS_THEY_ARE = (".png", ".svg", ".csv", ".pdf")


def on_files(files: Files, config: MkDocsConfig) -> Files:
  files.append(File.generated(config, COMMAND_LINE, content=command_line()))
  waiting = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
  seen = set(waiting)
  while waiting:
    page = waiting.pop()
    for path in targets(page):
      if path not in seen and not path.is_relative_to(ROOT / "docs"):
        seen.add(path)
        files.append(_file(path, config))
        waiting += [path] if path.suffix == ".md" else []
  return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
  """Turns links that leave docs/ into those of the site."""
  uri = page.file.src_uri
  source = ROOT / uri.removeprefix(f"{INSIDE}/") if uri.startswith(f"{INSIDE}/") else ROOT / "docs" / uri

  def replace(match: re.Match) -> str:
    path = _path(source, match["target"])
    if path is None:
      return match[0]
    to = posixpath.relpath(_uri(path), posixpath.dirname(uri))
    return f"{match['text']}({to}{match['anchor'] or ''})"

  return LINK.sub(replace, markdown)


def targets(page: Path) -> Iterator[Path]:
  """Yields the files that a page links to."""
  for match in LINK.finditer(page.read_text(encoding="utf-8")):
    path = _path(page, match["target"])
    if path is not None:
      yield path


def _path(page: Path, target: str) -> Path | None:
  path = (page.parent / target).resolve()
  return path if path.is_file() and path.is_relative_to(ROOT) else None


def _uri(path: Path) -> str:
  """Returns where in the site a file of the repository is, as a source."""
  if path.is_relative_to(ROOT / "docs"):
    return path.relative_to(ROOT / "docs").as_posix()
  uri = f"{INSIDE}/{path.relative_to(ROOT).as_posix()}"
  return uri if path.suffix in (".md", *AS_THEY_ARE) else f"{uri}.md"


def _file(path: Path, config: MkDocsConfig) -> File:
  uri, place = _uri(path), InclusionLevel.NOT_IN_NAV
  if path.suffix in AS_THEY_ARE:
    return File.generated(config, uri, abs_src_path=str(path), inclusion=place)
  text = path.read_text(encoding="utf-8")
  if path.suffix != ".md":
    text = f"# {path.relative_to(ROOT)}\n\n````{path.suffix.lstrip('.')}\n{text}````\n"
  return File.generated(config, uri, content=text, inclusion=place)


# --- the command line -------------------------------------------------------------------------------


def command_line() -> str:
  """Returns the page of all commands and their flags, as `lm-jax COMMAND --help` has them."""
  intro = (
    "Exit codes and how fields of a config are changed are in the [README](../../README.md#what-it-does)."
  )
  return "\n\n".join(["# Command line", intro, *(_command(*item) for item in cli.COMMANDS.items())]) + "\n"


def _command(name: str, command: Command) -> str:
  rows = [_row(flag, command) for flag in command.flags]
  if command.takes_config:
    rows.append("| `--config.path.to.field=value` | changes one field of the config; may be repeated | |")
  table = "\n".join(["| flag | meaning | default |", "|---|---|---|", *rows])
  return f"## lm-jax {name}\n\n{_cell(command.help[0].upper() + command.help[1:])}.\n\n{table}"


def _row(flag: str, command: Command) -> str:
  _, meaning, default = command.flag(flag)
  needed = "**must be given**" if flag in command.required else ""
  shown = needed or (f"`{str(default).lower() if isinstance(default, bool) else default}`"
                     if default not in (None, "") else "")  # fmt: skip
  return f"| `--{flag}` | {_cell(meaning)} | {shown} |"


def _cell(text: str) -> str:
  return re.sub(r"([\\|*_<>])", r"\\\1", text)
