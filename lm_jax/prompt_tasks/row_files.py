"""Rows of files that people keep tasks in: .jsonl, .json, .csv, .tsv, .txt, and these with .gz.

Of .txt a paragraph is a row, what stands between empty lines; its one field is `text`.
"""

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from lm_jax.strict import ConfigError, nearest

ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".txt")


class Row(NamedTuple):
  where: str  # "FILE line N"
  fields: dict[str, Any]


def read(path: str | Path, columns: Sequence[str] | None = None, records: str | None = None) -> list[Row]:
  """Returns the rows of a file.

  Args:
    columns: names of the columns of .csv and .tsv; default: what its first line says.
    records: of .json, the field of the whole that holds the rows; default: it is a list itself.

  Raises:
    ConfigError: with the file and the line of what is wrong; for a file without rows.
  """
  path = Path(path)
  text, ending = _text(path)
  if ending == ".jsonl":
    rows = list(_json_lines(path, text))
  elif ending == ".json":
    rows = list(_json_records(path, text, records))
  elif ending == ".txt":
    rows = list(_paragraphs(path, text))
  else:
    rows = list(_table(path, text, "\t" if ending == ".tsv" else ",", columns))
  if not rows:
    raise ConfigError(f"{path}: has no rows")
  return rows


def _text(path: Path) -> tuple[str, str]:
  """Returns the text of a file, without the mark that editors put before UTF-8, and what it is."""
  packed = path.suffix == ".gz"
  ending = Path(path.stem).suffix if packed else path.suffix
  if ending not in ENDINGS:
    raise ConfigError(f"{path}: must end in one of {', '.join(ENDINGS)}, or in one of these and .gz")
  try:
    data = path.read_bytes()
    if packed:
      data = gzip.decompress(data)
    data = data.removeprefix(codecs.BOM_UTF8)
  except (OSError, EOFError, zlib.error) as error:
    raise ConfigError(f"{path}: cannot be read ({error})") from None
  try:
    return data.decode("utf-8"), ending
  except UnicodeDecodeError as error:
    line = data.count(b"\n", 0, error.start) + 1
    raise ConfigError(f"{path} line {line}: is not UTF-8") from None


def _paragraphs(path: Path, text: str) -> Iterator[Row]:
  first, lines = 1, []
  for number, line in enumerate([*text.replace("\r\n", "\n").split("\n"), ""], 1):
    if line.strip():
      first, lines = first if lines else number, [*lines, line]
    elif lines:
      yield Row(f"{path} line {first}", {"text": "\n".join(lines)})
      lines = []


def _json_lines(path: Path, text: str) -> Iterator[Row]:
  for number, line in enumerate(text.split("\n"), 1):
    if line.strip():
      yield _row(_parsed(line, f"{path} line {number}"), f"{path} line {number}")


def _json_records(path: Path, text: str, records: str | None) -> Iterator[Row]:
  found = _parsed(text, str(path))
  if records is not None:
    if not isinstance(found, dict) or records not in found:
      raise ConfigError(
        f"{path}: has no field {records!r}{nearest(records, found if isinstance(found, dict) else ())}"
      )
    found = found[records]
  if not isinstance(found, list):
    raise ConfigError(f"{path}: must hold a list of rows; name the field that does as `records`")
  for number, one in enumerate(found, 1):
    yield _row(one, f"{path} row {number}")


def _parsed(text: str, where: str) -> Any:
  try:
    return json.loads(text, parse_constant=_refuse_constant)
  except (ValueError, RecursionError) as error:
    raise ConfigError(f"{where}: is not JSON ({error})") from None


def _refuse_constant(name: str) -> NoReturn:
  """Python writes NaN where a number is missing, and it must not be read as the text "nan"."""
  raise ValueError(f"{name} is no number; a missing one is null")


def _row(found: Any, where: str) -> Row:
  if not isinstance(found, dict):
    raise ConfigError(f"{where}: is {type(found).__name__}, must be an object with fields")
  return Row(where, found)


def _table(path: Path, text: str, delimiter: str, columns: Sequence[str] | None) -> Iterator[Row]:
  """Tab-separated cells are what stands between tabs; quotes are a matter of .csv.

  A row's place is its first line. Rows without text in any cell are no rows.
  """
  quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
  reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
  names = None if columns is None else list(columns)
  _refuse_twins(str(path), names or ())
  first = 1
  try:
    for cells in reader:
      where, first = f"{path} line {first}", reader.line_num + 1
      if not any(cells):
        continue
      if names is None:
        names = cells
        _refuse_twins(where, names)
      elif len(cells) != len(names):
        raise ConfigError(f"{where}: has {len(cells)} columns, must have {len(names)} ({', '.join(names)})")
      else:
        yield Row(where, dict(zip(names, cells, strict=True)))
  except csv.Error as error:
    raise ConfigError(f"{path} line {reader.line_num}: is no table ({error})") from None


def _refuse_twins(where: str, names: Sequence[str]) -> None:
  for name in names:
    if names.count(name) > 1:
      raise ConfigError(f"{where}: has two columns {name!r}; must differ")
