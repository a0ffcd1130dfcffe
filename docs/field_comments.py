"""Griffe extension: comments beside fields, and tables in docstrings of modules, as pages want them.

Fields of configs are documented by comments, at the end of the line or above it, and not by docstrings:

    warmup_steps: int = 100  # becomes the field's text on the page

and so are constants of modules. Docstrings have tables of words by two spaces; Markdown wants four, or makes
one paragraph of them.
"""

import io
import re
import textwrap
import tokenize
from collections.abc import Iterator
from typing import Any

import griffe

_INDENTED = re.compile(r"(?:^  +\S.*\n?)+", re.MULTILINE)
_SECTION = re.compile(r"^(?:Args|Attributes|Returns|Raises|Yields):$", re.MULTILINE)


class FieldComments(griffe.Extension):
  """Gives what has no docstring the comment beside or above it, and makes code of indented lines."""

  def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
    _document(cls)

  def on_module_members(self, *, mod: griffe.Module, **_: Any) -> None:
    _document(mod)
    if mod.docstring and not _SECTION.search(mod.docstring.value):
      mod.docstring.value = _INDENTED.sub(_as_code, mod.docstring.value)


def _as_code(lines: re.Match) -> str:
  return "\n" + textwrap.indent(textwrap.dedent(lines[0]), "    ") + "\n"


def _document(owner: griffe.Class | griffe.Module) -> None:
  source = "".join(f"{line}\n" for line in owner.lines_collection[owner.filepath])
  comments = {line: (text, alone) for line, text, alone in _comments(source)}
  for field in owner.members.values():
    if isinstance(field, griffe.Attribute) and not field.docstring and field.lineno is not None:
      text = _beside(field.endlineno, comments) or _above(field.lineno, comments)
      if text:
        field.docstring = griffe.Docstring(text, parent=field)


def _comments(source: str) -> Iterator[tuple[int, str, bool]]:
  """Yields (line, text, whether it has the line to itself) of every comment."""
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      text = token.string.lstrip("#").strip().rstrip(".")
      yield token.start[0], text, not token.line[: token.start[1]].strip()


def _beside(line: int | None, comments: dict[int, tuple[str, bool]]) -> str:
  text, alone = comments.get(line, ("", True))
  return "" if alone or text.startswith(("fmt:", "noqa")) else text


def _above(line: int, comments: dict[int, tuple[str, bool]]) -> str:
  found: list[str] = []
  while comments.get(line - 1, ("", False))[1]:
    line -= 1
    found.insert(0, comments[line][0])
  return " ".join(found)
