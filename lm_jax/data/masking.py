"""What a model reads and what it predicts, made from a piece of text: one sequence at a time, in numpy.

Every function is pure in its arguments and a `numpy.random.Generator`, and returns the fields of
`tasks.base.Batch` for one sequence of T tokens.
"""

import dataclasses

import numpy as np

from lm_jax.text_config import Spans

Sequence = dict[str, np.ndarray]

# What becomes of a token chosen for prediction (arXiv:1810.04805, section 3.1).
TO_MASK, TO_RANDOM = 0.8, 0.1


def next_tokens(window_S: np.ndarray) -> Sequence:
  """Returns the T = S - 1 tokens of a window and those that follow them; all are predicted."""
  window_S = window_S.astype(np.int32)
  return {"tokens": window_S[:-1], "targets": window_S[1:], "weights": np.ones(len(window_S) - 1, np.float32)}


def prefix(window_S: np.ndarray, rng: np.random.Generator) -> Sequence:
  """`next_tokens` after a prefix of 1 to T - 1 tokens, which see each other and are not predicted.

  The length of the prefix is uniform, as in arXiv:1910.10683, section 3.2.3.
  """
  sequence = next_tokens(window_S)
  T = len(sequence["tokens"])
  length = int(rng.integers(1, T))
  # The last token of the prefix predicts the first after it.
  sequence["weights"][: length - 1] = 0
  return sequence | {"prefix": np.arange(T) < length}


def corrupt_spans(
  text: np.ndarray, spans: Spans, first_sentinel: int, end: int, rng: np.random.Generator
) -> Sequence:
  """Returns text with spans replaced by sentinels, followed by each sentinel with what it replaced.

  The division into spans is uniform over all with the lengths of `spans`; text comes first, and spans are
  never next to each other. Sentinel i has the id first_sentinel + i.

  Args:
    text: integer [spans.text_length].
  """
  kept = _composition(spans.text_length - spans.num_noise, spans.count, rng)
  hidden = _composition(spans.num_noise, spans.count, rng)
  ends = np.cumsum(np.stack([kept, hidden], axis=1).reshape(-1))
  pieces = np.split(text.astype(np.int32), ends[:-1])
  sentinels = first_sentinel + np.arange(spans.count, dtype=np.int32)
  source = [part for piece, s in zip(pieces[::2], sentinels, strict=True) for part in (piece, [s])]
  target = [part for piece, s in zip(pieces[1::2], sentinels, strict=True) for part in ([s], piece)]
  sequence = next_tokens(np.concatenate([*source, *target, [end]]))
  position = np.arange(len(sequence["tokens"]))
  sequence["weights"] = (position >= spans.input_length - 1).astype(np.float32)
  return sequence | {"prefix": position < spans.input_length}


def _composition(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
  """Returns `parts` whole numbers above 0 with this total, uniform over all such."""
  cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
  return np.diff(np.concatenate([[0], cuts, [total]]))


@dataclasses.dataclass(frozen=True)
class Masker:
  """Hides tokens for a masked LM.

  Attributes:
    rate: share of the tokens of text that are predicted.
    count: P, predictions of a sequence at most.
    mask: id of the token that stands for a hidden one.
    special: bool [V], tokens that are never predicted nor drawn.
    word_starts: bool [V], tokens that begin a word: all tokens of a word are chosen, or none; None: each
      token by itself.
  """

  rate: float
  count: int
  mask: int
  special: np.ndarray
  word_starts: np.ndarray | None = None

  def __call__(self, tokens: np.ndarray, rng: np.random.Generator) -> Sequence:
    """Chooses tokens to predict, of which 80 % are masked, 10 % random and 10 % left as they are.

    The positions are ascending; where fewer than P are chosen the first ones are 0, with weight 0.
    """
    tokens = tokens.astype(np.int32)
    candidates = np.flatnonzero(~self.special[tokens])
    wanted = min(self.count, max(1, round(self.rate * len(candidates))))
    chosen = np.sort(self._choose(tokens, candidates, wanted, rng))
    weights = np.zeros(len(tokens), np.float32)
    weights[chosen] = 1
    positions = np.zeros(self.count, np.int32)
    positions[self.count - len(chosen) :] = chosen
    return {
      "tokens": self._hide(tokens, chosen, rng), "targets": tokens, "weights": weights, "positions": positions
    }  # fmt: skip

  def _choose(
    self, tokens: np.ndarray, candidates: np.ndarray, wanted: int, rng: np.random.Generator
  ) -> np.ndarray:
    if self.word_starts is None:
      return rng.permutation(candidates)[:wanted]
    # A word also begins after a gap: a special token stands between.
    begins = self.word_starts[tokens[candidates]] | (np.diff(candidates, prepend=-2) > 1)
    words = np.split(candidates, np.flatnonzero(begins)[1:] if len(candidates) else [])
    chosen: list[np.ndarray] = []
    for i in rng.permutation(len(words)):
      if len(words[i]) <= wanted:
        chosen.append(words[i])
        wanted -= len(words[i])
    return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)

  def _hide(self, tokens: np.ndarray, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    hidden, u = tokens.copy(), rng.random(len(chosen))
    hidden[chosen[u < TO_MASK]] = self.mask
    ordinary = np.flatnonzero(~self.special)
    drawn = chosen[(u >= TO_MASK) & (u < TO_MASK + TO_RANDOM)]
    hidden[drawn] = ordinary[rng.integers(0, len(ordinary), len(drawn))]
    return hidden
