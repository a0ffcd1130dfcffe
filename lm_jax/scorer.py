"""What a model must offer to be evaluated on text: log-likelihoods of continuations and of whole texts.

Requests are tokenized as lm-evaluation-harness does (Gao et al., arXiv:2405.14782): spaces at the end of a
context go to the continuation, both are encoded as one text, and what follows the tokens of the context
alone is the continuation.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from lm_jax.model_config import ModelConfig
from lm_jax.row_scorer import RowScorer, Scored
from lm_jax.shared_prefixes import Row
from lm_jax.strict import ConfigError, require
from lm_jax.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Likelihood:
  """Of a continuation, or of a text.

  Attributes:
    log_p: sum over its tokens of log p(token | what is before, or around), nats.
    num_tokens: how many these are.
    is_greedy: whether each of them is the most likely one of the vocabulary.
    cut: tokens of the context that the model has no room for, the first ones.
  """

  log_p: float
  num_tokens: int
  is_greedy: bool
  cut: int = 0


Progress = Callable[[int], None]  # takes how many requests more are done


class Scorer(Protocol):
  def loglikelihood(
    self, requests: Sequence[tuple[str, str]], progress: Progress | None = None
  ) -> list[Likelihood]:
    """Returns the likelihood of every (context, continuation), in their order.

    Raises:
      ConfigError: for a continuation that is empty, or longer than the model's context length. Contexts are
        cut on the left to what fits, see `Likelihood.cut`.
    """
    ...

  def loglikelihood_rolling(self, texts: Sequence[str]) -> list[Likelihood]:
    """Returns the likelihood of every text, of any length: each token is predicted once."""
    ...


class CausalScorer:
  """Scores by a causal LM.

  Texts begin with the tokens `begin`. Where there are none of these, an empty context and the beginning of a
  text are the `end` token. What contexts have in common is read once (lm_jax/shared_prefixes.py).
  """

  def __init__(
    self,
    config: ModelConfig,
    params: Any,
    tokenizer: Tokenizer | None,
    specials: dict[str, int],
    begin: Sequence[int] = (),
    length: int | None = None,
  ):
    """Takes a resolved config and text_config.special_ids, which may be beyond the tokenizer's own.

    Args:
      tokenizer: None will do for `loglikelihood_tokens`.
      length: tokens that are read at most; default: the model's context length.
    """
    most = config.context_length
    require(length is None or 0 < length <= most, "length", length, f"from 1 to the model's {most}")
    require(config.lm_head, "config.model.lm_head", config.lm_head, "true to score text")
    self._tokenizer, self._length = tokenizer, length or most
    self._begin, self._specials = list(begin), specials
    self._score = RowScorer(config, params)

  def loglikelihood(
    self, requests: Sequence[tuple[str, str]], progress: Progress | None = None
  ) -> list[Likelihood]:
    pairs = encode_pairs(_given(self._tokenizer), requests)
    for (_, tokens), (_, text) in zip(pairs, requests, strict=True):
      _check_fits(text, tokens, self._length)
    return self.loglikelihood_tokens(
      [([*self._begin, *context] or self._start(), tokens) for context, tokens in pairs], progress
    )

  def _start(self) -> list[int]:
    """Returns what is before a text; raises ConfigError for a model that has no such token."""
    return self._begin or _required(self._specials, ("end",))

  def loglikelihood_tokens(
    self, requests: Sequence[tuple[Sequence[int], Sequence[int]]], progress: Progress | None = None
  ) -> list[Likelihood]:
    """Returns the likelihood of every (context, continuation) of tokens, in their order.

    Raises:
      ConfigError: for a context or a continuation that is empty, or a continuation longer than `length`.
        Contexts are cut on the left to what fits, see `Likelihood.cut`.
    """
    rows, cut = [], []
    for context, tokens in requests:
      require(len(context) > 0, "context", context, "at least one token")
      require(len(tokens) > 0, "continuation", tokens, "at least one token")
      _check_fits(str(list(tokens)), tokens, self._length)
      room = self._length + 1 - len(tokens)
      cut.append(max(0, len(context) - room))
      rows.append(Row((*context[-room:], *tokens[:-1]), min(room, len(context)) - 1, tuple(tokens)))
    scored = self._score(rows, progress and (lambda _: progress(1)))
    return [dataclasses.replace(_likelihood([one]), cut=n) for one, n in zip(scored, cut, strict=True)]

  def loglikelihood_rolling(self, texts: Sequence[str]) -> list[Likelihood]:
    wholes = _given(self._tokenizer).encode_batch(texts)
    return self.loglikelihood_rolling_tokens(wholes, self._start())

  def loglikelihood_rolling_tokens(
    self, texts: Sequence[Sequence[int]], start: Sequence[int]
  ) -> list[Likelihood]:
    """Returns the likelihood of every text of tokens, of any length: each token is predicted once.

    Args:
      start: what is before a text, not predicted.
    """
    rows, owners, T = [], [], self._length
    for owner, text in enumerate(texts):
      for first in range(0, len(text), T):
        part = text[first : first + T]
        # The last window is as long as the others: what it does not predict is its context.
        before = [*start, *text[:first]][-(T + 1 - len(part)) :]
        rows.append(Row((*before, *part[:-1]), len(before) - 1, tuple(part)))
        owners.append(owner)
    return _gather(self._score(rows), owners, len(texts))


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
    self._score = RowScorer(config, params)

  def loglikelihood(
    self, requests: Sequence[tuple[str, str]], progress: Progress | None = None
  ) -> list[Likelihood]:
    rows, owners, cut = [], [], []
    for owner, (context, tokens) in enumerate(encode_pairs(self._tokenizer, requests)):
      _check_fits(requests[owner][1], tokens, self._length)
      rows += self._rows(context, tokens)
      owners += [owner] * len(tokens)
      cut.append(max(0, len(context) + len(tokens) - self._length))
    left = collections.Counter(owners)

    def done(row: int) -> None:
      left[owners[row]] -= 1
      if not left[owners[row]]:
        progress(1)

    found = _gather(self._score(rows, progress and done), owners, len(requests))
    return [dataclasses.replace(one, cut=n) for one, n in zip(found, cut, strict=True)]

  def loglikelihood_rolling(self, texts: Sequence[str]) -> list[Likelihood]:
    rows, owners, T = [], [], self._length
    for owner, tokens in enumerate(self._tokenizer.encode_batch(texts)):
      for start in range(0, len(tokens), T):
        part = tokens[start : start + T]
        rows += self._rows(tokens[max(0, start - T) : start], part)
        owners += [owner] * len(part)
    return _gather(self._score(rows), owners, len(texts))

  def _rows(self, context: list[int], tokens: list[int]) -> list[Row]:
    room = self._length - len(tokens)
    context = context[-room:] if room else []
    whole, first = [self._cls, *context, *tokens, self._sep], 1 + len(context)
    return [
      Row((*whole[:i], self._mask, *whole[i + 1 :]), i, (whole[i],))
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


def _given(tokenizer: Tokenizer | None) -> Tokenizer:
  if tokenizer is None:
    raise ConfigError("tokenizer: the model has none; score tokens, or give it one to score text")
  return tokenizer


def _required(specials: dict[str, int], names: tuple[str, ...]) -> list[int]:
  missing = [name for name in names if name not in specials]
  if missing:
    raise ConfigError(f"special tokens {sorted(specials)}: must have {', '.join(missing)} to score text")
  return [specials[name] for name in names]


def _check_fits(text: str, tokens: Sequence[int], most: int) -> None:
  if len(tokens) > most:
    raise ConfigError(f"continuation {text[:40]!r}...: has {len(tokens)} tokens, the model takes {most}")


def _likelihood(rows: Iterable[Scored]) -> Likelihood:
  log_p, greedy = (np.concatenate(parts) for parts in zip(*rows, strict=True))
  return Likelihood(float(log_p.sum(dtype=np.float64)), len(log_p), bool(greedy.all()))


def _gather(rows: Sequence[Scored], owners: Sequence[int], count: int) -> list[Likelihood]:
  """Returns the likelihood of every owner of rows; nothing (no token) is certain."""
  of_owner: list[list[Scored]] = [[] for _ in range(count)]
  for owner, row in zip(owners, rows, strict=True):
    of_owner[owner].append(row)
  return [_likelihood(of) if of else Likelihood(0.0, 0, True) for of in of_owner]
