"""lm_jax's own model folder: all that using a model needs, and nothing of how it was trained.

model.json   model, special tokens, family, chat template      model.safetensors   parameters by their paths
tokenizer/   where it has one
"""

from pathlib import Path
from typing import Any

from lm_jax import rundir, strict, tokenizers
from lm_jax.interop import folders, tensor_files
from lm_jax.model_config import ModelConfig, check
from lm_jax.param_paths import flat, nested
from lm_jax.pretrained import TOKENIZER, Pretrained, check_tokenizer, listed, mismatches, shapes
from lm_jax.strict import ConfigError

FILE, FORMAT = "model.json", 1
# What of a model is said beside its ModelConfig, and its types.
FACTS: dict[str, Any] = {
  "specials": dict, "begin": tuple[int, ...], "chat_template": str | None, "family": str, "step": int,
  "tokenizer": str | None,
}  # fmt: skip


def save(p: Pretrained, target: Path) -> str:
  """Writes a model folder, whole or not at all; raises ConfigError if there is something at `target`.

  Returns:
    what was written, in words.
  """
  with folders.written_whole(target) as folder:
    tensor_files.save(flat(p.params), folder / tensor_files.FILE)
    if p.tokenizer is not None:
      p.tokenizer.save(folder / TOKENIZER)
    rundir.write_json(folder / FILE, {
      "format": FORMAT, "family": p.family, "model": strict.to_dict(p.model), "specials": p.specials,
      "begin": list(p.begin), "chat_template": p.chat_template, "step": p.step,
      "tokenizer": p.tokenizer.digest if p.tokenizer else None,
    })  # fmt: skip
  return "lm_jax model"


def load(folder: Path, *, name: str = "--model") -> Pretrained:
  """Opens what `save` wrote; raises ConfigError if its parts are broken or do not fit each other."""
  where = f"{name}={folder}"
  saved = folders.read_json(folder / FILE, where)
  if saved.pop("format", None) != FORMAT:
    raise ConfigError(f"{where}: its {FILE} is not of format {FORMAT}, the only one that is known")
  model = strict.from_mapping(ModelConfig, saved.pop("model", None), f"{where}: {FILE}: model")
  check(model)
  facts = {key: _fact(saved, key, where) for key in FACTS}
  tensors = tensor_files.open_folder(folder, where)
  differences = mismatches(tensors.shapes, {path: x.shape for path, x in flat(shapes(model)).items()})
  if differences:
    raise ConfigError(f"{where}: its weights do not fit its {FILE}: {listed(differences)}")
  tokenizer = tokenizers.load(folder / TOKENIZER) if facts["tokenizer"] else None
  digest = tokenizer.digest if tokenizer else None
  if digest != facts.pop("tokenizer"):
    raise ConfigError(f"{where}: its tokenizer is not the one that the model was saved with")
  check_tokenizer(model, tokenizer, where)
  params = nested({path: tensors.read(path) for path in tensors.shapes})
  identity = folders.identity([folder / FILE, *tensors.files], tokenizer)
  return Pretrained(model, params, tokenizer, identity=identity, **facts)


def _fact(saved: dict[str, Any], key: str, where: str) -> Any:
  if key not in saved:
    raise ConfigError(f"{where}: its {FILE} lacks {key}")
  if FACTS[key] is dict:
    items = saved[key].items() if isinstance(saved[key], dict) else [(key, saved[key])]
    return {k: strict.convert(int, v, f"{where}: {FILE}: {key}.{k}") for k, v in items}
  return strict.convert(FACTS[key], saved[key], f"{where}: {FILE}: {key}")
