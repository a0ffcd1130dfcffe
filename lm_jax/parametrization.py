"""Parametrizations: which scales and rates follow a model as it grows, so that tuned ones stay right.

With m_N = d_model / base_d_model and m_L = num_layers / base_num_layers, relative to what the same config
would have at the base sizes (where all three are one and the same program):

                                     standard   mup        completep
    embeddings   init variance       *          1          1             tables, and a norm of their sum
                 learning rate       1          1          1
    hidden       init variance       *          1/m_N      1/m_N         kernels of the blocks and, of
    matrices     learning rate       1          1/m_N      1/m_N         BERT's heads, those that are [D, D];
                 weight decay        1          m_N        m_N           decoupled: x learning rate
    output       init variance       *          1          1             of tokens and of classes
    matrices     learning rate       1          1          1
    vectors      learning rate       1          1          1             norms' scales, all biases
    Adam's       blocks              1          1/m_N      1/(m_N m_L)
    epsilon      others              1          1/m_N      1/m_N         but biases of logits: 1
    forward      logits              1          1/m_N      1/m_N         before their bias
                 residual branches   1          1          1/m_L
                 attention scores    1/sqrt(H)  sqrt(base H)/H, both
    * what ModelConfig.initializer says at the size itself

mup is Tensor Programs V (arXiv:2203.03466), Table 8, its Adam column: the form with a multiplier on the
logits and an output matrix of constant scale and rate. Of the equivalent forms it is the one in which a
table may also be the output matrix (`tie_embeddings`), since both then have the same scale and rate.
completep is arXiv:2505.01618, Table 1, with alpha = 1: the residual branches shrink as 1/m_L, which leaves
the learning rates of the blocks, m_L^(alpha - 1), alone. Weight decay and the epsilon of the blocks are
that table's. It does not give the epsilon of the others; it follows from their gradients, which the
multiplier on the logits shrinks by 1/m_N and depth does not. That 1/H of the attention scores is
sqrt(base H)/H and not 1/H makes it 1/sqrt(H) at the base.

Where the sizes of a config need more than the papers say:
  * Ratios are those of d_model, also of fan-ins that are not D (heads x H, d_ff): a family grows them in
    proportion. A number of kv-heads that stays the same changes the fan-out of two matrices, which no
    scale here depends on but `xavier_uniform`'s.
  * GPT-2's 1/sqrt(number of residual branches) is of the base's depth under completep, whose initial
    variances do not depend on depth; mup has no law for depth and leaves it as it is.
  * `scale_embeddings` multiplies by sqrt(base d_model): the scale of the embeddings must not grow.
  * Post-norm blocks take the same multipliers. mup's table does not ask where norms stand; completep's is of
    pre-norm blocks.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from lm_jax.model_config import ModelConfig

Role = Literal[
  "embedding", "hidden_matrix", "hidden_vector", "head_matrix", "head_vector", "output", "output_bias"
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Factors:
  """What one parameter is scaled by, relative to the same config at the base sizes."""

  init_variance: float = 1.0
  learning_rate: float = 1.0
  weight_decay: float = 1.0  # multiplied by the learning rate, and so by its factor
  epsilon: float = 1.0


def width_ratio(c: ModelConfig) -> float:
  """Returns m_N, 1 where nothing scales with it."""
  return 1.0 if c.parametrization == "standard" else c.d_model / c.base_d_model


def depth_ratio(c: ModelConfig) -> float:
  """Returns m_L, 1 where nothing scales with it."""
  return c.num_layers / c.base_num_layers if c.parametrization == "completep" else 1.0


def table(c: ModelConfig) -> dict[Role, Factors]:
  n, l = width_ratio(c), depth_ratio(c)
  return {
    "embedding": Factors(epsilon=1 / n),
    "hidden_matrix": Factors(init_variance=1 / n, learning_rate=1 / n, weight_decay=n, epsilon=1 / (n * l)),
    "hidden_vector": Factors(epsilon=1 / (n * l)),
    "head_matrix": Factors(init_variance=1 / n, learning_rate=1 / n, weight_decay=n, epsilon=1 / n),
    "head_vector": Factors(epsilon=1 / n),
    "output": Factors(epsilon=1 / n),
    "output_bias": Factors(),
  }


def role(names: Sequence[str]) -> Role:
  """Returns the role of the parameter at a path such as ("block_0", "mlp", "up", "kernel")."""
  if names[0] in ("embedding", "positions", "segments", "embedding_norm"):
    return "embedding"
  if names[0] in ("final_norm", "output_transform", "pooler"):
    return "head_matrix" if names[-1] == "kernel" else "head_vector"
  if names[0] in ("output", "next_sentence", "classifier"):
    return "output" if names[-1] == "kernel" else "output_bias"
  if names[0].startswith("block"):
    return "hidden_matrix" if names[-1] == "kernel" else "hidden_vector"
  raise ValueError(f"parameter {'/'.join(names)} has no role in lm_jax/parametrization.py")


def scales_updates(c: ModelConfig) -> bool:
  """Returns whether any parameter's learning rate, weight decay or epsilon differs from the optimizer's."""
  return any(factors != Factors() for factors in table(c).values())


# --- of the forward pass ------------------------------------------------------------------------


def output_multiplier(c: ModelConfig) -> float:
  return 1 / width_ratio(c)


def residual_multiplier(c: ModelConfig) -> float:
  return 1 / depth_ratio(c)


def attention_multiplier(c: ModelConfig) -> float:
  """Returns what the scores q k / sqrt(H) are multiplied by: with it they are q k sqrt(base H) / H."""
  return 1.0 if c.parametrization == "standard" else math.sqrt(c.base_head_dim / c.head_dim)


# --- of the initial scale -----------------------------------------------------------------------


def base_width(c: ModelConfig) -> float:
  """Returns the d_model that scales are taken at where they must not depend on it."""
  return c.d_model / width_ratio(c)


def base_depth(c: ModelConfig) -> float:
  """Returns the num_layers that scales are taken at where they must not depend on it."""
  return c.num_layers / depth_ratio(c)
