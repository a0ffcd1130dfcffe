"""Continuations of prompts by a causal LM: every prompt is read once, then a token at a time is chosen.

Programs are few: prompts are padded on the left to a power of two, so are the slots of the KV cache, and so
is the number of sequences; what is asked (GenerationConfig) is data. A sequence's numbers and draws do not
depend on what else is in its batch, but for the last bits of float32.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from lm_jax import beam_search, generation_config, kv_cache, sampling
from lm_jax.generation_config import GenerationConfig
from lm_jax.kv_cache import KVCache
from lm_jax.model_config import ModelConfig
from lm_jax.prompt_batches import (
  MAX_ROWS,
  NO_END,
  Continuation,
  Finish,
  bucket,
  fitted,
  max_rows,
  padded,
  shape,
)
from lm_jax.strict import ConfigError

# Tokens chosen before the host looks: at stop strings, and to show them; a tenth of a second where shown.
MAX_STEPS, SECONDS_A_LOOK = 32, 0.1

# Called with (prompt, return, its tokens so far, why it is finished if it is).
Watch = Callable[[int, int, Sequence[int], Finish | None], None]


def generate(
  model: ModelConfig,
  params: Any,
  prompts: Sequence[Sequence[int]],
  g: GenerationConfig,
  *,
  end: int | None = None,
  decode: Callable[[Sequence[int]], str] | None = None,
  watch: Watch | None = None,
) -> list[list[Continuation]]:
  """Returns `num_return_sequences` continuations of every prompt.

  Args:
    params: of a Transformer, on the device: numpy arrays would be moved there for every token.
    end: the token that ends a text.
    decode: text of tokens, for `g.stop`.
    watch: sees sequences grow.

  Raises:
    ConfigError: for a prompt that is empty, or that does not fit the context with what is asked for.
  """
  generation_config.check(g)
  if not model.causal or not model.lm_head:
    raise ConfigError("generate: the model is an encoder, which continues no text; must be a causal LM")
  prompts = [fitted(model, prompt, g, i) for i, prompt in enumerate(prompts)]
  end = NO_END if end is None or g.ignore_end else end
  if g.num_beams > 1:
    return beam_search.search(model, params, prompts, g, end)
  found: dict[tuple[int, int], Continuation] = {}
  for rows in _batches(model, prompts, g):
    found |= _Batch(model, params, prompts, rows, g, end, decode, watch).run()
  return [[found[i, r] for r in range(g.num_return_sequences)] for i in range(len(prompts))]


def _batches(
  model: ModelConfig, prompts: Sequence[Sequence[int]], g: GenerationConfig
) -> Iterator[list[tuple[int, int]]]:
  """Yields (prompt, return) pairs to be run together: of like lengths, the longest first."""
  order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
  rows = [(i, r) for i in order for r in range(g.num_return_sequences)]
  while rows:
    _, slots = shape(len(prompts[rows[0][0]]), g.max_new_tokens, model.context_length)
    size = max_rows(model, slots)
    yield rows[:size]
    rows = rows[size:]


class _Batch:
  """Sequences that are decoded together."""

  def __init__(
    self,
    model: ModelConfig,
    params: Any,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[tuple[int, int]],
    g: GenerationConfig,
    end: int,
    decode: Callable[[Sequence[int]], str] | None,
    watch: Watch | None,
  ):
    self._model, self._params, self._g, self._end = model, params, g, end
    self._rows, self._decode, self._watch = rows, decode, watch
    self._prompts, self._settings = prompts, sampling.settings(g)
    self._tokens: list[list[int]] = [[] for _ in rows]
    self._log_p: list[list[float]] = [[] for _ in rows]
    self._finish: list[Finish | None] = [None] * len(rows)

  def run(self) -> dict[tuple[int, int], Continuation]:
    state, chosen = self._prefill()
    self._take(chosen)
    steps = 1
    while not all(self._finish):
      done = np.array([finish is not None for finish in self._finish] + [True] * self._padding)
      start = time.perf_counter()
      state, n, chosen = _decode(self._model, self._params, state, self._settings, self._end, done, steps)
      self._take([np.asarray(x)[:, : int(n)] for x in chosen])
      if self._watch is None:
        steps = MAX_STEPS
      else:
        wanted = steps * SECONDS_A_LOOK / (time.perf_counter() - start)
        steps = int(np.clip(wanted, 1, min(2 * steps, MAX_STEPS)))
      steps = min(steps, self._g.max_new_tokens - max(map(len, self._tokens)))
    return {
      row: Continuation(tuple(tokens), tuple(log_p), finish)
      for row, tokens, log_p, finish in zip(self._rows, self._tokens, self._log_p, self._finish, strict=True)
    }

  def _prefill(self) -> tuple["State", tuple[np.ndarray, np.ndarray]]:
    different = sorted({i for i, _ in self._rows})
    index = [different.index(i) for i, _ in self._rows]
    B, P = (bucket(n, 1, MAX_ROWS) for n in (len(index), len(different)))
    self._padding = B - len(index)
    prompts = [self._prompts[i] for i in different + different[:1] * (P - len(different))]
    T, S = shape(max(map(len, prompts)), self._g.max_new_tokens, self._model.context_length)
    tokens_PT, first_P = padded(prompts, T)
    rows = np.array(self._rows + [(0, 0)] * self._padding, np.uint32)
    return _prefill(
      self._model, S, self._params, tokens_PT, first_P, np.array(index + [0] * self._padding, np.int32),
      _keys(np.uint32(self._g.seed), rows), self._settings, self._end,
    )  # fmt: skip

  def _take(self, chosen: Sequence[Array]) -> None:
    """Adds chosen tokens [B, n], and their log p, to the sequences that are not finished yet."""
    tokens_Bn, log_p_Bn = map(np.asarray, chosen)
    for b, finish in enumerate(self._finish):
      if finish is None:
        self._grow(b, tokens_Bn[b].tolist(), log_p_Bn[b].tolist())
        if self._watch is not None:
          self._watch(*self._rows[b], self._tokens[b], self._finish[b])

  def _grow(self, b: int, tokens: list[int], log_p: list[float]) -> None:
    room = self._g.max_new_tokens - len(self._tokens[b])
    if self._end in tokens[:room]:
      room, self._finish[b] = tokens.index(self._end), "end"
    elif len(tokens) >= room:
      self._finish[b] = "length"
    self._tokens[b] += tokens[:room]
    self._log_p[b] += log_p[:room]
    if self._g.stop:
      self._cut_at_stop(b)

  def _cut_at_stop(self, b: int) -> None:
    tokens, found = self._tokens[b], functools.partial(self._has_stop, self._tokens[b])
    if not found(len(tokens)):
      return
    # A stop string once in the text stays there as tokens are added: find the first one with it.
    length = next(n for n in range(1, len(tokens) + 1) if found(n))
    self._tokens[b], self._log_p[b], self._finish[b] = tokens[:length], self._log_p[b][:length], "stop"

  def _has_stop(self, tokens: Sequence[int], length: int) -> bool:
    text = self._decode(tokens[:length])
    return any(stop in text for stop in self._g.stop)


# --- programs -----------------------------------------------------------------------------------


@struct.dataclass
class State:
  """Of sequences that are being decoded.

  Attributes:
    token_B: chosen last, and not read yet.
    seen_BV: tokens of the prompt and of the continuation.
    keys_B: of each sequence; a draw's is made of it and of `count`.
    count: tokens chosen.
  """

  cache: KVCache
  token_B: Int[Array, "B"]
  finished_B: Bool[Array, "B"]
  seen_BV: Bool[Array, "B V"]
  keys_B: Key[Array, "B"]
  count: Int[Array, ""]


@jax.jit
def _keys(seed: Int[Array, ""], rows_B2: Int[Array, "B 2"]) -> Key[Array, "B"]:
  """Returns the key of each (prompt, return)."""
  fold = jax.random.fold_in
  return jax.vmap(lambda row: fold(fold(jax.random.key(seed), row[0]), row[1]))(rows_B2)


@functools.partial(jax.jit, static_argnames=("c", "num_slots"))
def _prefill(
  c: ModelConfig,
  num_slots: int,
  params: Any,
  tokens_PT: Int[Array, "P T"],
  first_P: Int[Array, "P"],
  index_B: Int[Array, "B"],
  keys_B: Key[Array, "B"],
  settings: sampling.Settings,
  end: int,
) -> tuple[State, tuple[Int[Array, "B 1"], Float[Array, "B 1"]]]:
  """Reads prompts, and chooses the first token of sequences, whose prompts `index_B` names."""
  P, T = tokens_PT.shape
  cache = kv_cache.empty(c, first_P, num_slots)
  logits_P1V, cache = kv_cache.read(c, params, tokens_PT, cache, label_positions=(T - 1,))
  there_PT = jnp.arange(T)[None] >= first_P[:, None]
  seen_PV = jnp.zeros((P, c.vocab_size), bool).at[jnp.arange(P)[:, None], tokens_PT].max(there_PT)
  index_B = jnp.asarray(index_B)
  B = index_B.shape[0]
  state = State(
    kv_cache.take(cache, index_B), jnp.zeros(B, jnp.int32), jnp.zeros(B, bool), seen_PV[index_B], keys_B,
    jnp.zeros((), jnp.int32),
  )  # fmt: skip
  state, token_B, log_p_B = _choose(state, logits_P1V[:, 0][index_B], settings, end)
  return state, (token_B[:, None], log_p_B[:, None])


@functools.partial(jax.jit, static_argnames="c", donate_argnames="state")
def _decode(
  c: ModelConfig,
  params: Any,
  state: State,
  settings: sampling.Settings,
  end: int,
  finished_B: Bool[Array, "B"],
  steps: int,
) -> tuple[State, Int[Array, ""], tuple[Int[Array, "B MAX"], Float[Array, "B MAX"]]]:
  """Chooses up to `steps` more tokens, fewer where all sequences end before.

  Returns (state, n, (tokens, log p)), of which the first n are chosen.

  Args:
    finished_B: by what the program does not know, such as a stop string.
  """
  B = state.token_B.shape[0]
  chosen = (jnp.full((B, MAX_STEPS), end, jnp.int32), jnp.zeros((B, MAX_STEPS), jnp.float32))

  def goes_on(carry: tuple) -> Array:
    i, state, _ = carry
    return (i < steps) & ~state.finished_B.all()

  def step(carry: tuple) -> tuple:
    i, state, (tokens_Bn, log_p_Bn) = carry
    logits_B1V, cache = kv_cache.read(c, params, state.token_B[:, None], state.cache)
    state, token_B, log_p_B = _choose(
      dataclasses.replace(state, cache=cache), logits_B1V[:, 0], settings, end
    )
    return i + 1, state, (tokens_Bn.at[:, i].set(token_B), log_p_Bn.at[:, i].set(log_p_B))

  state = dataclasses.replace(state, finished_B=state.finished_B | finished_B)
  n, state, (tokens_Bn, log_p_Bn) = jax.lax.while_loop(goes_on, step, (0, state, chosen))
  return state, n, (tokens_Bn, log_p_Bn)


def _choose(
  state: State, logits_BV: Float[Array, "B V"], settings: sampling.Settings, end: int
) -> tuple[State, Int[Array, "B"], Float[Array, "B"]]:
  keys_B = jax.vmap(jax.random.fold_in, (0, None))(state.keys_B, state.count)
  token_B = sampling.choose(logits_BV, state.seen_BV, settings, keys_B)
  row_B = jnp.arange(token_B.shape[0])
  log_p_B = logits_BV[row_B, token_B] - jax.nn.logsumexp(logits_BV, axis=-1)
  state = dataclasses.replace(
    state,
    token_B=token_B, finished_B=state.finished_B | (token_B == end),
    seen_BV=state.seen_BV.at[row_B, token_B].set(True), count=state.count + 1,
  )  # fmt: skip
  return state, token_B, log_p_B
