"""Named Transformer styles: the fields in which the published architectures differ.

Sizes (d_model, num_layers, ...) are never part of a style; `--config.model.preset=llama` changes the
style of any config and leaves its sizes alone.
"""

PRESETS = {
  # Vaswani et al. 2017, arXiv:1706.03762: post-norm, ReLU, sinusoids, embeddings scaled by sqrt(d).
  "original": {
    "positions": "sinusoidal", "norm": "layernorm", "norm_position": "post", "activation": "relu",
    "tie_embeddings": True, "use_bias": True, "scale_embeddings": True, "parallel_block": False,
    "initializer": "xavier_uniform",
  },
  # Radford et al. 2019: pre-norm, GELU (tanh form), learned positions, residual init over sqrt(2 L).
  "gpt2": {
    "positions": "learned", "norm": "layernorm", "norm_position": "pre", "activation": "gelu",
    "tie_embeddings": True, "use_bias": True, "scale_embeddings": False, "parallel_block": False,
    "initializer": "gpt2",
  },
  # Chowdhery et al. 2022, arXiv:2204.02311: parallel block, SwiGLU, RoPE, multi-query, no biases.
  "palm": {
    "positions": "rope", "norm": "layernorm", "norm_position": "pre", "activation": "swiglu",
    "tie_embeddings": True, "use_bias": False, "scale_embeddings": True, "parallel_block": True,
    "num_kv_heads": 1, "initializer": "fan_in",
  },
  # Devlin et al. 2019, arXiv:1810.04805, and its released code: the encoder of "original" with GELU, learned
  # positions, segments, a normed embedding, and heads for masked tokens and for the next sentence.
  "bert": {
    "positions": "learned", "norm": "layernorm", "norm_position": "post", "norm_epsilon": 1e-12,
    "activation": "gelu", "tie_embeddings": True, "use_bias": True, "scale_embeddings": False,
    "parallel_block": False, "causal": False, "num_segments": 2, "embedding_norm": True,
    "output_transform": True, "output_bias": True, "next_sentence_head": True, "initializer": "normal",
  },
  # Touvron et al. 2023, arXiv:2302.13971: RMSNorm, SwiGLU, RoPE, untied output, no biases.
  "llama": {
    "positions": "rope", "norm": "rmsnorm", "norm_position": "pre", "activation": "swiglu",
    "tie_embeddings": False, "use_bias": False, "scale_embeddings": False, "parallel_block": False,
    "initializer": "gpt2",
  },
}  # fmt: skip
