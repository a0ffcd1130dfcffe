"""lm_jax: scaling experiments on language models, from one config to an emergence curve."""

__version__ = "0.1.0"
