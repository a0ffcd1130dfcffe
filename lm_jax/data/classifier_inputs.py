"""Texts as what a classifier reads: [CLS] text [SEP] for an encoder, the bare text for a decoder.

The bare text follows what the decoder expects before every text, if anything.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from lm_jax.strict import ConfigError
from lm_jax.tokenizers import Tokenizer

MULTIPLE = 8  # lengths are rounded up to it


@dataclasses.dataclass(frozen=True)
class Inputs:
  """N sequences of one length.

  Attributes:
    tokens: int32 [N, T], padded at the end.
    lengths: int32 [N], tokens that are no padding, at least 1.
  """

  tokens: np.ndarray
  lengths: np.ndarray


@dataclasses.dataclass(frozen=True)
class Encoder:
  """Encodes texts for one model.

  Attributes:
    specials: ids of special tokens, see text_config.special_ids.
    causal: whether the model is a decoder.
    max_length: tokens, special ones included; of a longer text the end is cut off.
    begin: ids before every text, of a decoder.
  """

  tokenizer: Tokenizer
  specials: Mapping[str, int]
  causal: bool
  max_length: int
  begin: tuple[int, ...] = ()

  def sequences(self, texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of every text; raises ConfigError for one that has no tokens."""
    rows = self.tokenizer.encode_batch(list(texts))
    for text, row in zip(texts, rows, strict=True):
      if not row:
        raise ConfigError(f"text {text[:40]!r}: has no tokens")
    if self.causal:
      return [[*self.begin, *row][: self.max_length] for row in rows]
    missing = [name for name in ("cls", "sep") if name not in self.specials]
    if missing:
      raise ConfigError(f"the model's tokenizer has no special token {missing[0]!r}, which an encoder reads")
    cls, sep = self.specials["cls"], self.specials["sep"]
    return [[cls, *row[: self.max_length - 2], sep] for row in rows]

  def inputs(self, sequences: Sequence[Sequence[int]]) -> Inputs:
    """Returns sequences padded to `max_length`, with the padding token or, where there is none, token 0."""
    tokens = np.full((len(sequences), self.max_length), self.specials.get("pad", 0), np.int32)
    for row, ids in zip(tokens, sequences, strict=True):
      row[: len(ids)] = ids
    return Inputs(tokens, np.array([len(ids) for ids in sequences], np.int32))


def common_length(sequences: Sequence[Sequence[int]], max_length: int) -> int:
  """Returns what all sequences are padded to: the longest's length, rounded up to a multiple of 8."""
  longest = max(len(ids) for ids in sequences)
  return min(max_length, -(-longest // MULTIPLE) * MULTIPLE)
