"""A Transformer from a config: causal decoder, or bidirectional encoder (`causal=False`)."""

import math

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Shaped

from lm_jax import layers, parametrization, sharding
from lm_jax.config import ModelConfig


class Transformer(nn.Module):
  """Maps tokens to next-token logits.

  A pure function of (params, tokens): `Transformer(config).apply({"params": params}, tokens_BT)`.
  """

  config: ModelConfig  # resolved

  @nn.compact
  def __call__(
    self,
    tokens_BT: Int[Array, "B T"],
    *,
    label_positions: tuple[int, ...] | None = None,
    padding_BT: Bool[Array, "B T"] | None = None,
    deterministic: bool = True,
  ) -> Float[Array, "B P V"]:
    """Returns logits at `label_positions` (default: everywhere, P = T).

    Args:
      label_positions: static positions; the output layer runs on these only.
      padding_BT: bool, true at tokens that no query may look at.
      deterministic: false applies dropout, from the "dropout" rng.
    """
    c = self.config
    B, T = tokens_BT.shape
    if T > c.context_length:
      raise ValueError(f"{T} tokens given to a model with context_length={c.context_length}")
    embed = layers.Embedding(c.vocab_size, c, name="embedding")
    x_MD = embed(tokens_BT.reshape(-1))
    if c.scale_embeddings:
      x_MD *= math.sqrt(parametrization.base_width(c))
    x_MD = self._add_positions(x_MD, B, T)
    x_MD = nn.Dropout(c.dropout, deterministic=deterministic)(x_MD)

    x_MD = self._blocks(x_MD, B, padding_BT, deterministic)
    if label_positions is not None and label_positions != tuple(range(T)):
      x_MD = take_positions(x_MD.reshape(B, T, -1), label_positions).reshape(-1, c.d_model)
    # Post-norm blocks end in a norm of their own (arXiv:1706.03762).
    if c.norm_position == "pre":
      x_MD = layers.Norm(c, name="final_norm")(x_MD)
    x_MD = layers.scaled(x_MD, parametrization.output_multiplier(c))
    if c.tie_embeddings:
      logits_MV = embed.attend(x_MD)
    else:
      output = layers.Weights(c.vocab_size, False, layers.output_init(c), name="output")
      logits_MV = layers.linear(x_MD, output(c.d_model))[0]
    return logits_MV.reshape(B, -1, c.vocab_size)

  def _add_positions(self, x_MD: Array, B: int, T: int) -> Array:
    c = self.config
    if c.positions == "learned":
      table = self.param("positions", layers.embedding_init(c), (c.context_length, c.d_model))[:T]
    elif c.positions == "sinusoidal":
      table = layers.sinusoids(T, c.d_model)
    else:
      return x_MD
    return (x_MD.reshape(B, T, -1) + table[None]).reshape(B * T, -1)

  def _blocks(self, x_MD: Array, B: int, padding_BT: Array | None, deterministic: bool) -> Array:
    c = self.config
    if not c.scan_layers:
      for layer in range(c.num_layers):
        x_MD = sharding.constrain(x_MD, sharding.BATCH, None)
        x_MD = layers.Block(c, name=f"block_{layer}")(x_MD, B, padding_BT, deterministic)
      return sharding.constrain(x_MD, sharding.BATCH, None)

    def body(block: layers.Block, x_MD: Array, _: None) -> tuple[Array, None]:
      x_MD = sharding.constrain(x_MD, sharding.BATCH, None)
      return block(x_MD, B, padding_BT, deterministic), None

    scan = nn.scan(
      body,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      length=c.num_layers,
    )
    return scan(layers.Block(c, name="blocks"), x_MD, None)[0]


def take_positions(x_BT: Shaped[Array, "B T ..."], positions: tuple[int, ...]) -> Shaped[Array, "B P ..."]:
  """Returns x at static positions: a strided slice where they are evenly spaced (cheaper than a gather)."""
  strides = set(np.diff(positions))
  if len(positions) > 1 and len(strides) == 1 and (stride := int(strides.pop())) > 0:
    return x_BT[:, positions[0] : positions[-1] + 1 : stride]
  return x_BT[:, np.array(positions)]
