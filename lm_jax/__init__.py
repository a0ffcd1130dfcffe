"""lm_jax: scaling experiments on language models, from one config to an emergence curve."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from lm_jax.language_model import LanguageModel

__version__ = "0.1.0"


def load(path: str | Path, *, weights: str = "float32") -> "LanguageModel":
  """Opens a language model, to generate, score and encode text with.

      model = lm_jax.load("runs/llama")
      print(model.generate("Artificial intelligence will", max_new_tokens=20)[0])

  Args:
    path: a run of lm-jax train, a folder of lm-jax convert or of Hugging Face transformers, a name on its hub
      ("org/name"), a GGUF file, or a llama2.c .bin beside its tok*.bin.
    weights: what matrices are held in: "float32", "bfloat16" or "int8".

  Raises:
    ConfigError: no model there, or one that is broken, in one line.
  """
  # Here, so that importing the package loads no jax.
  from lm_jax.language_model import LanguageModel

  return LanguageModel.load(path, weights=weights)
