"""What a model must offer to be evaluated on text: log-likelihoods of continuations and of whole texts.

Requests are tokenized as lm-evaluation-harness does (Gao et al., arXiv:2405.14782): spaces at the end of a
context go to the continuation, both are encoded as one text, and what follows the tokens of the context
alone is the continuation.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from lm_jax import kernels
from lm_jax.model import Transformer
from lm_jax.model_config import ModelConfig
from lm_jax.strict import ConfigError
from lm_jax.tokenizers import Tokenizer

MIN_LENGTH = 16  # tokens
FEW_PREDICTIONS = (1, 8)  # in a row: a masked token, an answer
# Of one dispatch.
MAX_ROWS, MAX_TOKENS, MAX_LOGITS = 64, 2**13, 2**26


@dataclasses.dataclass(frozen=True)
class Likelihood:
  """Of a continuation, or of a text.

  Attributes:
    log_p: sum over its tokens of log p(token | what is before, or around), nats.
    num_tokens: how many these are.
    is_greedy: whether each of them is the most likely one of the vocabulary.
  """

  log_p: float
  num_tokens: int
  is_greedy: bool


class Scorer(Protocol):
  def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> list[Likelihood]:
    """Returns the likelihood of every (context, continuation), in their order.

    Raises:
      ConfigError: for a continuation that is empty, or longer than the model's context length. Contexts are
        cut on the left to what fits.
    """
    ...

  def loglikelihood_rolling(self, texts: Sequence[str]) -> list[Likelihood]:
    """Returns the likelihood of every text, of any length: each token is predicted once."""
    ...


class CausalScorer:
  """Scores by a causal LM. An empty context, and the beginning of a text, is the `end` token."""

  def __init__(self, config: ModelConfig, params: Any, tokenizer: Tokenizer, specials: dict[str, int]):
    """Takes a resolved config and text_config.special_ids, which may be beyond the tokenizer's own."""
    self._tokenizer, self._length = tokenizer, config.context_length
    (self._end,) = _required(specials, ("end",))
    self._score = _RowScorer(config, params)

  def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> list[Likelihood]:
    rows = []
    for (context, tokens), (_, text) in zip(encode_pairs(self._tokenizer, requests), requests, strict=True):
      _check_fits(text, tokens, self._length)
      rows.append(self._row(context or [self._end], tokens))
    return [_likelihood([row]) for row in self._score(rows)]

  def loglikelihood_rolling(self, texts: Sequence[str]) -> list[Likelihood]:
    rows, owners, T = [], [], self._length
    for owner, tokens in enumerate(self._tokenizer.encode_batch(texts)):
      for start in range(0, len(tokens), T):
        # The last window is as long as the others: what it does not predict is its context.
        before = tokens[start - T : start] if start else [self._end]
        rows.append(self._row(before, tokens[start : start + T]))
        owners.append(owner)
    return _gather(self._score(rows), owners, len(texts))

  def _row(self, context: list[int], tokens: list[int]) -> "_Row":
    read = [*context[-(self._length + 1 - len(tokens)) :], *tokens[:-1]]
    return _Row(tuple(read), len(read) - len(tokens), tuple(tokens))


class PseudoScorer:
  """Scores by a masked LM: pseudo-log-likelihood (Salazar et al., arXiv:1910.14659, equation 2).

  Of [CLS] context continuation [SEP], each token of the continuation is masked in turn and predicted from
  all others, those of the continuation after it too. Not a probability of the text, and to be compared only
  among scores of its kind.
  """

  def __init__(self, config: ModelConfig, params: Any, tokenizer: Tokenizer, specials: dict[str, int]):
    """Takes a resolved config and text_config.special_ids, which may be beyond the tokenizer's own."""
    self._tokenizer, self._length = tokenizer, config.context_length - 2
    self._cls, self._sep, self._mask = _required(specials, ("cls", "sep", "mask"))
    self._score = _RowScorer(config, params)

  def loglikelihood(self, requests: Sequence[tuple[str, str]]) -> list[Likelihood]:
    rows, owners = [], []
    for owner, (context, tokens) in enumerate(encode_pairs(self._tokenizer, requests)):
      _check_fits(requests[owner][1], tokens, self._length)
      rows += self._rows(context, tokens)
      owners += [owner] * len(tokens)
    return _gather(self._score(rows), owners, len(requests))

  def loglikelihood_rolling(self, texts: Sequence[str]) -> list[Likelihood]:
    rows, owners, T = [], [], self._length
    for owner, tokens in enumerate(self._tokenizer.encode_batch(texts)):
      for start in range(0, len(tokens), T):
        part = tokens[start : start + T]
        rows += self._rows(tokens[max(0, start - T) : start], part)
        owners += [owner] * len(part)
    return _gather(self._score(rows), owners, len(texts))

  def _rows(self, context: list[int], tokens: list[int]) -> list["_Row"]:
    room = self._length - len(tokens)
    context = context[-room:] if room else []
    whole, first = [self._cls, *context, *tokens, self._sep], 1 + len(context)
    return [
      _Row((*whole[:i], self._mask, *whole[i + 1 :]), i, (whole[i],))
      for i in range(first, first + len(tokens))
    ]


def encode_pairs(
  tokenizer: Tokenizer, requests: Sequence[tuple[str, str]]
) -> list[tuple[list[int], list[int]]]:
  """Returns (context, continuation) tokens of every (context, continuation) text."""
  contexts = [context.rstrip() for context, _ in requests]
  wholes = tokenizer.encode_batch([context + continuation for context, continuation in requests])
  pairs = []
  for request, start, whole in zip(requests, tokenizer.encode_batch(contexts), wholes, strict=True):
    if len(whole) <= len(start):
      raise ConfigError(
        f"continuation {request[1]!r}: has no token of its own after a context that ends {request[0][-20:]!r}"
      )
    pairs.append((whole[: len(start)], whole[len(start) :]))
  return pairs


def _required(specials: dict[str, int], names: tuple[str, ...]) -> list[int]:
  missing = [name for name in names if name not in specials]
  if missing:
    raise ConfigError(f"special tokens {sorted(specials)}: must have {', '.join(missing)} to score text")
  return [specials[name] for name in names]


def _check_fits(text: str, tokens: list[int], most: int) -> None:
  if len(tokens) > most:
    raise ConfigError(f"continuation {text[:40]!r}...: has {len(tokens)} tokens, the model takes {most}")


@dataclasses.dataclass(frozen=True)
class _Row:
  """Tokens to read, and at how many consecutive positions, from the `first`, which token is expected."""

  tokens: tuple[int, ...]
  first: int
  targets: tuple[int, ...]


# log p and whether it is the most likely one, of each target of a row.
_Scored = tuple[np.ndarray, np.ndarray]


def _likelihood(rows: Iterable[_Scored]) -> Likelihood:
  log_p, greedy = (np.concatenate(parts) for parts in zip(*rows, strict=True))
  return Likelihood(float(log_p.sum(dtype=np.float64)), len(log_p), bool(greedy.all()))


def _gather(rows: Sequence[_Scored], owners: Sequence[int], count: int) -> list[Likelihood]:
  """Returns the likelihood of every owner of rows; nothing (no token) is certain."""
  of_owner: list[list[_Scored]] = [[] for _ in range(count)]
  for owner, row in zip(owners, rows, strict=True):
    of_owner[owner].append(row)
  return [_likelihood(of) if of else Likelihood(0.0, 0, True) for of in of_owner]


class _RowScorer:
  """Runs rows in batches of few shapes, each with a program of its own.

  A row's shape is its length, rounded up to a power of two, and 1, 8, or as many predictions as tokens. It
  does not depend on other rows, and so neither do a row's numbers.
  """

  def __init__(self, config: ModelConfig, params: Any):
    self._config, self._params = config, params

  def __call__(self, rows: Sequence[_Row]) -> list[_Scored]:
    shapes = [self._shape(row) for row in rows]
    results: list[_Scored | None] = [None] * len(rows)
    # Largest first: what does not fit in memory fails at once, and not at the end.
    for T, P in sorted(set(shapes), reverse=True):
      same, size = [i for i, shape in enumerate(shapes) if shape == (T, P)], self._num_rows(T, P)
      for start in range(0, len(same), size):
        part = same[start : start + size]
        for i, scored in zip(part, self._run([rows[i] for i in part], T, P), strict=True):
          results[i] = scored
    return results

  def _shape(self, row: _Row) -> tuple[int, int]:
    T = min(max(MIN_LENGTH, 1 << (len(row.tokens) - 1).bit_length()), self._config.context_length)
    P = next((P for P in FEW_PREDICTIONS if len(row.targets) <= P), T)
    return T, min(P, T)

  def _num_rows(self, T: int, P: int) -> int:
    return max(1, min(MAX_ROWS, MAX_TOKENS // T, MAX_LOGITS // (P * self._config.vocab_size)))

  def _run(self, rows: Sequence[_Row], T: int, P: int) -> list[_Scored]:
    B = self._num_rows(T, P)
    tokens_BT, documents_BT = np.zeros((2, B, T), np.int32)
    positions_BP, targets_BP = np.zeros((2, B, P), np.int32)
    for b, row in enumerate(rows):
      n = len(row.targets)
      tokens_BT[b, : len(row.tokens)], documents_BT[b, : len(row.tokens)] = row.tokens, 1
      positions_BP[b, :n], targets_BP[b, :n] = range(row.first, row.first + n), row.targets
    # No token of a causal model sees what is after it, so padding there needs no mask.
    documents = None if self._config.causal else documents_BT
    scores = _score(self._config, self._params, tokens_BT, documents, positions_BP, targets_BP)
    log_p_BP, greedy_BP = map(np.asarray, scores)
    return [(log_p_BP[b, : len(row.targets)], greedy_BP[b, : len(row.targets)]) for b, row in enumerate(rows)]


@functools.partial(jax.jit, static_argnums=0)
def _score(
  config: ModelConfig,
  params: Any,
  tokens_BT: jax.Array,
  documents_BT: jax.Array | None,
  positions_BP: jax.Array,
  targets_BP: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns log p of targets in nats, and whether they are the most likely tokens, both [B, P]."""
  where = {"documents_BT": documents_BT, "positions_BP": positions_BP}
  logits_BPV = Transformer(config).apply({"params": params}, tokens_BT, **where)
  return -kernels.token_nll(logits_BPV, targets_BP), logits_BPV.argmax(-1) == targets_BP
