"""The mixture of hidden Markov models behind GINC (Xie et al., arXiv:2111.02080), and its documents.

A hidden state is a value n of N and a slot s of S; each moves by its own matrix, so that the transition
matrix of states is their Kronecker product. What a state emits is one token, written in a memory matrix;
slot 0 emits the delimiter 0, and no other slot does. All concepts share the memory and how values move; how
slots move, and where documents begin, is a concept's own.
"""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from lm_jax import task_configs


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Concepts c of C.

  Attributes:
    memory_NS: int32, the token that a state emits.
    value_NN: float64, from a value (row) to the next.
    slot_CSS: float64, from a slot (row) to the next.
    start_CNS: float64, the first state of a document.
    documents_DL: unsigned, tokens of documents, each of a concept drawn uniformly.
  """

  memory_NS: np.ndarray
  value_NN: np.ndarray
  slot_CSS: np.ndarray
  start_CNS: np.ndarray
  documents_DL: np.ndarray

  def digest(self) -> str:
    """Returns a hash of all of it."""
    parts = (self.memory_NS, self.value_NN, self.slot_CSS, self.start_CNS, self.documents_DL)
    return hashlib.sha256(b"".join(x.tobytes() for x in parts)).hexdigest()[:16]


def draw(c: task_configs.Ginc) -> Mixture:
  """Draws memory, concepts and documents, a function of the config alone.

  Moves are a softmax-weighted sum of as many random permutations as there are states to move between, its
  logits uniform over an interval of 1, over the transition temperature; values stay where they are with
  probability `persistence` besides. The uniform distribution is stationary.
  """
  rng = np.random.default_rng(c.concept_seed)
  memory_NS = rng.integers(1, c.num_symbols, (c.num_values, c.num_slots), dtype=np.int32)
  memory_NS[:, 0] = task_configs.Ginc.DELIMITER
  moves_NN = _permutations(rng, c.num_values, c.transition_temperature)
  value_NN = c.persistence * np.eye(c.num_values) + (1 - c.persistence) * moves_NN
  slot_CSS = np.stack(
    [_permutations(rng, c.num_slots, c.transition_temperature) for _ in range(c.num_concepts)]
  )
  logits_CN = rng.random((c.num_concepts, c.num_values * c.num_slots)) / c.start_temperature
  start_CNS = _softmax(logits_CN).reshape(c.num_concepts, c.num_values, c.num_slots)
  mixture = Mixture(memory_NS, value_NN, slot_CSS, start_CNS, np.empty((0, c.document_length), np.uint8))
  return dataclasses.replace(mixture, documents_DL=_documents(rng, c, mixture))


def draw_examples(
  m: Mixture, num: int, length: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Draws tokens [B, K] of chains from any value in any slot but 0, their concepts, and first slots."""
  (N, S), C = m.memory_NS.shape, len(m.slot_CSS)
  concept_B, first_B = rng.integers(0, C, num), rng.integers(1, S, num)
  tokens_BK = _walk(m, concept_B, rng.integers(0, N, num), first_B, length, rng)
  return tokens_BK, concept_B, first_B


def read(m: Mixture, tokens_K: Any, start_S: Any, slot_SS: Any) -> tuple[list[Any], Any]:
  """Runs the forward algorithm over tokens [*X, K] from any value and a slot drawn from start [*X, S].

  Of numpy's arrays or jax's; leading dimensions are broadcast.

  Returns:
    p(token given those before it) of each token, [*X]; and the distribution of the state at the last of them,
    [*X, N, S]. All are 0 from a token on that cannot be.
  """
  num_values = len(m.memory_NS)
  memory_NS = m.memory_NS.reshape((1,) * (tokens_K.ndim - 1) + m.memory_NS.shape)
  p_K: list[Any] = []
  state_NS = start_S[..., None, :] / num_values
  for i in range(tokens_K.shape[-1]):
    state_NS = (move(m, state_NS, slot_SS) if i else state_NS) * (tokens_K[..., i, None, None] == memory_NS)
    p_K.append(state_NS.sum(axis=(-2, -1)))
    state_NS = state_NS / (p_K[-1] + (p_K[-1] == 0))[..., None, None]
  return p_K, state_NS


def move(m: Mixture, state_NS: Any, slot_SS: Any) -> Any:
  """Returns the distribution of the state a step later, [*X, N, S]."""
  value_NN = m.value_NN.T.reshape((1,) * (state_NS.ndim - 2) + m.value_NN.shape)
  return value_NN.astype(state_NS.dtype) @ state_NS @ slot_SS


def next_token(m: Mixture, state_NS: Any, slot_SS: Any, vocab_size: int) -> Any:
  """Returns p(next token), [*X, V], given the distribution of the state, [*X, N, S]."""
  emits_MV = np.eye(vocab_size, dtype=state_NS.dtype)[m.memory_NS.ravel()]
  moved_NS = move(m, state_NS, slot_SS)
  return moved_NS.reshape(*moved_NS.shape[:-2], -1) @ emits_MV


def _softmax(logits: np.ndarray) -> np.ndarray:
  weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return weights / weights.sum(axis=-1, keepdims=True)


def _permutations(rng: np.random.Generator, size: int, temperature: float) -> np.ndarray:
  """Returns a weighted sum of `size` random permutation matrices, float64 [size, size]."""
  weight_P = _softmax(rng.random(size) / temperature)
  permutation_PSS = np.stack([np.eye(size)[rng.permutation(size)] for _ in range(size)])
  return np.einsum("P,PST->ST", weight_P, permutation_PSS)


def _documents(rng: np.random.Generator, c: task_configs.Ginc, m: Mixture) -> np.ndarray:
  concept_D = rng.integers(0, c.num_concepts, c.num_documents)
  start_CM = m.start_CNS.reshape(c.num_concepts, -1)
  value_D, slot_D = np.divmod(_invert(np.cumsum(start_CM, axis=1)[concept_D], rng), c.num_slots)
  return _walk(m, concept_D, value_D, slot_D, c.document_length, rng)


def _walk(
  m: Mixture, concept_D: np.ndarray, value_D: np.ndarray, slot_D: np.ndarray, length: int,
  rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
  """Returns the tokens of chains side by side, [D, length], from their first states."""
  value_cdf, slot_cdf = np.cumsum(m.value_NN, axis=1), np.cumsum(m.slot_CSS, axis=2)
  tokens_LD = np.empty((length, len(concept_D)), np.min_scalar_type(m.memory_NS.max()))
  for token_D in tokens_LD:
    token_D[:] = m.memory_NS[value_D, slot_D]
    value_D = _invert(value_cdf[value_D], rng)
    slot_D = _invert(slot_cdf[concept_D, slot_D], rng)
  return np.ascontiguousarray(tokens_LD.T)


def _invert(cdf_DS: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Draws an index by each row of cumulative probabilities, int64 [D]; rounding in the last may pass none."""
  return (rng.random((len(cdf_DS), 1)) >= cdf_DS[:, :-1]).sum(axis=1)
