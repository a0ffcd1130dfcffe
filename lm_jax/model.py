"""A Transformer from a config: causal decoder, or bidirectional encoder (`causal=False`)."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Shaped

from lm_jax import attention, kernels, layers, parametrization, sharding, trees
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
    positions_BP: Int[Array, "B P"] | None = None,
    targets_BP: Int[Array, "B P"] | None = None,
    weights_BP: Float[Array, "B P"] | None = None,
    candidates_BPC: Int[Array, "B P C"] | None = None,
    documents_BT: Int[Array, "B T"] | None = None,
    prefix_BT: Bool[Array, "B T"] | None = None,
    segments_BT: Int[Array, "B T"] | None = None,
    slots: layers.Slots | trees.Tree | None = None,
    with_next_sentence: bool = False,
    deterministic: bool = True,
  ) -> (
    Float[Array, "B P V"]
    | Float[Array, "B P"]
    | Float[Array, ""]
    | tuple[Float[Array, "..."], Float[Array, "B 2"]]
    | tuple[Float[Array, "B P C"], Bool[Array, "B P C"]]
  ):
    """Returns logits at `label_positions` (default: everywhere, P = T), or -log p(target) there in nats.

    With `config.lm_head` false these are the last hidden states [B, P, D], after the final norm, float32.

    Args:
      label_positions: static positions; the output layer runs on these only.
      positions_BP: the same as data, for each sequence its own.
      targets_BP: asks for NLLs, for which the logits of a large vocabulary are never held at once.
      weights_BP: asks for the sum of these times the NLLs: a training loss.
      candidates_BPC: asks for (log p of these tokens in nats, whether each is the most likely one of all).
      documents_BT: the document of each token, whose tokens stand together. Tokens see those of their own
        only, and learned and sinusoidal positions count from its first one, so that a document gets the
        same numbers wherever it is packed; rotary ones are relative and need nothing. Padding is a document.
      prefix_BT: true at tokens that all of their document see, also from before them: a prefix LM
        (arXiv:1910.10683, section 3.2.1). For causal models; keys are then computed in full width.
      segments_BT: the segment of each token, below `config.num_segments`; default: 0.
      slots: where the tokens stand in the "cache" collection, which they are added to, see `kv_cache.read`;
        or in tries, see lm_jax/trees.py.
      with_next_sentence: asks for (the above, logits [B, 2] of the next-sentence head: not next, next).
      deterministic: false applies dropout, from the "dropout" rng.
    """
    c = self.config
    B, T = tokens_BT.shape
    if with_next_sentence and not c.next_sentence_head:
      raise ValueError("with_next_sentence asked of a model with next_sentence_head=false")
    embed, x_MD = self._trunk(tokens_BT, documents_BT, prefix_BT, segments_BT, deterministic, slots)
    norm = self._final_norm()
    next_B2 = None
    if c.pooler and self.is_initializing():
      self._pooled(norm(x_MD.reshape(B, T, -1)[:, 0]))
    if with_next_sentence or (c.next_sentence_head and self.is_initializing()):
      pooled_BD = self._pooled(norm(x_MD.reshape(B, T, -1)[:, 0]))
      next_B2 = self._classes(pooled_BD, 2, "next_sentence")
    x_MD = norm(select(x_MD, B, label_positions, positions_BP))
    if not c.lm_head:
      return kernels.widen(x_MD).reshape(B, -1, c.d_model)
    if c.output_transform:
      x_MD = layers.OutputTransform(c, name="output_transform")(x_MD)
    x_MD = layers.scaled(x_MD, parametrization.output_multiplier(c))
    if c.tie_embeddings:
      w_DV = embed.output_matrix()
      bias_V = layers.Bias(c.vocab_size, name="output")() if c.output_bias else None
    else:
      init = layers.output_init(c, c.vocab_size)
      w_DV, bias_V = layers.Weights(c.vocab_size, c.output_bias, init, name="output")(c.d_model)
    x_BPD = x_MD.reshape(B, -1, c.d_model)
    if candidates_BPC is not None:
      return kernels.candidate_scores(x_BPD, w_DV, bias_V, candidates_BPC)
    out = output(c, x_BPD, w_DV, bias_V, targets_BP, weights_BP)
    return (out, next_B2) if with_next_sentence else out

  def _trunk(
    self,
    tokens_BT: Array,
    documents_BT: Array | None,
    prefix_BT: Array | None,
    segments_BT: Array | None,
    deterministic: bool,
    slots: layers.Slots | trees.Tree | None = None,
  ) -> tuple[layers.Embedding, Float[Array, "M D"]]:
    """Returns the token table, and what comes out of the last block."""
    c = self.config
    B, T = tokens_BT.shape
    if T > c.context_length:
      raise ValueError(f"{T} tokens given to a model with context_length={c.context_length}")
    if prefix_BT is not None and not c.causal:
      raise ValueError("a prefix given to a model with causal=false, where every token is seen by all")
    embed = layers.Embedding(c.vocab_size, c, name="embedding")
    x_MD = embed(tokens_BT.reshape(-1))
    if c.scale_embeddings:
      x_MD *= math.sqrt(parametrization.base_width(c))
    positions_BT = None if documents_BT is None else attention.document_positions(documents_BT)
    if slots is not None:
      positions_BT = slots.depth_BT if isinstance(slots, trees.Tree) else slot_positions(slots, T)
      slots = self._with_angles(slots, positions_BT)
    x_MD = self._add_positions(x_MD, B, T, positions_BT)
    x_MD = self._add_segments(x_MD, segments_BT)
    if c.embedding_norm:
      x_MD = layers.Norm(c, name="embedding_norm")(x_MD)
    x_MD = x_MD.astype(c.dtype)
    x_MD = nn.Dropout(c.dropout, deterministic=deterministic)(x_MD)
    return embed, self._blocks(x_MD, tokens_BT, documents_BT, prefix_BT, deterministic, slots)

  def _add_positions(self, x_MD: Array, B: int, T: int, positions_BT: Array | None) -> Array:
    c = self.config
    if c.positions == "learned":
      table = self.param("positions", layers.embedding_init(c), (c.context_length, c.d_model))
    elif c.positions == "sinusoidal":
      table = layers.sinusoids(c.context_length, c.d_model)
    else:
      return x_MD
    if positions_BT is not None:
      return x_MD + jnp.asarray(table)[positions_BT.reshape(-1)]
    return (x_MD.reshape(B, T, -1) + table[None, :T]).reshape(B * T, -1)

  def _with_angles(self, slots: layers.Slots | trees.Tree, positions_BT: Array) -> layers.Slots | trees.Tree:
    c = self.config
    if c.positions != "rope":
      return slots
    cos, sin = (jnp.asarray(table)[positions_BT] for table in layers.rotary_tables(c, c.context_length))
    return dataclasses.replace(slots, cos_BTX=cos, sin_BTX=sin)

  def _add_segments(self, x_MD: Array, segments_BT: Array | None) -> Array:
    c = self.config
    if not c.num_segments:
      if segments_BT is not None:
        raise ValueError("segments given to a model with num_segments=0")
      return x_MD
    table = self.param("segments", layers.embedding_init(c), (c.num_segments, c.d_model))
    return x_MD + (table[:1] if segments_BT is None else table[segments_BT.reshape(-1)])

  def _blocks(
    self,
    x_MD: Array,
    tokens_BT: Array,
    documents_BT: Array | None,
    prefix_BT: Array | None,
    deterministic: bool,
    slots: layers.Slots | trees.Tree | None,
  ) -> Float[Array, "M D"]:
    c, B = self.config, len(tokens_BT)
    Block, how = rematerialized(c), (documents_BT, prefix_BT, deterministic, slots)
    if not c.scan_layers:
      apart = c.remat != "none" and jax.default_backend() == "cpu" and not self.is_initializing()
      for layer in range(c.num_layers):
        x_MD = sharding.constrain(x_MD, sharding.BATCH, None)
        block = Block(c, name=f"block_{layer}")
        x_MD = (_run_apart if apart else _run)(block, x_MD, tokens_BT, *how)
      return sharding.constrain(x_MD, sharding.BATCH, None)

    def body(block: layers.Block, x_MD: Array, _: None) -> tuple[Array, None]:
      x_MD = sharding.constrain(x_MD, sharding.BATCH, None)
      return block(x_MD, B, *how), None

    scan = nn.scan(
      body,
      variable_axes={"params": 0, "cache": 0},
      split_rngs={"params": True, "dropout": True},
      length=c.num_layers,
    )
    return scan(Block(c, name="blocks"), x_MD, None)[0]

  def _final_norm(self) -> Callable[[Array], Array]:
    # Post-norm blocks end in a norm of their own (arXiv:1706.03762).
    pre = self.config.norm_position == "pre"
    return layers.Norm(self.config, name="final_norm") if pre else lambda x_MD: x_MD

  def _pooled(self, x_BD: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Returns tanh(z W + b) of first tokens (BERT's pooler)."""
    c = self.config
    weights = layers.Weights(c.d_model, True, layers.kernel_init(c), name="pooler")(c.d_model)
    return jnp.tanh(layers.linear(x_BD, weights)[0])

  def _classes(self, x_BD: Float[Array, "B D"], num_classes: int, name: str) -> Float[Array, "B C"]:
    """Returns logits z W + b, float32."""
    c = self.config
    init = layers.output_init(c, num_classes)
    kernel_DC, bias_C = layers.Weights(num_classes, True, init, name=name)(c.d_model)
    x_BD = layers.scaled(x_BD, parametrization.output_multiplier(c))
    return kernels.affine(x_BD, kernel_DC, bias_C)


class Classifier(Transformer):
  """Maps tokens to the logits of classes; but for the output layer, its parameters are the Transformer's.

  An encoder's first token is pooled, as in BERT (arXiv:1810.04805, section 4.1); a decoder's last one is
  taken as it is (Radford et al. 2018, section 3.2).
  """

  num_classes: int

  @nn.compact
  def __call__(
    self,
    tokens_BT: Int[Array, "B T"],
    *,
    last_B: Int[Array, "B"] | None = None,
    documents_BT: Int[Array, "B T"] | None = None,
    segments_BT: Int[Array, "B T"] | None = None,
    deterministic: bool = True,
  ) -> Float[Array, "B C"]:
    """Returns logits, float32.

    Args:
      last_B: index of each sequence's last token; default: T - 1. Read by decoders only.
      documents_BT, segments_BT, deterministic: see Transformer.
    """
    c = self.config
    B, T = tokens_BT.shape
    _, x_MD = self._trunk(tokens_BT, documents_BT, None, segments_BT, deterministic)
    x_BTD = x_MD.reshape(B, T, -1)
    if c.causal:
      x_BD = (
        x_BTD[:, -1] if last_B is None else jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)[:, 0]
      )
      x_BD = self._final_norm()(x_BD)
    else:
      x_BD = self._pooled(self._final_norm()(x_BTD[:, 0]))
    x_BD = nn.Dropout(c.dropout, deterministic=deterministic)(x_BD)
    return self._classes(x_BD, self.num_classes, "classifier")


def slot_positions(slots: layers.Slots, T: int) -> Int[Array, "B T"]:
  """Returns the positions of the T tokens of a call, counted from each sequence's first; 0 before it."""
  slot_T = slots.start + jnp.arange(T, dtype=jnp.int32)
  return jnp.maximum(slot_T[None] - slots.first_B[:, None], 0)


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
    static_argnums=(2, 5),  # batch, deterministic
  )


def output(
  c: ModelConfig,
  x_BPD: Float[Array, "B P D"],
  w_DV: kernels.Matrix,
  bias_V: Float[Array, "V"] | None,
  targets_BP: Int[Array, "B P"] | None = None,
  weights_BP: Float[Array, "B P"] | None = None,
) -> Float[Array, "B P V"] | Float[Array, "B P"] | Float[Array, ""]:
  """Returns logits, or the NLLs of targets, or their weighted sum.

  NLLs are computed by way of all logits where those are small, else in chunks.
  """
  B, P, D = x_BPD.shape
  if targets_BP is not None and (size := c.loss_chunk(B, P, jax.default_backend())) < P:
    if weights_BP is not None:
      return kernels.chunked_loss(x_BPD, w_DV, bias_V, targets_BP, weights_BP, size)
    return kernels.chunked_nll(x_BPD, w_DV, bias_V, targets_BP, size)
  logits_BPV = kernels.affine(x_BPD.reshape(-1, D), w_DV, bias_V).reshape(B, P, -1)
  if targets_BP is None:
    return logits_BPV
  nll_BP = kernels.token_nll(logits_BPV, targets_BP)
  return nll_BP if weights_BP is None else (nll_BP * weights_BP).sum()


def select(
  x_MD: Float[Array, "M D"],
  batch: int,
  positions: tuple[int, ...] | None,
  positions_BP: Int[Array, "B P"] | None,
) -> Float[Array, "N D"]:
  """Returns the tokens at static positions, or at each sequence's own, or all of them."""
  D = x_MD.shape[1]
  if positions_BP is not None:
    if positions is not None:
      raise ValueError("label_positions and positions_BP given: one of them says where logits are wanted")
    return jnp.take_along_axis(x_MD.reshape(batch, -1, D), positions_BP[..., None], axis=1).reshape(-1, D)
  if positions is None or positions == tuple(range(len(x_MD) // batch)):
    return x_MD
  return take_positions(x_MD.reshape(batch, -1, D), positions).reshape(-1, D)


def take_positions(x_BT: Shaped[Array, "B T ..."], positions: tuple[int, ...]) -> Shaped[Array, "B P ..."]:
  """Returns x at static positions: a strided slice where they are evenly spaced (cheaper than a gather)."""
  strides = set(np.diff(positions))
  if len(positions) > 1 and len(strides) == 1 and (stride := int(strides.pop())) > 0:
    return x_BT[:, positions[0] : positions[-1] + 1 : stride]
  return x_BT[:, np.array(positions)]
