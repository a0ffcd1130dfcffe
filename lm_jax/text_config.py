"""The configuration of text: corpora, tokenizer, objective and packing, and what follows from them.

The sequence that a model reads has T = context_length tokens:

    causal_lm          T + 1 tokens of text; every one but the first is predicted
    prefix_lm          the same; the first ones, a random number, see each other and are not predicted
    span_corruption    text with spans replaced by sentinels, then the sentinels each with its span; the first
                       part sees itself whole, the second is predicted (arXiv:1910.10683, section 3.1.4; as
                       one sequence for a decoder, arXiv:2205.05131)
    masked_lm          [CLS] text [SEP], some tokens hidden and predicted (arXiv:1810.04805, section 3.1)
    masked_lm_nsp      [CLS] A [SEP] B [SEP], and whether B followed A in the document
"""

import dataclasses
from typing import Any, Literal

from lm_jax.model_config import ModelConfig
from lm_jax.strict import ConfigError, require

Objective = Literal["causal_lm", "prefix_lm", "span_corruption", "masked_lm", "masked_lm_nsp"]

# The special tokens that an objective writes. A tokenizer that lacks one gets it after its vocabulary.
NEEDS: dict[str, tuple[str, ...]] = {
  "causal_lm": ("end",), "prefix_lm": ("end",), "span_corruption": ("end",),
  "masked_lm": ("cls", "sep", "mask"), "masked_lm_nsp": ("cls", "sep", "mask"),
}  # fmt: skip
# Those that a trained tokenizer of a kind has itself, at its first ids, in this order.
NATIVE: dict[str, tuple[str, ...]] = {
  "bytes": (), "bpe": ("end",), "wordpiece": ("pad", "unk", "cls", "sep", "mask"),
}  # fmt: skip
# Tokens for bytes. WordPiece has them twice, at the beginning of a word and inside one.
BYTE_TOKENS = {"bytes": 256, "bpe": 256, "wordpiece": 512}


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
  """How text becomes tokens. `bpe` and `wordpiece` are trained on the corpora; both know every byte."""

  kind: Literal["bytes", "bpe", "wordpiece", "file"] = "bytes"
  vocab_size: int | None = None  # to train, special tokens included; else the tokenizer's own
  path: str | None = None  # file: tokenizer.json, a SentencePiece .model, a folder of GPT-2's or BERT's files
  specials: tuple[str, ...] | None = None  # those it has itself; follows
  digest: str | None = None  # file: of its content, which is its identity, and not its path; follows


@dataclasses.dataclass(frozen=True)
class Text:
  """Self-supervised language modeling on corpora.

  A corpus is a file or folder of .txt, .md, .py, .jsonl or .parquet, "tfds:NAME", "python_stdlib", or the
  name of a folder in $LM_JAX_SHARED/data/corpora (default: ../shared); several are mixed.
  """

  name: Literal["text"] = "text"
  corpus: tuple[str, ...] = ("python_stdlib",)
  weights: tuple[float, ...] | None = None  # of several corpora; in proportion to their tokens
  text_field: str = "text"  # of .jsonl, .parquet and TFDS
  tokenizer: TokenizerConfig = TokenizerConfig()
  objective: Objective = "causal_lm"
  context_length: int = 256  # T, tokens
  # stream: documents one after another, cut every T tokens. documents: whole ones, as many as fit.
  # pad: one document a sequence; what is longer is cut into several.
  packing: Literal["stream", "documents", "pad"] = "stream"
  attend_across: bool = True  # stream, documents: whether tokens see earlier documents of their sequence
  mask_rate: float = 0.15  # share of the tokens that masked LM and span corruption hide
  whole_words: bool = False  # masked LM: all tokens of a word or none
  mean_span: float = 3.0  # span corruption: tokens

  @property
  def is_masked(self) -> bool:
    return self.objective in ("masked_lm", "masked_lm_nsp")

  @property
  def missing_specials(self) -> tuple[str, ...]:
    """The special tokens that are appended to the tokenizer's vocabulary, in order."""
    there = self.tokenizer.specials or NATIVE.get(self.tokenizer.kind, ())
    return tuple(name for name in NEEDS[self.objective] if name not in there)

  @property
  def spans(self) -> "Spans | None":
    """The geometry of span corruption."""
    if self.objective != "span_corruption":
      return None
    return span_geometry(self.context_length, self.mask_rate, self.mean_span)

  @property
  def num_sentinels(self) -> int:
    return self.spans.count if self.spans else 0

  @property
  def vocab_size(self) -> int:
    """The tokenizer's vocabulary, then missing special tokens, then sentinels."""
    return self.tokenizer.vocab_size + len(self.missing_specials) + self.num_sentinels

  @property
  def sequence_length(self) -> int:
    return self.context_length

  @property
  def num_predictions(self) -> int:
    """Predictions of a masked LM in a sequence, at most; a full sequence has so many."""
    return max(1, round(self.mask_rate * self.context_length))

  @property
  def label_positions(self) -> tuple[int, ...]:
    T = self.context_length
    if self.is_masked:  # drawn; these only say how many
      return tuple(range(self.num_predictions))
    return tuple(range(T - self.spans.target_length, T)) if self.spans else tuple(range(T))


@dataclasses.dataclass(frozen=True)
class Spans:
  """Lengths of span corruption, the same for every sequence.

  Attributes:
    text_length: tokens of text.
    num_noise: how many of them are hidden.
    count: spans they are in, and sentinels.
  """

  text_length: int
  num_noise: int
  count: int

  @property
  def input_length(self) -> int:
    """What is left of the text, with a sentinel for every span."""
    return self.text_length - self.num_noise + self.count

  @property
  def target_length(self) -> int:
    """Sentinels, hidden tokens, and the end."""
    return self.num_noise + self.count + 1


def span_geometry(context_length: int, mask_rate: float, mean_span: float) -> Spans:
  """Returns the text whose corrupted form and targets are context_length + 1 tokens together.

  c spans cost 2 c + 1 tokens more than the text has; c is what comes nearest to spans of `mean_span`.
  """
  fitting = []
  for count in range(1, context_length // 4 + 1):
    length = context_length - 2 * count
    noise = max(count, round(mask_rate * length))
    if length - noise >= count:
      fitting.append(Spans(length, noise, count))
  return min(fitting, key=lambda s: abs(s.num_noise / mean_span - s.count))


def resolve(t: Text) -> Text:
  """Fills what follows from the tokenizer and checks the whole; raises ConfigError."""
  path = "config.task"
  require(len(t.corpus) > 0, f"{path}.corpus", list(t.corpus), "at least one corpus")
  require(len(set(t.corpus)) == len(t.corpus), f"{path}.corpus", list(t.corpus), "different corpora")
  if t.weights is not None:
    require(len(t.weights) == len(t.corpus), f"{path}.weights", list(t.weights),
            f"one a corpus, of which there are {len(t.corpus)}")  # fmt: skip
    require(all(w > 0 for w in t.weights), f"{path}.weights", list(t.weights), "greater than 0")
  require(t.context_length >= 8, f"{path}.context_length", t.context_length, "at least 8")
  require(0 < t.mask_rate < 1, f"{path}.mask_rate", t.mask_rate, "in (0, 1)")
  require(t.mean_span >= 1, f"{path}.mean_span", t.mean_span, "at least 1")
  lays_out_itself = t.objective in ("masked_lm_nsp", "span_corruption")
  for name, only in (("packing", "stream"), ("attend_across", True)):
    value = getattr(t, name)
    require(not lays_out_itself or value == only, f"{path}.{name}", value,
            f"{str(only).lower()} for objective={t.objective}")  # fmt: skip
  require(not t.whole_words or t.is_masked, f"{path}.whole_words", t.whole_words,
          f"false for objective={t.objective}")  # fmt: skip
  return dataclasses.replace(t, tokenizer=resolve_tokenizer(t.tokenizer))


def resolve_tokenizer(t: TokenizerConfig, path: str = "config.task.tokenizer") -> TokenizerConfig:
  """Fills the size of the vocabulary and the special tokens that a tokenizer has; raises ConfigError."""
  if t.kind == "file":
    require(bool(t.path), f"{path}.path", t.path, "given for kind=file")
    if t.digest is not None:  # resolved before, maybe where the file was
      return t
    from lm_jax import tokenizers  # pays for its library only where it is used

    loaded = tokenizers.load(t.path)
    found: dict[str, Any] = {
      "vocab_size": loaded.vocab_size,
      "specials": tuple(loaded.specials),
      "digest": loaded.digest,
    }
    return dataclasses.replace(t, **found)
  require(t.path is None, f"{path}.path", t.path, f"none for kind={t.kind}")
  least = len(NATIVE[t.kind]) + BYTE_TOKENS[t.kind]
  if t.kind == "bytes":
    require(t.vocab_size in (None, 256), f"{path}.vocab_size", t.vocab_size, "256, or none, for kind=bytes")
  else:
    require(t.vocab_size is not None, f"{path}.vocab_size", t.vocab_size, f"given for kind={t.kind}")
    require(t.vocab_size >= least, f"{path}.vocab_size", t.vocab_size,
            f"at least {least}: {BYTE_TOKENS[t.kind]} for bytes, {len(NATIVE[t.kind])} special")  # fmt: skip
  return dataclasses.replace(t, vocab_size=t.vocab_size or 256, specials=NATIVE[t.kind])


def check_model(t: Text, m: ModelConfig) -> None:
  """Checks that a model can be trained by an objective; raises ConfigError."""
  path = "config.model"
  require(m.causal != t.is_masked, f"{path}.causal", m.causal,
          f"{str(not t.is_masked).lower()} for task.objective={t.objective}")  # fmt: skip
  if t.objective == "masked_lm_nsp":
    for name, least in (("num_segments", 2), ("next_sentence_head", True)):
      value = getattr(m, name)
      require(value >= least, f"{path}.{name}", value,
              f"{str(least).lower()} for task.objective=masked_lm_nsp (as in model.preset=bert)")  # fmt: skip


def special_ids(t: Text, own: dict[str, int]) -> dict[str, int]:
  """Returns the ids of all special tokens of a task: the tokenizer's own, then those that it lacked.

  Args:
    own: the tokenizer's.
  """
  first = t.tokenizer.vocab_size
  return own | {name: first + i for i, name in enumerate(t.missing_specials)}


def identity(t: Text) -> dict[str, Any]:
  """Returns what of a text task decides its numbers, as fields to replace: names of corpora, no paths."""
  names = tuple(name.rstrip("/").rsplit("/", 1)[-1] for name in t.corpus)
  if len(set(names)) < len(names):
    raise ConfigError(f"config.task.corpus={list(t.corpus)!r}: must differ in their last names")
  read = {
    "weights": len(t.corpus) > 1, "attend_across": t.packing != "pad", "mean_span": t.spans is not None,
    "mask_rate": t.is_masked or t.spans is not None,
  }  # fmt: skip
  unread = {name: getattr(Text, name) for name, is_read in read.items() if not is_read}
  # What follows from the kind of tokenizer is not said again.
  derived: dict[str, Any] = {"path": None, "specials": None}
  if t.tokenizer.kind == "bytes":
    derived["vocab_size"] = None
  return unread | {"corpus": names, "tokenizer": dataclasses.replace(t.tokenizer, **derived)}
