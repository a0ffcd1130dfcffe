"""Tokenizers: bytes, BPE and WordPiece by the `tokenizers` library, SentencePiece; see base.py."""

from lm_jax.strict import ConfigError
from lm_jax.tokenizers.base import Tokenizer, TokenizerSpec
from lm_jax.tokenizers.byte import Bytes
from lm_jax.tokenizers.files import load
from lm_jax.tokenizers.training import train

__all__ = ["Bytes", "Tokenizer", "load", "make", "train"]


def make(config: TokenizerSpec) -> Tokenizer:
  """Returns the tokenizer of a resolved config that needs no training: bytes, or a file's.

  Raises:
    ConfigError: if the file is not the one that the config was resolved with.
  """
  if config.kind == "bytes":
    return Bytes()
  if config.kind != "file":
    raise ConfigError(f"tokenizer.kind={config.kind!r}: must be bytes or file; others are trained on texts")
  loaded = load(config.path)
  if config.digest is not None and loaded.digest != config.digest:
    raise ConfigError(
      f"tokenizer {config.path}: has changed: its digest is {loaded.digest}, was {config.digest}"
    )
  return loaded
