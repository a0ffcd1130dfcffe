"""A Transformer from a config: causal decoder, or bidirectional encoder (`causal=False`)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Shaped

from lm_jax import kernels, layers, parametrization, sharding
from lm_jax.model_config import ModelConfig


class Transformer(nn.Module):
  """Maps tokens to next-token logits, or to the NLL of given targets.

  A pure function of (params, tokens): `Transformer(config).apply({"params": params}, tokens_BT)`.
  Parameters are float32. From the embeddings on, activations and products are in `config.dtype`; sums,
  softmax and the logits are in float32.
  """

  config: ModelConfig  # resolved

  @nn.compact
  def __call__(
    self,
    tokens_BT: Int[Array, "B T"],
    *,
    label_positions: tuple[int, ...] | None = None,
    targets_BP: Int[Array, "B P"] | None = None,
    padding_BT: Bool[Array, "B T"] | None = None,
    deterministic: bool = True,
  ) -> Float[Array, "B P V"] | Float[Array, "B P"]:
    """Returns logits at `label_positions` (default: everywhere, P = T), or -log p(target) there in nats.

    Args:
      label_positions: static positions; the output layer runs on these only.
      targets_BP: asks for NLLs, for which the logits of a large vocabulary are never held at once.
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
    x_MD = self._add_positions(x_MD, B, T).astype(c.dtype)
    x_MD = nn.Dropout(c.dropout, deterministic=deterministic)(x_MD)

    x_MD = self._blocks(x_MD, tokens_BT, padding_BT, deterministic)
    if label_positions is not None and label_positions != tuple(range(T)):
      x_MD = take_positions(x_MD.reshape(B, T, -1), label_positions).reshape(-1, c.d_model)
    # Post-norm blocks end in a norm of their own (arXiv:1706.03762).
    if c.norm_position == "pre":
      x_MD = layers.Norm(c, name="final_norm")(x_MD)
    x_MD = layers.scaled(x_MD, parametrization.output_multiplier(c))
    if c.tie_embeddings:
      w_DV = embed.output_matrix()
    else:
      w_DV, _ = layers.Weights(c.vocab_size, False, layers.output_init(c), name="output")(c.d_model)
    return output(c, x_MD.reshape(B, -1, c.d_model), w_DV, targets_BP)

  def _add_positions(self, x_MD: Array, B: int, T: int) -> Array:
    c = self.config
    if c.positions == "learned":
      table = self.param("positions", layers.embedding_init(c), (c.context_length, c.d_model))[:T]
    elif c.positions == "sinusoidal":
      table = layers.sinusoids(T, c.d_model)
    else:
      return x_MD
    return (x_MD.reshape(B, T, -1) + table[None]).reshape(B * T, -1)

  def _blocks(
    self, x_MD: Array, tokens_BT: Array, padding_BT: Array | None, deterministic: bool
  ) -> Float[Array, "M D"]:
    c, B = self.config, len(tokens_BT)
    Block = rematerialized(c)
    if not c.scan_layers:
      apart = c.remat != "none" and jax.default_backend() == "cpu" and not self.is_initializing()
      for layer in range(c.num_layers):
        x_MD = sharding.constrain(x_MD, sharding.BATCH, None)
        block = Block(c, name=f"block_{layer}")
        x_MD = (_run_apart if apart else _run)(block, x_MD, tokens_BT, padding_BT, deterministic)
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
    return scan(Block(c, name="blocks"), x_MD, None)[0]


def _run(block: nn.Module, x_MD: Array, tokens_BT: Array, *args: Any) -> Float[Array, "M D"]:
  return block(x_MD, len(tokens_BT), *args)


def _run_apart(block: nn.Module, x_MD: Array, tokens_BT: Array, *args: Any) -> Float[Array, "M D"]:
  """`_run` in the branch of a condition that always holds, which the compiler cannot know.

  XLA:CPU drops the barriers of `jax.checkpoint` and merges what is computed again with what was computed
  first, so that all of it is kept after all; it does not look into branches.
  """
  holds = (tokens_BT[0, 0] | 1) != 0
  return nn.cond(holds, lambda b, x: _run(b, x, tokens_BT, *args), lambda _, x: x, block, x_MD)


def rematerialized(c: ModelConfig) -> type[nn.Module]:
  """Returns layers.Block, keeping for the backward pass what `config.remat` says.

  "block" keeps a block's input and computes the rest twice; "products" keeps as well what products with
  weights gave, and computes attention, norms and activations twice.
  """
  if c.remat == "none":
    return layers.Block
  policies = jax.checkpoint_policies
  keep = policies.nothing_saveable if c.remat == "block" else policies.save_only_these_names(layers.PRODUCT)
  return nn.remat(
    layers.Block,
    policy=keep,
    # In the body of a scan there is nothing to merge a second forward pass with, and barriers cost time.
    prevent_cse=not c.scan_layers,
    static_argnums=(2, 4),  # batch, deterministic
  )


def output(
  c: ModelConfig,
  x_BPD: Float[Array, "B P D"],
  w_DV: Float[Array, "D V"],
  targets_BP: Int[Array, "B P"] | None,
) -> Float[Array, "B P V"] | Float[Array, "B P"]:
  """Returns logits, or the NLLs of targets by way of all logits where those are small, else in chunks."""
  B, P, D = x_BPD.shape
  if targets_BP is not None and (size := c.loss_chunk(B, P)) < P:
    return kernels.chunked_nll(x_BPD, w_DV, targets_BP, size)
  logits_BPV = kernels.project(x_BPD.reshape(-1, D), w_DV, jnp.float32).reshape(B, P, -1)
  return logits_BPV if targets_BP is None else kernels.token_nll(logits_BPV, targets_BP)


def take_positions(x_BT: Shaped[Array, "B T ..."], positions: tuple[int, ...]) -> Shaped[Array, "B P ..."]:
  """Returns x at static positions: a strided slice where they are evenly spaced (cheaper than a gather)."""
  strides = set(np.diff(positions))
  if len(positions) > 1 and len(strides) == 1 and (stride := int(strides.pop())) > 0:
    return x_BT[:, positions[0] : positions[-1] + 1 : stride]
  return x_BT[:, np.array(positions)]
