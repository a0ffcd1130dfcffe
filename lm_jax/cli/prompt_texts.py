"""Prompts as they are given, and continuations as they are shown."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lm_jax.strict import ConfigError, did_you_mean


def given(texts: Sequence[str] | None, file: str | None) -> list[str]:
  """Returns the prompts of flags, of a file, or else of stdin; blank lines are none.

  Raises:
    ConfigError: flags and file, none at all, a file that is not there or not what it should be.
  """
  if texts and file:
    raise ConfigError("--prompt, --prompts: one of them only")
  if texts:
    return list(texts)
  found = _of_file(Path(file).expanduser()) if file else _of_stdin()
  if not found:
    where = f"--prompts={file}" if file else "stdin"
    raise ConfigError(f"{where}: has no prompts; must have one a line, or give --prompt=TEXT")
  return found


def _of_stdin() -> list[str]:
  if sys.stdin.isatty():
    raise ConfigError("--prompt=... must be given, or --prompts=FILE, or prompts on stdin, one a line")
  try:
    return _lines(sys.stdin)
  except UnicodeDecodeError as error:
    raise ConfigError(f"stdin: is not UTF-8 ({error.reason})") from None


def _of_file(path: Path) -> list[str]:
  if not path.is_file():
    near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ConfigError(f"--prompts={path}: no such file{did_you_mean(path.name, near)}")
  try:
    text = path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as error:
    reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
    raise ConfigError(f"--prompts={path}: {reason}") from None
  lines = text.split("\n")
  if path.suffix == ".jsonl":
    return [_field(line, f"--prompts={path}: line {i}") for i, line in enumerate(lines, 1) if line.strip()]
  return _lines(lines)


def _field(line: str, where: str) -> str:
  try:
    row = json.loads(line)
  except ValueError as error:
    raise ConfigError(f"{where}: is not JSON ({error})") from None
  if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
    raise ConfigError(f'{where}: must be an object with a text "prompt"')
  return row["prompt"]


def _lines(stream: Iterable[str]) -> list[str]:
  return [line.rstrip("\r\n") for line in stream if line.strip()]


def table(prompts: Sequence[str], results: Sequence[Sequence[Any]], *, for_terminal: bool) -> str:
  """Returns prompts with their continuations; one of one is a text, others are numbered.

  Args:
    for_terminal: see `printable`.
  """
  if len(prompts) == len(results[0]) == 1:
    text = f"{prompts[0]}{results[0][0]}"
  else:
    several = len(prompts) > 1
    text = "\n\n".join(
      _group(f"prompt {i}: " if several else "prompt: ", prompt, found)
      for i, (prompt, found) in enumerate(zip(prompts, results, strict=True), 1)
    )
  return printable(text) if for_terminal else text


def _group(title: str, prompt: str, found: Sequence[Any]) -> str:
  lines = [_indented(title, prompt)]
  for i, one in enumerate(found, 1):
    # The space that most continuations begin with is the one after the number.
    lines.append(_indented(f"  {i}: " if len(found) > 1 else "  ", str(one).removeprefix(" ")))
  return "\n".join(lines)


def _indented(title: str, text: str) -> str:
  return title + text.replace("\n", "\n" + " " * len(title))


def printable(text: str) -> str:
  """Returns text without the control characters that would move a terminal's cursor, or worse."""
  return "".join(c if c in "\n\t" or not _is_control(c) else f"\\x{ord(c):02x}" for c in text)


def _is_control(c: str) -> bool:
  return ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0
