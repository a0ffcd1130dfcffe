"""Models by their names on the Hugging Face hub, "org/name" or "org/name@revision"."""

import os
import re
from pathlib import Path

from lm_jax.strict import ConfigError

NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# Weights and text, and nothing that could run.
ALLOWED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
BESIDE = ("*/*",)  # other formats and older checkpoints, in folders


def is_name(path: str) -> bool:
  """Whether a path that does not exist is a name on the hub: no folder of it is here."""
  return bool(NAME.fullmatch(path)) and not Path(path).parent.exists()


def download(path: str, name: str = "--model") -> Path:
  """Returns the folder of a model in the local cache, which is filled from the hub where it has to be.

  Raises:
    ConfigError: no huggingface_hub package, no network and nothing cached, or no such model.
  """
  try:
    import huggingface_hub
    from huggingface_hub import errors
  except ImportError:
    raise ConfigError(
      f"{name}={path}: no such file or folder; to fetch it from the Hugging Face hub: "
      "pip install 'lm_jax[huggingface]'"
    ) from None
  found = NAME.fullmatch(path)
  where = f"{name}={path}: no such file or folder, and"
  try:
    return Path(
      huggingface_hub.snapshot_download(
        found["name"], revision=found["revision"], allow_patterns=list(ALLOWED), ignore_patterns=list(BESIDE)
      )
    )
  except errors.LocalEntryNotFoundError:
    offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
    raise ConfigError(f"{where} the Hugging Face hub cannot be reached{offline}, nor is it cached") from None
  except errors.GatedRepoError:
    raise ConfigError(
      f"{where} on the Hugging Face hub it is gated: ask for access, then hf auth login"
    ) from None
  except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
    reason = str(error).strip().splitlines()[0]
    raise ConfigError(f"{where} the Hugging Face hub gave none ({reason})") from None
