"""Labeled texts for classification: reading them strictly, and drawing k examples a class.

What is drawn is a function of the texts and a seed, and of nothing else: the order of a file's rows, the
machine and the version of a library of random numbers do not change it.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lm_jax
from lm_jax.finetune_config import DataConfig
from lm_jax.strict import ConfigError, did_you_mean, nearest

# The names that files of a split have.
SPLITS = {"train": ("train",), "valid": ("valid", "dev", "validation"), "test": ("test",)}
ENDINGS = (".jsonl", ".tsv")


@dataclasses.dataclass(frozen=True)
class Split:
  """N texts with labels.

  Attributes:
    labels: int32 [N], indices of the data's classes.
  """

  texts: tuple[str, ...]
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.texts)

  def take(self, rows: np.ndarray) -> "Split":
    return Split(tuple(self.texts[i] for i in rows), self.labels[rows])


@dataclasses.dataclass(frozen=True)
class Data:
  """A data set.

  Attributes:
    classes: names, in the order of the labels: numbers by size, words by the alphabet.
    digest: hash of all texts and labels.
  """

  classes: tuple[str, ...]
  train: Split
  valid: Split
  test: Split
  digest: str


@dataclasses.dataclass(frozen=True)
class _Row:
  where: str  # "FILE line N"
  text: str
  label: str


def read(config: DataConfig) -> Data:
  """Reads a data set; raises ConfigError with the file and line of what is wrong."""
  rows = _rows_of_splits(config)
  labels = sorted({row.label for row in rows["train"]}, key=_label_order)
  if len(labels) < 2:
    raise ConfigError(
      f"config.data.name={config.name!r}: has {len(labels)} label in train; must have 2 or more"
    )
  names = config.label_names or tuple(labels)
  if len(names) != len(labels):
    raise ConfigError(
      f"config.data.label_names={list(names)!r}: must name {len(labels)} labels ({', '.join(labels)})"
    )
  index = {label: i for i, label in enumerate(labels)}
  for row in rows["valid"] + rows["test"]:
    if row.label not in index:
      raise ConfigError(f"{row.where}: label {row.label!r} is not one of train ({', '.join(labels)})")
  splits = {
    split: Split(tuple(r.text for r in rs), np.array([index[r.label] for r in rs], np.int32))
    for split, rs in rows.items()
  }
  _refuse_overlap(config, splits)
  return Data(tuple(names), **splits, digest=_digest(splits))


def _label_order(label: str) -> tuple[bool, float, str]:
  is_number = label.removeprefix("-").isdecimal()
  return not is_number, int(label) if is_number else 0, label


def _refuse_overlap(config: DataConfig, splits: dict[str, Split]) -> None:
  """Raises ConfigError for a text that is in two splits: what it is scored on must not be trained on."""
  texts = {split: set(s.texts) for split, s in splits.items()}
  for one, other in (("train", "test"), ("train", "valid"), ("valid", "test")):
    both = texts[one] & texts[other]
    if both:
      example = min(both)[:60]
      raise ConfigError(
        f"config.data.name={config.name!r}: {len(both)} texts are in {one} and in {other}, e.g. {example!r}"
      )


def _digest(splits: dict[str, Split]) -> str:
  hashed = hashlib.sha256()
  for split, s in splits.items():
    for text, label in zip(s.texts, s.labels.tolist(), strict=True):
      hashed.update(json.dumps([split, text, label]).encode())
  return hashed.hexdigest()[:16]


# --- files ----------------------------------------------------------------------------------------


def shared_tasks() -> Path:
  """Returns the folder of data sets that are known by name; it need not be there."""
  shared = os.environ.get("LM_JAX_SHARED") or Path(lm_jax.__file__).resolve().parents[2] / "shared"
  return Path(shared) / "data" / "tasks"


def find(name: str) -> Path:
  """Returns the folder or file that a data set's name stands for."""
  given = Path(name)
  if given.exists():
    return given
  known = shared_tasks() / name
  if given.name == name and known.is_dir():
    return known
  around = given.parent if given.name != name else shared_tasks()
  what = f"config.data.name={name!r}: nothing of this name in {around}"
  if not around.is_dir():
    raise ConfigError(f"{what}, which is no folder; set LM_JAX_SHARED, or give a path")
  raise ConfigError(what + did_you_mean(given.name, sorted(path.name for path in around.iterdir())))


def _rows_of_splits(config: DataConfig) -> dict[str, list[_Row]]:
  path = find(config.name)
  if path.is_file():
    if path.suffix not in ENDINGS:
      raise ConfigError(
        f"config.data.name={config.name!r}: must be a folder or end in {' or '.join(ENDINGS)}"
      )
    rows = _by_hash(_read_file(path, config))
  else:
    rows = {split: _read_file(_split_file(path, split), config) for split in SPLITS}
  for split, there in rows.items():
    if not there:
      raise ConfigError(f"config.data.name={config.name!r}: no rows in {split}")
  return rows


def _by_hash(rows: Sequence[_Row]) -> dict[str, list[_Row]]:
  """Splits one file's rows 8 : 1 : 1 by a hash of the text; equal texts stay together."""
  splits: dict[str, list[_Row]] = {split: [] for split in SPLITS}
  for row in rows:
    tenth = int(_hash("split", row.text), 16) % 10
    splits["valid" if tenth == 0 else "test" if tenth == 1 else "train"].append(row)
  return splits


def _split_file(folder: Path, split: str) -> Path:
  names = [stem + ending for stem in SPLITS[split] for ending in ENDINGS]
  for name in names:
    if (folder / name).is_file():
      return folder / name
  there = sorted(path.name for path in folder.iterdir())
  hint = next(filter(None, (did_you_mean(name, there) for name in names)), "")
  raise ConfigError(f"config.data.name: {folder} has no {split} split ({' or '.join(names)}){hint}")


def _read_file(path: Path, config: DataConfig) -> list[_Row]:
  read_rows = _read_tsv if path.suffix == ".tsv" else _read_jsonl
  rows = []
  for number, values in read_rows(path, config):
    where = f"{path} line {number}"
    text, label = (_value(values, field, where) for field in (config.text_field, config.label_field))
    if not isinstance(text, str):
      raise ConfigError(f"{where}: {config.text_field} is {text!r}, must be a string")
    if not text.strip():
      raise ConfigError(f"{where}: {config.text_field} is empty")
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
      raise ConfigError(f"{where}: {config.label_field} is {label!r}, must be a whole number or a word")
    rows.append(_Row(where, text, str(label)))
  return rows


def _value(values: dict[str, Any], field: str, where: str) -> Any:
  if values.get(field) is None:
    raise ConfigError(f"{where}: has no {field!r}{nearest(field, values)}")
  return values[field]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
  """Yields (number, line) of the lines that are not blank."""
  for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
    try:
      text = line.decode("utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
      raise ConfigError(f"{path} line {number}: is not UTF-8 (byte {error.start + 1} of the line)") from None
    if text.strip():
      yield number, text


def _read_jsonl(path: Path, config: DataConfig) -> Iterator[tuple[int, dict[str, Any]]]:
  del config
  for number, line in _lines(path):
    try:
      values = json.loads(line)
    except ValueError as error:
      raise ConfigError(f"{path} line {number}: is not JSON ({error})") from None
    if not isinstance(values, dict):
      raise ConfigError(f"{path} line {number}: is {type(values).__name__}, must be an object with fields")
    yield number, values


def _read_tsv(path: Path, config: DataConfig) -> Iterator[tuple[int, dict[str, Any]]]:
  columns = config.columns
  for number, line in _lines(path):
    cells, where = tuple(line.split("\t")), f"{path} line {number}"
    if columns is None:
      columns = cells
      for field in (config.text_field, config.label_field):
        if field not in columns:
          raise ConfigError(f"{where}: names no column {field!r}; without a header give config.data.columns")
      continue
    if len(cells) != len(columns):
      wanted = f"{len(columns)} ({', '.join(columns)})"
      raise ConfigError(f"{where}: has {len(cells)} columns, must have {wanted}")
    yield number, dict(zip(columns, cells, strict=True))


# --- draws ----------------------------------------------------------------------------------------


def _hash(*words: Any) -> str:
  return hashlib.sha256("\0".join(map(str, words)).encode()).hexdigest()


def _order(split: Split, *salt: Any) -> list[int]:
  """Returns the rows in a random order that depends on the texts and `salt` only."""
  return sorted(range(len(split)), key=lambda i: (_hash(*salt, split.texts[i]), i))


def draw(split: Split, classes: Sequence[str], k: int, seed: int, name: str = "train") -> np.ndarray:
  """Returns the rows of k examples a class, int [k * C]: one of each class, then one more of each, ...

  Of one seed, the rows of k are the first of those of 2 k.

  Args:
    name: of the split, for the error of a class that has fewer than k.
  """
  order = _order(split, name, seed)
  of_class = [[i for i in order if split.labels[i] == c] for c in range(len(classes))]
  for label, rows in zip(classes, of_class, strict=True):
    if len(rows) < k:
      raise ConfigError(f"config.shots={k}: class {label!r} has {len(rows)} examples in {name}")
  return np.array([rows[:k] for rows in of_class], np.int64).reshape(len(classes), k).T.ravel()


def sample(split: Split, count: int | None, name: str) -> np.ndarray:
  """Returns the rows of a fixed random sample of a split, at most `count` of them; none: all."""
  return np.array(_order(split, name)[:count], np.int64)


def majority_share(split: Split) -> float:
  """Returns the share of a split that its most frequent class has."""
  return float(np.bincount(split.labels).max() / len(split))
