"""Bytes as tokens, and the spelling of bytes as characters that byte-level vocabularies are written in."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lm_jax.tokenizers import base

FILE = "bytes_tokenizer.json"


class Bytes:
  """The 256 bytes of UTF-8, without special tokens.

  A byte begins a word if it is whitespace, as in GPT-2's vocabulary: a word is a space and the letters
  after it.
  """

  vocab_size = 256

  def __init__(self) -> None:
    self.specials: dict[str, int] = {}
    self.controls: dict[str, int] = {}
    self._files = {FILE: b'{"kind": "bytes"}\n'}
    self.digest = base.digest(self._files)

  def encode(self, text: str) -> list[int]:
    try:
      return list(text.encode())
    except UnicodeEncodeError:
      base.check_unicode([text])
      raise

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return [self.encode(text) for text in texts]

  def decode(self, ids: Iterable[int]) -> str:
    return bytes(int(i) for i in ids if 0 <= i < 256).decode(errors="replace")

  def pieces(self) -> list[str]:
    return [text(bytes([i])) for i in range(256)]

  def word_starts(self) -> np.ndarray:
    return np.array([begins_word(bytes([i])) for i in range(256)])

  def to_json(self) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    inner = Tokenizer(models.BPE(vocab=characters(), merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return inner.to_str()

  def save(self, folder: str | Path) -> None:
    base.write(self._files, folder)


def text(content: bytes) -> str:
  """Returns the whole characters among bytes."""
  return content.decode(errors="ignore")


def begins_word(content: bytes) -> bool:
  return content[:1].isspace()


@functools.cache
def characters() -> dict[str, int]:
  """Returns {character: byte}, GPT-2's: printable ones are themselves, others follow from U+0100 on.

  The 256 characters are `tokenizers.pre_tokenizers.ByteLevel.alphabet()`.
  """
  printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
  others = [byte for byte in range(256) if byte not in printable]
  return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def spelled(token: str) -> bytes:
  """Returns the bytes that a byte-level token spells; a token outside the alphabet is its own text."""
  table = characters()
  if all(c in table for c in token):
    return bytes(table[c] for c in token)
  return token.encode()
