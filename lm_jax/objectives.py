"""Training losses. Each returns (sum, count): divided once, after every reduction."""

from jaxtyping import Array, Float, Int

from lm_jax import kernels


def causal_lm_loss(
  logits: Float[Array, "*N V"], targets: Int[Array, "*N"], weights: Float[Array, "*N"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Returns the weighted sum of token NLLs and the sum of weights."""
  return (kernels.token_nll(logits, targets) * weights).sum(), weights.sum()
