"""The documents of files: .txt, .md and .py are one each, rows of .jsonl and .parquet are one each.

Files named train*, test* and valid* decide what is trained on, where there are any. A README.md at the top
of a folder is about the corpus and no part of it.
"""

import codecs
import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lm_jax.data.hold_out import settle_splits
from lm_jax.data.passages import Document
from lm_jax.strict import ConfigError, nearest

TEXT = (".txt", ".md", ".py")
ROWS = (".jsonl", ".parquet")
FORMATS = f"{', '.join((*TEXT, *ROWS[:-1]))} or {ROWS[-1]}"
_CHUNK_BYTES = 1 << 20
_PARQUET_ROWS = 256
# A name of its own or a first word, so that training.md and tests.md are not splits. Sources are never.
_SPLIT = re.compile(r"(train|test|valid|validation)(?![a-z])", re.IGNORECASE)


def find(path: Path) -> list[Path]:
  """Returns the files of a corpus, in order of their paths; raises ConfigError if there are none.

  Hidden files and folders are not looked at.
  """
  if not path.is_dir():
    if path.suffix.lower() not in TEXT + ROWS:
      raise ConfigError(f"{path}: must be a folder, or a file of {FORMATS}")
    return [path]
  files = [file for file in _walk(path) if file.suffix.lower() in TEXT + ROWS]
  files = [file for file in files if not (file.parent == path and file.name.lower() == "readme.md")]
  if not files:
    raise ConfigError(f"{path}: holds no file of {FORMATS}")
  return files


def _walk(folder: Path) -> list[Path]:
  def fail(error: OSError) -> None:
    raise unreadable(Path(error.filename), error) from None

  files = []
  for parent, subfolders, names in os.walk(folder, onerror=fail):
    subfolders[:] = (name for name in subfolders if not name.startswith("."))
    files += (Path(parent, name) for name in names if not name.startswith("."))
  return sorted(files)


def splits(files: Sequence[Path]) -> dict[Path, str | None]:
  """Returns the split of each file, None where a hash decides. The name of a single file decides nothing."""
  if len(files) == 1:
    return {files[0]: None}
  return settle_splits({file: _named_split(file) for file in files})


def _named_split(file: Path) -> str | None:
  match = _SPLIT.match(file.stem) if file.suffix.lower() != ".py" else None
  if not match:
    return None
  return "validation" if match[1].lower().startswith("valid") else match[1].lower()


def documents(files: dict[Path, str | None], text_field: str) -> Iterator[Document]:
  """Yields the documents of files, in order; raises ConfigError where one cannot be read.

  Args:
    files: with the split of each.
    text_field: what holds the text of a row of .jsonl and .parquet.
  """
  readers = {".jsonl": _jsonl, ".parquet": _parquet}
  for file, split in files.items():
    try:
      if read_rows := readers.get(file.suffix.lower()):
        for place, text in read_rows(file, text_field):
          yield row_document(split, place, text)
      else:
        yield Document(split, str(file), functools.partial(_chunks, file))
    except OSError as error:
      raise unreadable(file, error) from None


def row_document(split: str | None, place: str, text: Any) -> Document:
  """Returns a document that is a value of a table; raises ConfigError unless it is text."""
  if not isinstance(text, str):
    raise ConfigError(f"{place}: must be text, not {type(text).__name__}")
  try:
    encoded = text.encode()
  except UnicodeEncodeError as error:
    raise ConfigError(f"{place}: character {error.start} is half of a surrogate pair") from None
  return Document(split, place, lambda: [encoded])


def unreadable(file: Path, error: OSError) -> ConfigError:
  return ConfigError(f"{file}: cannot be read: {error.strerror or error}")


def _chunks(file: Path) -> Iterator[bytes]:
  """Yields the bytes of a text file; raises ConfigError for a binary one."""
  try:
    with file.open("rb") as stream:
      offset = 0
      while chunk := stream.read(_CHUNK_BYTES):
        if (zero := chunk.find(b"\0")) >= 0:
          raise ConfigError(f"{file}: byte {offset + zero} is 0: a binary file, or not UTF-8")
        yield chunk
        offset += len(chunk)
  except OSError as error:
    raise unreadable(file, error) from None


def _jsonl(file: Path, text_field: str) -> Iterator[tuple[str, Any]]:
  """Yields (place, text) of each line that is not blank."""
  with file.open("rb") as stream:
    for number, line in enumerate(stream, 1):
      line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
      if not line.strip():
        continue
      place = f"{file}:{number}"
      row = _parse(line, place)
      if text_field not in row:
        raise _no_field(place, text_field, row)
      yield f"{place}: {text_field}", row[text_field]


def _parse(line: bytes, place: str) -> dict[str, Any]:
  try:
    row = json.loads(line)
  except UnicodeDecodeError as error:
    raise ConfigError(f"{place}: byte {error.start} of the line is not UTF-8") from None
  except (json.JSONDecodeError, RecursionError) as error:
    raise ConfigError(f"{place}: not JSON: {error}") from None
  if not isinstance(row, dict):
    raise ConfigError(f"{place}: must be a JSON object, not {type(row).__name__}")
  return row


def _no_field(place: str, text_field: str, there: Iterable[str]) -> ConfigError:
  return ConfigError(f"{place}: no field {text_field!r} (text_field){nearest(text_field, there)}")


def _parquet(file: Path, text_field: str) -> Iterator[tuple[str, Any]]:
  """Yields (place, text) of each row."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  try:
    with pq.ParquetFile(file) as table:
      names = table.schema_arrow.names
      if text_field not in names:
        raise _no_field(str(file), text_field, names)
      number = 0
      for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=[text_field]):
        for value in batch.column(0):
          number += 1
          yield f"{file}: row {number}: {text_field}", value.as_py()
  except (pa.ArrowException, UnicodeDecodeError) as error:
    raise ConfigError(f"{file}: not a Parquet file of text: {str(error).splitlines()[0]}") from None
