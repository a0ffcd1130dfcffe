"""Beam search: the K most likely continuations found by keeping the K most likely beginnings.

The rules are those of Hugging Face's `generate`, so that both find the same: of the 2 K best continuations of
the K beams those that end are finished, if among the first K, and ranked by log p / length^length_penalty;
the K best of the others go on. A prompt is done when its best beam, at the length it has now, would rank
below its worst of K finished ones. Letters: P prompts, K beams, V vocabulary, N tokens of a continuation.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from lm_jax import kv_cache, sampling
from lm_jax.generation_config import GenerationConfig
from lm_jax.kv_cache import KVCache
from lm_jax.model_config import ModelConfig
from lm_jax.prompt_batches import MAX_ROWS, Continuation, bucket, max_rows, padded, shape

_NEVER = -1e9  # nats; what must not be chosen while there is anything else


@struct.dataclass
class Beams:
  """Continuations, each with its tokens and their log p, and how likely it is.

  Attributes:
    score_PK: log p, nats; of finished ones over length^length_penalty.
    length_PK: tokens of those that are finished, 0 of others.
  """

  tokens_PKN: Int[Array, "P K N"]
  log_p_PKN: Float[Array, "P K N"]
  score_PK: Float[Array, "P K"]
  length_PK: Int[Array, "P K"]

  def take(self, index_PX: Int[Array, "P X"]) -> "Beams":
    """Returns the beams of each prompt at some indices."""
    return jax.tree.map(lambda x: jax.vmap(lambda beams, i: beams[i])(x, index_PX), self)


@struct.dataclass
class Search:
  """Attributes:
  open_P: whether a prompt's finished beams may still become better.
  alive: whether any beam that is kept goes on.
  """

  cache: KVCache  # of P K sequences
  logits_PKV: Float[Array, "P K V"]  # of the next token
  seen_PKV: Bool[Array, "P K V"]
  running: Beams
  finished: Beams
  open_P: Bool[Array, "P"]
  alive: Bool[Array, ""]
  count: Int[Array, ""]


@struct.dataclass
class Rules:
  """The numbers of a GenerationConfig."""

  max_new_tokens: Int[Array, ""]
  length_penalty: Float[Array, ""]
  repetition_penalty: Float[Array, ""]
  early_stopping: Bool[Array, ""]
  end: Int[Array, ""]


def search(
  model: ModelConfig, params: Any, prompts: Sequence[Sequence[int]], g: GenerationConfig, end: int
) -> list[list[Continuation]]:
  """Returns the best `num_return_sequences` continuations of every prompt, the best first.

  Args:
    end: the token that ends a text.
  """
  order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
  found = {}
  while order:
    _, slots = shape(len(prompts[order[0]]), g.max_new_tokens, model.context_length)
    size = max(1, max_rows(model, slots) // g.num_beams)
    part, order = order[:size], order[size:]
    found |= zip(part, _search(model, params, [prompts[i] for i in part], g, end), strict=True)
  return [found[i] for i in range(len(prompts))]


def _search(
  model: ModelConfig, params: Any, prompts: Sequence[Sequence[int]], g: GenerationConfig, end: int
) -> list[list[Continuation]]:
  T, S = shape(max(map(len, prompts)), g.max_new_tokens, model.context_length)
  P = bucket(len(prompts), 1, MAX_ROWS)
  tokens_PT, first_P = padded([*prompts, *prompts[:1] * (P - len(prompts))], T)
  rules = Rules(
    np.int32(g.max_new_tokens), np.float32(g.length_penalty), np.float32(g.repetition_penalty),
    np.bool_(g.early_stopping), np.int32(end),
  )  # fmt: skip
  sizes = (g.num_beams, S, bucket(g.max_new_tokens, 16, S))
  best = jax.tree.map(np.asarray, _run(model, sizes, params, tokens_PT, first_P, rules))
  return [
    [_continuation(best, p, k, end) for k in range(g.num_return_sequences)] for p in range(len(prompts))
  ]


def _continuation(best: Beams, p: int, k: int, end: int) -> Continuation:
  n = int(best.length_PK[p, k])
  tokens, log_p = best.tokens_PKN[p, k, :n].tolist(), best.log_p_PKN[p, k, :n].tolist()
  ended = tokens[-1:] == [end]
  tokens, log_p = (tokens[:-1], log_p[:-1]) if ended else (tokens, log_p)
  finish = "end" if ended else "length"
  return Continuation(tuple(tokens), tuple(log_p), finish, float(best.score_PK[p, k]))


@functools.partial(jax.jit, static_argnames=("c", "sizes"))
def _run(
  c: ModelConfig,
  sizes: tuple[int, int, int],
  params: Any,
  tokens_PT: Int[Array, "P T"],
  first_P: Int[Array, "P"],
  rules: Rules,
) -> Beams:
  """Returns the finished beams.

  Args:
    sizes: K, slots of the cache, N.
  """
  K, num_slots, N = sizes
  P, T = tokens_PT.shape
  cache = kv_cache.empty(c, first_P, num_slots)
  logits_P1V, cache = kv_cache.read(c, params, tokens_PT, cache, label_positions=(T - 1,))
  there_PT = jnp.arange(T)[None] >= first_P[:, None]
  seen_PV = jnp.zeros((P, c.vocab_size), bool).at[jnp.arange(P)[:, None], tokens_PT].max(there_PT)
  nothing = Beams(
    jnp.zeros((P, K, N), jnp.int32), jnp.zeros((P, K, N)), jnp.full((P, K), _NEVER),
    jnp.zeros((P, K), jnp.int32),
  )  # fmt: skip
  # The beams are equal at first: all but one must not be chosen from.
  s = Search(
    kv_cache.take(cache, jnp.repeat(jnp.arange(P), K)), jnp.repeat(logits_P1V, K, axis=1),
    jnp.repeat(seen_PV[:, None], K, axis=1),
    dataclasses.replace(nothing, score_PK=nothing.score_PK.at[:, 0].set(0)),
    nothing, jnp.ones(P, bool), jnp.ones((), bool), jnp.zeros((), jnp.int32),
  )  # fmt: skip

  def goes_on(s: Search) -> Array:
    full = rules.early_stopping & (s.finished.length_PK > 0).all()
    return s.open_P.any() & ~full & s.alive

  def step(s: Search) -> Search:
    s, parent_PK, token_PK = _extend(s, rules)
    rows = (jnp.arange(P)[:, None] * K + parent_PK).reshape(-1)
    cache = kv_cache.take(s.cache, rows)
    logits, cache = kv_cache.read(c, params, token_PK.reshape(-1, 1), cache)
    return dataclasses.replace(s, cache=cache, logits_PKV=logits.reshape(P, K, -1))

  return jax.lax.while_loop(goes_on, step, s).finished


def _extend(s: Search, rules: Rules) -> tuple[Search, Int[Array, "P K"], Int[Array, "P K"]]:
  """Returns the search with one token more, the beams that go on were made of, and their new tokens."""
  P, K, V = s.logits_PKV.shape
  log_p_PKV = jax.nn.log_softmax(s.logits_PKV)
  ranked_PKV = sampling.penalized(log_p_PKV, s.seen_PKV, rules.repetition_penalty)
  total_PX = (ranked_PKV + s.running.score_PK[..., None]).reshape(P, -1)
  score_PX, index_PX = jax.lax.top_k(total_PX, 2 * K)
  parent_PX, token_PX = index_PX // V, index_PX % V
  count = s.count + 1
  ends_PX = (token_PX == rules.end) | (count == rules.max_new_tokens)
  log_p_PX = jnp.take_along_axis(log_p_PKV.reshape(P, -1), index_PX, axis=1)
  grown = s.running.take(parent_PX)
  grown = Beams(
    grown.tokens_PKN.at[..., s.count].set(token_PX), grown.log_p_PKN.at[..., s.count].set(log_p_PX),
    score_PX, jnp.where(ends_PX, count, 0),
  )  # fmt: skip

  _, on_PK = jax.lax.top_k(score_PX + _NEVER * ends_PX, K)
  running = grown.take(on_PK)
  finished = _finish(s, rules, grown, ends_PX, count)
  parent_PK, token_PK = (jnp.take_along_axis(x, on_PK, axis=1) for x in (parent_PX, token_PX))
  seen_PKV = jnp.take_along_axis(s.seen_PKV, parent_PK[..., None], axis=1)
  seen_PKV = seen_PKV.at[jnp.arange(P)[:, None], jnp.arange(K)[None], token_PK].set(True)

  best_P1 = running.score_PK[:, :1] / count**rules.length_penalty
  worst_PK = jnp.where(finished.length_PK > 0, finished.score_PK.min(1, keepdims=True), _NEVER)
  s = dataclasses.replace(
    s, seen_PKV=seen_PKV, finished=finished,
    running=dataclasses.replace(running, length_PK=jnp.zeros((P, K), jnp.int32)),
    open_P=s.open_P & (best_P1 > worst_PK).any(1), alive=~ends_PX.all(), count=count,
  )  # fmt: skip
  return s, parent_PK, token_PK


def _finish(
  s: Search, rules: Rules, grown: Beams, ends_PX: Bool[Array, "P X"], count: Int[Array, ""]
) -> Beams:
  """Returns the K best of the beams that were finished and those of the first K that end now."""
  K = s.finished.score_PK.shape[1]
  full_P = rules.early_stopping & (s.finished.length_PK > 0).all(1)
  barred_PX = ~(ends_PX & (jnp.arange(2 * K)[None] < K)) | (full_P | ~s.open_P)[:, None]
  score_PX = grown.score_PK / count**rules.length_penalty + _NEVER * barred_PX
  new = dataclasses.replace(grown, score_PK=score_PX, length_PK=jnp.where(barred_PX, 0, count))
  both = jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis=1), s.finished, new)
  _, best_PK = jax.lax.top_k(both.score_PK, K)
  return both.take(best_PK)
