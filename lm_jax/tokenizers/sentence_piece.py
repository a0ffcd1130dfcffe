"""SentencePiece models, by the package of that name, which is an extra (arXiv:1808.06226)."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from lm_jax.strict import ConfigError
from lm_jax.tokenizers import base, byte

FILE = "tokenizer.model"
SPACE = "▁"
_BYTE = re.compile("<0x([0-9A-F]{2})>")
# Those that the package has no name for.
_SPELLINGS = {"cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


class SentencePiece:
  """Adapts `sentencepiece.SentencePieceProcessor`. What round trips is up to the model's normalizer."""

  def __init__(self, content: bytes, where: str = FILE):
    """Takes the bytes of a .model; `where` is its name in errors."""
    try:
      import sentencepiece
    except ImportError:
      raise ConfigError(
        f"tokenizer {where}: needs the sentencepiece package: pip install 'lm_jax[sentencepiece]'"
      ) from None
    self._inner = sentencepiece.SentencePieceProcessor()
    try:
      self._inner.LoadFromSerializedProto(content)
      self.vocab_size = self._inner.GetPieceSize()
    except RuntimeError:
      self.vocab_size = 0
    if not self.vocab_size:
      raise ConfigError(f"tokenizer {where}: is not a SentencePiece model")
    self._files = {FILE: content}
    self.digest = base.digest(self._files)
    self.specials = self._special_ids()
    size, inner = range(self.vocab_size), self._inner
    self._silent = {i for i in size if inner.IsControl(i) or inner.IsUnknown(i) or inner.IsUnused(i)}
    self._silent |= set(self.specials.values())
    self.controls = {inner.IdToPiece(i): i for i in size if inner.IsControl(i)}

  def _special_ids(self) -> dict[str, int]:
    inner = self._inner
    named = {"pad": inner.pad_id(), "unk": inner.unk_id(), "end": inner.eos_id()}
    spelled = {name: inner.PieceToId(piece) for name, piece in _SPELLINGS.items()}
    known = {name: i for name, i in spelled.items() if i != inner.unk_id()}
    return {name: i for name, i in named.items() if i >= 0} | known

  def encode(self, text: str) -> list[int]:
    try:
      return self._inner.EncodeAsIds(text)
    except UnicodeEncodeError:
      base.check_unicode([text])
      raise

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    return [self.encode(text) for text in texts]

  def decode(self, ids: Iterable[int]) -> str:
    spoken = [int(i) for i in ids if 0 <= i < self.vocab_size and int(i) not in self._silent]
    return self._inner.DecodeIds(spoken)

  def pieces(self) -> list[str]:
    tokens = [self._inner.IdToPiece(i) for i in range(self.vocab_size)]
    return ["" if i in self._silent else piece(token) for i, token in enumerate(tokens)]

  def word_starts(self) -> np.ndarray:
    tokens = [self._inner.IdToPiece(i) for i in range(self.vocab_size)]
    return np.array([i in self._silent or begins_word(token) for i, token in enumerate(tokens)])

  def to_json(self) -> str:
    raise ConfigError(f"tokenizer: a SentencePiece model ({FILE}) cannot be written as tokenizer.json")

  def save(self, folder: str | Path) -> None:
    base.write(self._files, folder)


def piece(token: str) -> str:
  """Returns the text of a token that is not the first."""
  spelled = _BYTE.fullmatch(token)
  return byte.text(bytes.fromhex(spelled[1])) if spelled else token.replace(SPACE, " ")


def begins_word(token: str) -> bool:
  return token.startswith(SPACE)
