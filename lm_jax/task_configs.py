"""The configuration of tasks: the geometry of a sequence. How it is sampled is in lm_jax/tasks."""

import dataclasses
import math
from typing import ClassVar, Literal

from lm_jax import text_config
from lm_jax.strict import require, require_positive
from lm_jax.text_config import Text


@dataclasses.dataclass(frozen=True)
class RuleInduction:
  """Sequences of `attributes... label`; which attribute decides the label, and how, is hidden.

  K items of A attribute tokens and one label. Attribute i takes `num_values` values (token
  i * num_values + value), labels follow. The model predicts each label, having seen k = 0..K-1 items.
  """

  name: Literal["rule_induction"] = "rule_induction"
  num_items: int = 12
  num_attributes: int = 2
  num_values: int = 4
  num_labels: int = 4
  holdout: float = 0.0  # share of the value -> label maps kept for evaluation only
  loss: Literal["labels", "all"] = "labels"

  @property
  def vocab_size(self) -> int:
    return self.num_attributes * self.num_values + self.num_labels

  @property
  def sequence_length(self) -> int:
    return self.num_items * (self.num_attributes + 1) - 1

  @property
  def label_positions(self) -> tuple[int, ...]:
    stride = self.num_attributes + 1
    return tuple(k * stride + stride - 2 for k in range(self.num_items))


@dataclasses.dataclass(frozen=True)
class AssociativeRecall:
  """Multi-query associative recall (Arora et al., arXiv:2312.04927): key-value pairs, then queries.

  `num_keys` + `num_values` tokens; `num_pairs` distinct keys with values (repeats allowed), then every
  key once more as a query. "shuffled" asks in random order at once; "power_law" is the published task,
  where gaps before a key is asked follow a power law and filler tokens stand between.
  """

  name: Literal["associative_recall"] = "associative_recall"
  num_keys: int = 32
  num_values: int = 32
  num_pairs: int = 8
  layout: Literal["shuffled", "power_law"] = "shuffled"
  length: int | None = None  # tokens, power_law only
  power: float = 0.01  # power_law only

  @property
  def vocab_size(self) -> int:
    return self.num_keys + self.num_values

  @property
  def sequence_length(self) -> int:
    return 4 * self.num_pairs - 1 if self.layout == "shuffled" else self.length or 8 * self.num_pairs

  @property
  def label_positions(self) -> tuple[int, ...]:
    # In the power-law layout queries fall anywhere after the pairs; the others carry weight 0.
    stride = 2
    return tuple(range(2 * self.num_pairs, self.sequence_length, stride))


@dataclasses.dataclass(frozen=True)
class MarkovChain:
  """In-context Markov chains (Edelman et al., arXiv:2402.11004): a fresh transition matrix a sequence."""

  name: Literal["markov_chain"] = "markov_chain"
  num_symbols: int = 2
  length: int = 100  # symbols; the model sees all but the last
  concentration: float = 1.0  # Dirichlet parameter of every row

  @property
  def vocab_size(self) -> int:
    return self.num_symbols

  @property
  def sequence_length(self) -> int:
    return self.length - 1

  @property
  def label_positions(self) -> tuple[int, ...]:
    return tuple(range(self.sequence_length))


@dataclasses.dataclass(frozen=True)
class Arithmetic:
  """Few-shot multi-digit addition: `ddd+ddd=dddd;` repeated (cf. Schaeffer et al., arXiv:2304.15004)."""

  name: Literal["arithmetic"] = "arithmetic"
  num_digits: int = 2
  num_items: int = 6
  reverse_answer: bool = False  # least significant digit first, so that a carry is known when needed
  loss: Literal["labels", "all"] = "labels"

  @property
  def vocab_size(self) -> int:
    return 13  # ten digits, + = ;

  @property
  def item_length(self) -> int:
    return 3 * self.num_digits + 4

  @property
  def sequence_length(self) -> int:
    return self.num_items * self.item_length - 2

  @property
  def label_positions(self) -> tuple[int, ...]:
    equals = 2 * self.num_digits + 1
    return tuple(
      k * self.item_length + equals + i for k in range(self.num_items) for i in range(self.num_digits + 1)
    )


@dataclasses.dataclass(frozen=True)
class NoisyMajority:
  """The smooth control: noisy copies of a hidden symbol, noise graded over sequences.

  Each token is the hidden symbol with a probability drawn for the sequence, and uniform otherwise.
  Accuracy after k tokens averages over noise levels, so no scale or shot can bring a jump.
  """

  name: Literal["noisy_majority"] = "noisy_majority"
  num_symbols: int = 4
  length: int = 24
  num_levels: int = 16  # equally spaced signal levels between 0 and max_signal
  max_signal: float = 0.75

  @property
  def vocab_size(self) -> int:
    return self.num_symbols

  @property
  def sequence_length(self) -> int:
    return self.length

  @property
  def label_positions(self) -> tuple[int, ...]:
    return tuple(range(self.length))


@dataclasses.dataclass(frozen=True)
class KHop:
  """k-hop induction (Sanford et al., arXiv:2402.09268): an induction head's step, k times over.

  A number k of 0..max_hops, then letters, no two neighbors alike. A hop leads from a letter to the one after
  its last earlier occurrence. What is to be named at each letter is where k hops from it lead, or `~` where
  one of them leads nowhere. Published: strings of 100 of 4 letters, k up to 16.
  """

  name: Literal["khop"] = "khop"
  length: int = 32  # letters
  num_letters: int = 4
  max_hops: int = 4

  @property
  def vocab_size(self) -> int:
    return self.num_letters + 1 + self.max_hops + 1  # letters, ~, k

  @property
  def sequence_length(self) -> int:
    return self.length + 1

  @property
  def label_positions(self) -> tuple[int, ...]:
    return tuple(range(1, self.sequence_length))


@dataclasses.dataclass(frozen=True)
class Ginc:
  """GINC (Xie et al., arXiv:2111.02080): documents of a mixture of HMMs, prompts of examples of one.

  A concept is an HMM (tasks/hidden_markov.py). Documents are of one concept each. A prompt is examples of
  k = `example_length` tokens joined by a delimiter, and asks for the last token of each, after n = 0 to
  `max_shots` whole examples. Published: 5 concepts, 10 values, 10 slots, 50 to 150 symbols, transition
  temperature 0.1, k 3 to 10, n up to 64, 1,000 documents of 10,240 tokens, context 1,024.
  """

  DELIMITER: ClassVar = 0

  name: Literal["ginc"] = "ginc"
  num_symbols: int = 33  # tokens, of which one is the delimiter
  num_values: int = 4
  num_slots: int = 8
  num_concepts: int = 3
  example_length: int = 4
  max_shots: int = 16
  context_length: int | None = None  # tokens read; what the longest prompt takes
  num_documents: int = 1000
  document_length: int = 1024
  transition_temperature: float = 0.2
  start_temperature: float = 10.0
  persistence: float = 0.9  # probability of keeping a value, besides that of moving to itself
  concept_seed: int = 1  # of memory, concepts and documents

  @property
  def vocab_size(self) -> int:
    return self.num_symbols

  @property
  def loss(self) -> str:
    return "all"

  @property
  def prompt_length(self) -> int:
    return (self.max_shots + 1) * (self.example_length + 1) - 2  # its last answer is predicted, and not read

  @property
  def sequence_length(self) -> int:
    return self.context_length or self.prompt_length

  @property
  def label_positions(self) -> tuple[int, ...]:
    stride = self.example_length + 1
    return tuple(n * stride + self.example_length - 2 for n in range(self.max_shots + 1))


@dataclasses.dataclass(frozen=True)
class PythonStdlib:
  """Causal LM on the bytes of the Python standard library's own sources on this machine."""

  name: Literal["python_stdlib"] = "python_stdlib"
  context_length: int = 256  # bytes

  @property
  def vocab_size(self) -> int:
    return 256

  @property
  def sequence_length(self) -> int:
    return self.context_length

  @property
  def label_positions(self) -> tuple[int, ...]:
    return tuple(range(self.context_length))


def loss_positions(task: "TaskConfig") -> tuple[int, ...]:
  """Returns the positions at which training counts the loss: the labels, or all of them.

  Of a masked LM, whose positions are drawn (`Batch.positions`), these only say how many there are.
  """
  if getattr(task, "loss", "labels") == "all":
    return tuple(range(task.sequence_length))
  return task.label_positions


TaskConfig = (
  RuleInduction
  | AssociativeRecall
  | MarkovChain
  | Arithmetic
  | NoisyMajority
  | KHop
  | Ginc
  | PythonStdlib
  | Text
)


def objective(task: TaskConfig) -> str:
  """Returns what is predicted from what, as records name it."""
  return task.objective if isinstance(task, Text) else "causal_lm"


def resolve(t: TaskConfig) -> TaskConfig:
  """Fills what follows from other fields and checks the whole; raises ConfigError."""
  _check(t)
  if isinstance(t, AssociativeRecall) and t.layout == "power_law":
    return dataclasses.replace(t, length=t.sequence_length)
  return text_config.resolve(t) if isinstance(t, Text) else t


def _check(t: TaskConfig) -> None:
  path = "config.task"
  require_positive(
    t, path, [f.name for f in dataclasses.fields(t) if f.type is int or f.name in ("concentration", "length")]
  )
  if isinstance(t, RuleInduction):
    require(t.num_labels >= t.num_values, f"{path}.num_labels", t.num_labels,
             f"at least num_values={t.num_values}, since values map to distinct labels")  # fmt: skip
    require(0 <= t.holdout < 1, f"{path}.holdout", t.holdout, "in [0, 1)")
    num_maps = math.perm(t.num_labels, t.num_values)
    require(t.holdout == 0 or 2 <= num_maps <= 50_000, f"{path}.holdout", t.holdout,
             f"0 for {num_maps} value -> label maps: 2 to 50000 of them can be split")  # fmt: skip
  if isinstance(t, AssociativeRecall):
    require(t.num_pairs <= t.num_keys, f"{path}.num_pairs", t.num_pairs, f"at most num_keys={t.num_keys}")
    require(t.power > 0, f"{path}.power", t.power, "greater than 0")
    if t.layout == "shuffled":
      require(
        t.length is None, f"{path}.length", t.length, "none for layout=shuffled (it follows from num_pairs)"
      )
    else:
      require(t.sequence_length >= 4 * t.num_pairs, f"{path}.length", t.length,
               f"at least 4 num_pairs = {4 * t.num_pairs}")  # fmt: skip
      require(t.sequence_length % 2 == 0, f"{path}.length", t.length, "even")
  if isinstance(t, MarkovChain | NoisyMajority):
    require(t.num_symbols >= 2, f"{path}.num_symbols", t.num_symbols, "at least 2")
    require(t.length >= 2, f"{path}.length", t.length, "at least 2")
  if isinstance(t, NoisyMajority):
    require(0 < t.max_signal < 1, f"{path}.max_signal", t.max_signal, "in (0, 1)")
    require(t.num_levels >= 2, f"{path}.num_levels", t.num_levels, "at least 2, since the first is 0")
  if isinstance(t, KHop):
    require(t.num_letters >= 3, f"{path}.num_letters", t.num_letters, "at least 3, since neighbors differ")
    require(t.length >= t.max_hops + 2, f"{path}.length", t.length,
             f"at least max_hops + 2 = {t.max_hops + 2}, or no string has so many hops")  # fmt: skip
  if isinstance(t, Ginc):
    _check_ginc(t, path)


def _check_ginc(t: Ginc, path: str) -> None:
  for name in ("num_symbols", "num_values", "num_slots", "example_length"):
    require(getattr(t, name) >= 2, f"{path}.{name}", getattr(t, name), "at least 2")
  require_positive(t, path, ("transition_temperature", "start_temperature", "context_length"))
  require(0 <= t.persistence < 1, f"{path}.persistence", t.persistence, "in [0, 1)")
  require(t.sequence_length >= t.prompt_length, f"{path}.context_length", t.context_length,
           f"at least {t.prompt_length}, the tokens of a prompt with max_shots={t.max_shots}")  # fmt: skip
  require(t.document_length > t.sequence_length, f"{path}.document_length", t.document_length,
           f"more than the {t.sequence_length} tokens of a sequence")  # fmt: skip
