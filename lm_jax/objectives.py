"""Training losses. Each returns (sum, count): divided once, after every reduction."""

from jaxtyping import Array, Float


def causal_lm_loss(
  nll: Float[Array, "*N"], weights: Float[Array, "*N"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Returns the weighted sum of token NLLs and the sum of weights."""
  return (nll * weights).sum(), weights.sum()
