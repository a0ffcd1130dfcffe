"""Training losses. Each returns (sum, count): divided once, after every reduction."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def token_nll(logits: Float[Array, "*N V"], targets: Int[Array, "*N"]) -> Float[Array, "*N"]:
  """Returns -log p(target) in nats."""
  # A masked sum instead of a gather: its gradient is elementwise and fuses with the softmax's.
  is_target = targets[..., None] == jnp.arange(logits.shape[-1]).reshape((1,) * targets.ndim + (-1,))
  target_logit = jnp.where(is_target, logits, 0).sum(-1)
  return jax.nn.logsumexp(logits, axis=-1) - target_logit


def causal_lm_loss(
  logits: Float[Array, "*N V"], targets: Int[Array, "*N"], weights: Float[Array, "*N"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Returns the weighted sum of token NLLs and the sum of weights."""
  return (token_nll(logits, targets) * weights).sum(), weights.sum()
