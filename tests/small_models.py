"""Folders of small models, randomly drawn, and a small tokenizer with special tokens."""

from pathlib import Path
from typing import Any

import numpy as np
from reference import random_params

from lm_jax import model_config, tokenizers
from lm_jax.interop import native
from lm_jax.pretrained import Pretrained
from lm_jax.strict import from_mapping
from lm_jax.tokenizers.library import LibraryTokenizer

CONTEXT = 64
CHATML = (
  "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
  "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[CLS]", "[SEP]", "[MASK]"]
TEXT = ["The cat sat on the mat, and the dog sat on the cat. Who sat where? user assistant system"]


def config(vocab_size: int, **fields: Any) -> model_config.ModelConfig:
  sizes = {"preset": "gpt2", "d_model": 16, "num_layers": 1, "num_heads": 2, "context_length": CONTEXT}
  model = from_mapping(model_config.ModelConfig, sizes | fields | {"vocab_size": vocab_size})
  return model_config.resolve(model, vocab_size, CONTEXT)


def of_bytes(**fields: Any) -> Pretrained:
  """Returns a causal LM of bytes, in which texts begin and end with token 256."""
  model = config(257, **fields)
  return Pretrained(model, random_params(model), tokenizers.Bytes(), {"end": 256}, (256,))


def of_pieces(chat_template: str | None = CHATML, **fields: Any) -> Pretrained:
  """Returns a model of a BPE that has SPECIAL."""
  tokenizer = bpe()
  model = config(tokenizer.vocab_size, **fields)
  specials = tokenizer.specials | {"bos": tokenizer.controls["<s>"]}
  return Pretrained(model, random_params(model), tokenizer, specials, chat_template=chat_template)


def library() -> Any:
  """Returns a byte-level BPE of the `tokenizers` library."""
  import tokenizers as library
  from tokenizers import decoders, models, pre_tokenizers, trainers

  inner = library.Tokenizer(models.BPE())
  inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=340, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )  # fmt: skip
  inner.train_from_iterator(TEXT, trainer)
  return inner


def bpe() -> LibraryTokenizer:
  inner = library()
  return LibraryTokenizer(inner, {"tokenizer.json": inner.to_str().encode()})


def save(p: Pretrained, folder: Path) -> Path:
  native.save(p, folder)
  return folder


def log_softmax(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x, np.float64)
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))
