"""Prompts as arrays of few shapes, and what is made of them: continuations."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from lm_jax.generation_config import GenerationConfig
from lm_jax.model_config import ModelConfig
from lm_jax.strict import ConfigError

MAX_ROWS, MAX_CACHE = 64, 2**27  # sequences at a time, and floats of their keys and values
MIN_LENGTH, MIN_SLOTS = 16, 64  # tokens
NO_END = -1  # no token

Finish = Literal["end", "stop", "length"]


@dataclasses.dataclass(frozen=True)
class Continuation:
  """Attributes:
  tokens: without the end of text.
  log_p: of each token, nats, by the model itself: before temperature, filters and penalties.
  finish: why it ends: the end of text, a stop string (whose last token is among the tokens), the length.
  score: what beams are ranked by.
  """

  tokens: tuple[int, ...]
  log_p: tuple[float, ...]
  finish: Finish
  score: float | None = None


def fitted(model: ModelConfig, prompt: Sequence[int], g: GenerationConfig, index: int) -> list[int]:
  """Returns the prompt, its last tokens only where it is too long and `g.truncate` allows it."""
  prompt = [int(token) for token in prompt]
  if not prompt:
    raise ConfigError(f"prompt {index}: is empty, and the model has no token that begins a text")
  outside = next((token for token in prompt if not 0 <= token < model.vocab_size), None)
  if outside is not None:
    raise ConfigError(f"prompt {index}: has token {outside}; must be below vocab_size={model.vocab_size}")
  room = model.context_length - g.max_new_tokens
  if room < 1:
    raise ConfigError(
      f"max_new_tokens={g.max_new_tokens}: must be below the model's context of {model.context_length} tokens"
    )
  if len(prompt) > room and not g.truncate:
    raise ConfigError(
      f"prompt {index}: has {len(prompt)} tokens, which with max_new_tokens={g.max_new_tokens} do not fit "
      f"the model's context of {model.context_length}; shorten it, or ask for truncate"
    )
  return prompt[-room:]


def max_rows(model: ModelConfig, slots: int) -> int:
  """Returns how many sequences are decoded at a time, a power of two."""
  floats = 2 * model.num_layers * model.num_kv_heads * model.head_dim * slots
  return 1 << (min(MAX_ROWS, max(1, MAX_CACHE // floats)).bit_length() - 1)


def bucket(n: int, least: int, most: int) -> int:
  """Returns n rounded up to a power of two, at least `least` and at most `most`."""
  return min(max(least, 1 << (n - 1).bit_length()), most)


def shape(longest: int, max_new_tokens: int, context_length: int) -> tuple[int, int]:
  """Returns the length that prompts are padded to, and the slots of a cache for them and what follows.

  The last token that is chosen is never read.
  """
  T = bucket(longest, MIN_LENGTH, context_length)
  S = max(T, bucket(T + max_new_tokens - 1, MIN_SLOTS, context_length))
  fits = T + max_new_tokens - 1 <= S
  return (T, S) if fits else (longest, context_length)  # near the end of the context


def padded(prompts: Sequence[Sequence[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns tokens [P, T] with zeros on the left, and where each prompt begins [P]."""
  tokens_PT = np.zeros((len(prompts), length), np.int32)
  first_P = np.array([length - len(prompt) for prompt in prompts], np.int32)
  for tokens_T, first, prompt in zip(tokens_PT, first_P, prompts, strict=True):
    tokens_T[first:] = prompt
  return tokens_PT, first_P
