"""Sequences of a text config: which parts of which streams they are, and how each is made.

See `text_config` for what a model reads under each objective. Streams hold documents one after another,
each followed by a separator: `end` for objectives that read on, `sep` for masked ones. Read as a
beginning, `end` belongs to the document after it: the first token of a document is predicted from it.
"""

from collections.abc import Sequence

import grain
import numpy as np

from lm_jax.data import packing, pipeline, sentences
from lm_jax.data.masking import Masker, corrupt_spans, next_tokens, prefix
from lm_jax.data.token_store import TokenStore
from lm_jax.strict import ConfigError
from lm_jax.text_config import Text

Fields = dict[str, np.ndarray]


def separator(config: Text) -> str:
  """Returns the special token that stands between documents in a stream."""
  return "sep" if config.is_masked else "end"


class Sequences:
  """Makes the sequences of one text config from its streams.

  Args:
    streams: of one split of every corpus.
    ids: all special tokens (`text_config.special_ids`).
    pieces: text of every token of the tokenizer.
    word_starts: bool, the tokenizer's tokens that begin a word.
  """

  def __init__(
    self,
    config: Text,
    streams: Sequence[TokenStore],
    ids: dict[str, int],
    pieces: Sequence[str],
    word_starts: np.ndarray,
  ):
    self._config, self._ids = config, ids
    self._masker = _masker(config, ids, word_starts) if config.is_masked else None
    self.sources = [self._source(stream, list(pieces)) for stream in streams]
    self._weights = config.weights or [len(stream.tokens) for stream in streams]

  def dataset(self, seed: int) -> grain.MapDataset:
    """Returns sequences without end, a function of (seed, index)."""
    return pipeline.endless(self.sources, self._weights, self._make, seed)

  # --- sources --------------------------------------------------------------------------------

  def _source(self, stream: TokenStore, pieces: list[str]) -> "pipeline.Source":
    c, T = self._config, self._config.context_length
    if c.objective == "masked_lm_nsp":
      # The table covers the ids of the tokenizer; special tokens have no text.
      pieces = pieces + [""] * (c.vocab_size - len(pieces))
      found = sentences.sentence_starts(stream.tokens, stream.starts, pieces)
      return _not_empty(sentences.Pairs(stream.tokens, stream.starts, found, T - 3), c, stream)
    if c.packing == "stream":
      length = c.spans.text_length if c.spans else T - 2 if c.is_masked else T
      return _not_empty(_Windows(stream.tokens, length, 0 if c.is_masked or c.spans else 1), c, stream)
    # Of masked sequences every document is bracketed anew, without the separator behind it.
    most, overhead = (T - 2, 2) if c.is_masked else (T, 0)
    documents = stream.starts[:-1], stream.starts[1:] - (1 if c.is_masked else 0)
    if c.packing == "pad":
      return _Stretches(stream.tokens, packing.one_a_row(*documents, most))
    return _Stretches(stream.tokens, packing.best_fit(*documents, most, T, overhead))

  # --- one sequence ---------------------------------------------------------------------------

  def _make(self, element: tuple, rng: np.random.Generator) -> Fields:
    c, (source, item) = self._config, element
    if isinstance(source, sentences.Pairs):
      return self._pair(*source.draw(item, rng), rng)
    if isinstance(source, _Stretches):
      return self._row(source, item, rng)
    window = source.tokens[item : item + source.length + source.after]
    if c.spans:
      first_sentinel = c.vocab_size - c.num_sentinels
      return corrupt_spans(window, c.spans, first_sentinel, self._ids["end"], rng)
    if c.is_masked:
      tokens = self._wrapped(window)
      documents = np.cumsum(tokens[:-1] == self._ids["sep"])
      return self._masker(tokens, rng) | self._apart(np.concatenate([[0], documents]))
    sequence = prefix(window, rng) if c.objective == "prefix_lm" else next_tokens(window)
    return sequence | self._apart(np.cumsum(sequence["tokens"] == self._ids["end"]))

  def _apart(self, documents: np.ndarray) -> Fields:
    """Returns the documents of a row without padding, where tokens must not see other ones."""
    return {} if self._config.attend_across else {"documents": documents.astype(np.int32) + 1}

  def _row(self, source: "_Stretches", row: int, rng: np.random.Generator) -> Fields:
    """Returns stretches one after another, and padding as document 0."""
    c, T = self._config, self._config.context_length
    parts = [self._part(source.tokens, *stretch) for stretch in source.rows[row]]
    lengths = [len(tokens) for tokens, _ in parts]
    used = sum(lengths)
    tokens, targets = (
      np.concatenate([*side, np.zeros(T - used)]).astype(np.int32) for side in zip(*parts, strict=True)
    )
    which = np.ones(len(parts)) if c.attend_across else np.arange(1, len(parts) + 1)
    documents = np.concatenate([np.repeat(which, lengths), np.zeros(T - used)]).astype(np.int32)
    if c.is_masked:
      sequence = self._masker(np.where(documents > 0, tokens, self._ids["sep"]), rng)
    else:
      sequence = {"tokens": tokens, "targets": targets, "weights": (documents > 0).astype(np.float32)}
    if c.objective == "prefix_lm" and used > 1:
      length = int(rng.integers(1, used))
      sequence["weights"][: length - 1] = 0
      sequence["prefix"] = np.arange(T) < length
    elif c.objective == "prefix_lm":
      sequence["prefix"] = np.zeros(T, bool)
    return sequence | {"documents": documents}

  def _part(self, tokens: np.ndarray, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns what is read of a stretch and what is predicted: (tokens, targets)."""
    if self._config.is_masked:
      wrapped = self._wrapped(tokens[start:end])
      return wrapped, wrapped
    before = tokens[start - 1 : start] if start else np.array([self._ids["end"]])
    return np.concatenate([before, tokens[start : end - 1]]), tokens[start:end]

  def _wrapped(self, text: np.ndarray) -> np.ndarray:
    return np.concatenate([[self._ids["cls"]], text, [self._ids["sep"]]]).astype(np.int32)

  def _pair(self, a: np.ndarray, b: np.ndarray, follows: bool, rng: np.random.Generator) -> Fields:
    T, sep = self._config.context_length, self._ids["sep"]
    first, second = self._wrapped(a), np.concatenate([b, [sep]])
    used = len(first) + len(second)
    segments = np.concatenate([np.zeros(len(first)), np.ones(len(second)), np.zeros(T - used)])
    sequence = self._masker(np.concatenate([first, second, np.full(T - used, sep)]), rng)
    return sequence | {
      "segments": segments.astype(np.int32), "documents": (np.arange(T) < used).astype(np.int32),
      "next_sentence": np.int32(follows),
    }  # fmt: skip


class _Windows:
  """Stretches of `length` tokens, one after another, with `after` tokens of the next one."""

  def __init__(self, tokens: np.ndarray, length: int, after: int):
    self.tokens, self.length, self.after = tokens, length, after

  def __len__(self) -> int:
    return max(0, (len(self.tokens) - self.after) // self.length)

  def __getitem__(self, i: int) -> tuple["_Windows", int]:
    return self, i * self.length


class _Stretches:
  """Rows of whole documents, or of parts of long ones."""

  def __init__(self, tokens: np.ndarray, rows: packing.Rows):
    self.tokens, self.rows = tokens, rows

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, i: int) -> tuple["_Stretches", int]:
    return self, i


def _masker(config: Text, ids: dict[str, int], word_starts: np.ndarray) -> Masker:
  special = np.zeros(config.vocab_size, bool)
  special[list(ids.values())] = True
  special[config.tokenizer.vocab_size :] = True
  starts = np.ones(config.vocab_size, bool)
  starts[: len(word_starts)] = word_starts
  return Masker(
    config.mask_rate, config.num_predictions, ids["mask"], special, starts if config.whole_words else None
  )


def _not_empty(source: "pipeline.Source", config: Text, stream: TokenStore) -> "pipeline.Source":
  least = 4 * config.context_length if isinstance(source, sentences.Pairs) else 1
  if len(source) == 0 or len(stream.tokens) < least:
    raise ConfigError(
      f"config.task.context_length={config.context_length}: must be smaller for a corpus with a split of "
      f"{len(stream.tokens)} tokens"
    )
  return source
