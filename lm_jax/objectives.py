"""What models predict, and training losses: sums, divided once by their counts, after every reduction."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from lm_jax import kernels
from lm_jax.model import Transformer, take_positions
from lm_jax.tasks.base import Batch


def predict(
  model: Transformer,
  params: Any,
  batch: Batch,
  positions: Sequence[int],
  *,
  loss: bool = False,
  dropout_key: jax.Array | None = None,
) -> Any:
  """Returns a model's predictions for a batch, at its own positions or else at the static ones.

  Args:
    loss: the sum over targets of weight * -log p, nats, in place of logits [B, P, V].
    dropout_key: none: no dropout.

  Returns:
    The predictions; where the batch asks whether segments follow each other, (predictions, logits [B, 2]).
  """
  where = {"label_positions": positions} if batch.positions is None else {"positions_BP": batch.positions}
  return model.apply(
    {"params": params}, batch.tokens, **where,
    targets_BP=at_positions(batch.targets, batch, positions) if loss else None,
    weights_BP=at_positions(batch.weights, batch, positions) if loss else None,
    documents_BT=batch.documents, prefix_BT=batch.prefix, segments_BT=batch.segments,
    with_next_sentence=batch.next_sentence is not None,
    deterministic=dropout_key is None, rngs=None if dropout_key is None else {"dropout": dropout_key},
  )  # fmt: skip


def at_positions(x_BT: Shaped[Array, "B T"], batch: Batch, positions: Sequence[int]) -> Shaped[Array, "B P"]:
  """Returns x where predictions are made: at the batch's positions, or else at the static ones."""
  if batch.positions is None:
    return take_positions(x_BT, tuple(positions))
  return jnp.take_along_axis(x_BT, batch.positions, axis=1)


def with_next_sentence(
  total: Float[Array, ""],
  weights: Float[Array, "B P"],
  logits_B2: Float[Array, "B 2"],
  follows_B: Int[Array, "B"],
) -> Float[Array, ""]:
  """Returns a sum whose quotient by the count is the mean token NLL plus the mean next-sentence NLL.

  BERT adds the two means (arXiv:1810.04805, section A.2). A sequence's pair counts as often as its tokens
  do, so that there is one count; where all have as many predictions that is the plain mean.

  Args:
    total: of the token NLLs.
  """
  return total + (kernels.token_nll(logits_B2, follows_B) * weights.sum(1)).sum()
