"""What a tokenizer is, and what all kinds share: their files, and text that is no Unicode."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from lm_jax.strict import ConfigError


class TokenizerSpec(Protocol):
  """The fields of text_config.TokenizerConfig that are read here."""

  kind: str
  vocab_size: int | None
  path: str | None
  digest: str | None


class Tokenizer(Protocol):
  """Text to tokens and back. Texts are plain: no string in them stands for a special token.

  Attributes:
    vocab_size: ids are below it. A corpus too small for the size that was asked leaves some ids unused.
    specials: {"pad" | "unk" | "cls" | "sep" | "mask" | "end": id}, those that it has itself.
    controls: {"<|im_end|>": id, ...}, what special tokens are called where a template writes them.
    digest: hash of its files, wherever they are.
  """

  vocab_size: int
  specials: dict[str, int]
  controls: dict[str, int]
  digest: str

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text, without special tokens."""
    ...

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of every text, on all cores where the kind can."""
    ...

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of ids; special tokens, unused ids and those beyond the vocabulary have none."""
    ...

  def pieces(self) -> list[str]:
    """Returns the text of each id where it is not the first, e.g. " word" or "ing".

    "" for special tokens, and bytes that are no whole character are left out.
    """
    ...

  def word_starts(self) -> np.ndarray:
    """Returns bool [vocab_size]: whether a token begins a word; special tokens do."""
    ...

  def to_json(self) -> str:
    """Returns a tokenizer.json with the same ids; raises ConfigError if there is none."""
    ...

  def save(self, folder: str | Path) -> None:
    """Writes the files that `load` reads, with the same digest."""
    ...


def digest(files: Mapping[str, bytes]) -> str:
  """Returns a hex hash of names and contents."""
  sha = hashlib.sha256()
  for name in sorted(files):
    sha.update(f"{name}\0{len(files[name])}\0".encode())
    sha.update(files[name])
  return sha.hexdigest()[:16]


def write(files: Mapping[str, bytes], folder: str | Path) -> None:
  """Writes files to a folder, each whole or not at all."""
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  for name, content in files.items():
    beside = folder / f".{name}.{os.getpid()}"
    beside.write_bytes(content)
    beside.replace(folder / name)


def check_unicode(texts: Iterable[str]) -> None:
  """Raises ConfigError for half a surrogate pair, which JSON's escapes can spell and UTF-8 cannot."""
  for text in texts:
    try:
      text.encode()
    except UnicodeEncodeError as error:
      half = f"U+{ord(text[error.start]):04X} at character {error.start}"
      raise ConfigError(f"text to tokenize: {half} is half a surrogate pair, and no text") from None
