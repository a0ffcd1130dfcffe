"""Griffe extension: the comment of a field is its documentation.

Fields of configs are documented by comments, at the end of the line or above it, and not by docstrings:

    warmup_steps: int = 100  # becomes the field's text on the page
"""

import io
import tokenize
from collections.abc import Iterator
from typing import Any

import griffe


class FieldComments(griffe.Extension):
  """Gives fields of classes that have no docstring the comment beside or above them."""

  def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
    source = "".join(f"{line}\n" for line in cls.lines_collection[cls.filepath])
    comments = {line: (text, alone) for line, text, alone in _comments(source)}
    for field in cls.members.values():
      if field.is_attribute and not field.docstring and field.lineno is not None:
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
  return "" if alone or text.startswith("fmt:") else text


def _above(line: int, comments: dict[int, tuple[str, bool]]) -> str:
  found: list[str] = []
  while comments.get(line - 1, ("", False))[1]:
    line -= 1
    found.insert(0, comments[line][0])
  return " ".join(found)
