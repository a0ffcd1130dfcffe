"""Folders of Hugging Face transformers: config.json, safetensors, tokenizer; read and written.

What differs between families of models is in families/, as tables.
"""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax import parametrization
from lm_jax.interop import families, folders, hf_tokenizers, tensor_files
from lm_jax.interop.families import Family, Row
from lm_jax.interop.tensor_files import TensorFiles
from lm_jax.model_config import ModelConfig
from lm_jax.param_paths import flat, nested
from lm_jax.pretrained import Pretrained, block_shapes, check_tokenizer, listed, mismatches, unstacked
from lm_jax.strict import ConfigError

CONFIG = "config.json"
SHARD_BYTES = 5 * 10**9


def load(folder: Path, *, name: str = "--model") -> Pretrained:
  """Opens a folder of transformers, one tensor at a time: memory stays near one copy of the model.

  Raises:
    ConfigError: another family, a field of config.json that cannot be expressed, tensors that do not fit,
      pickled or broken weights.
  """
  where = f"{name}={folder}"
  config = folders.read_json(folder / CONFIG, where)
  family = families.of(config, f"{where}: {CONFIG}")
  tensors = tensor_files.open_folder(folder, where)
  names = _canonical(family, tensors.shapes)
  model = family.read(config, names, f"{where}: {CONFIG}")
  names = _without_ties(family, model, names, tensors, where)
  params = _read_params(family, model, names, tensors, where)
  text = hf_tokenizers.load(folder, config, causal=model.causal)
  check_tokenizer(model, text.tokenizer, where)
  files = [folder / CONFIG, *tensors.files]
  return Pretrained(
    model, params, text.tokenizer, text.specials, text.begin, text.chat_template, family.model_type,
    folders.identity(files, text.tokenizer),
  )  # fmt: skip


def _canonical(family: Family, names: Collection[str]) -> dict[str, str]:
  """Returns {name without prefix, in today's words: name in the file}, without buffers."""
  found = {}
  for name in names:
    plain = name.removeprefix(family.prefix)
    for old, new in family.synonyms.items():
      plain = plain.replace(old, new)
    if not re.fullmatch(family.buffers, plain):
      found[plain] = name
  return found


def _without_ties(
  family: Family, model: ModelConfig, names: dict[str, str], tensors: TensorFiles, where: str
) -> dict[str, str]:
  """Returns the names without the second ones of tied tensors, which must be equal to the first ones."""
  names = dict(names)
  for alias, owner in family.aliases(model).items():
    if alias not in names:
      continue
    second = names.pop(alias)
    first = names.setdefault(owner, second)
    if first == second:
      continue
    if tensors.shapes[first] != tensors.shapes[second] or not np.array_equal(
      tensors.read(first), tensors.read(second)
    ):
      raise ConfigError(f"{where}: {second} differs from {first}, which its {CONFIG} says it is tied to")
  return names


def _read_params(
  family: Family, model: ModelConfig, names: Mapping[str, str], tensors: TensorFiles, where: str
) -> dict[str, Any]:
  if model.num_layers > len(names):  # before as many names are made
    raise ConfigError(
      f"{where}: its {CONFIG} has {model.num_layers} layers, and there are {len(names)} tensors"
    )
  shapes, rows = block_shapes(model), family.rows(model)
  want = {row.theirs: row.transform.shape([shapes[path] for path in row.ours]) for row in rows}
  have = {name: tensors.shapes[file_name] for name, file_name in names.items()}
  differences = mismatches(have, want)
  if differences:
    raise ConfigError(f"{where}: its weights do not fit its {CONFIG}: {listed(differences)}")
  params = {}
  for row in rows:
    parts = row.transform.load(tensors.read(names[row.theirs]), model.num_heads)
    params |= {path: np.ascontiguousarray(x) for path, x in zip(row.ours, parts, strict=True)}
  return nested(params)


@dataclasses.dataclass(frozen=True)
class Plan:
  """How a model is written: its family, and what it is there."""

  family: Family
  config: dict[str, Any]


def plan(p: Pretrained) -> Plan:
  """Returns how a model is written; raises ConfigError with all that the nearest family cannot express."""
  order = sorted(families.FAMILIES.values(), key=lambda family: family.model_type != p.family)
  found = [(family, _obstacles(family, p.model)) for family in order]
  family, obstacles = min(found, key=lambda entry: entry[1].distance)
  if obstacles.reasons:
    raise ConfigError(
      f"--to=huggingface: no family of transformers has such a model; the nearest is {family.model_type}, "
      f"but for {listed(obstacles.reasons)}"
    )
  return Plan(family, family.write(p.model))


@dataclasses.dataclass(frozen=True)
class _Obstacles:
  """Why a family cannot express a model, and how far it is from it."""

  reasons: list[str]
  distance: float


def _obstacles(family: Family, model: ModelConfig) -> _Obstacles:
  multipliers = (
    parametrization.output_multiplier(model), parametrization.residual_multiplier(model),
    parametrization.attention_multiplier(model),
  )  # fmt: skip
  try:
    found = family.obstacles(model)
  except ConfigError as error:
    return _Obstacles([str(error)], math.inf)
  if any(multiplier != 1 for multiplier in multipliers):
    found.append(f"parametrization={model.parametrization}, whose multipliers are not 1 at this size")
  return _Obstacles(found, len(found))


def export(p: Pretrained, target: Path, *, shard_bytes: int = SHARD_BYTES) -> str:
  """Writes a folder that transformers opens with the same logits, whole or not at all; returns its class.

  Args:
    shard_bytes: of a file of weights, at most, unless one tensor is larger.

  Raises:
    ConfigError: a model or tokenizer that transformers has no form for, or something at `target`.
  """
  p = unstacked(p)
  written = plan(p)
  leaves, rows = flat(p.params), written.family.rows(p.model)
  bare = not p.model.lm_head
  with folders.written_whole(target) as folder:
    ids = _special_ids(p)
    hf_tokenizers.write_json(folder / CONFIG, written.config | ids)
    if p.model.causal:
      hf_tokenizers.write_json(folder / hf_tokenizers.GENERATION, {"_from_model_config": True, **ids})
    shards = _shards(rows, leaves, shard_bytes)
    for i, shard in enumerate(shards):
      tensors = {
        _full_name(written.family, row.theirs, bare): row.transform.store(
          [np.asarray(leaves[path]) for path in row.ours], p.model.num_heads
        )
        for row in shard
      }
      tensor_files.save(tensors, folder / tensor_files.shard_name(i, len(shards)))
    if len(shards) > 1:
      names = [[_full_name(written.family, row.theirs, bare) for row in shard] for shard in shards]
      tensor_files.save_index(folder, names, sum(_bytes(row, leaves) for row in rows))
    if p.tokenizer is not None:
      hf_tokenizers.save(
        folder, p.tokenizer, p.specials, p.begin, p.chat_template, p.model.context_length,
        causal=p.model.causal,
      )  # fmt: skip
  return written.config["architectures"][0]


def _special_ids(p: Pretrained) -> dict[str, Any]:
  """Returns the ids of special tokens; transformers has defaults of its own where they are not written."""
  begin = p.begin[0] if p.begin else None
  return {
    "bos_token_id": p.specials.get("bos", begin), "eos_token_id": p.specials.get("end"),
    "pad_token_id": p.specials.get("pad"),
  }  # fmt: skip


def _full_name(family: Family, name: str, bare: bool) -> str:
  return name if bare or name.startswith(family.heads) else family.prefix + name


def _bytes(row: Row, leaves: Mapping[str, Any]) -> int:
  return sum(leaves[path].nbytes for path in row.ours)


def _shards(rows: list[Row], leaves: Mapping[str, Any], shard_bytes: int) -> list[list[Row]]:
  shards, size = [[]], 0
  for row in rows:
    if shards[-1] and size + _bytes(row, leaves) > shard_bytes:
      shards.append([])
      size = 0
    shards[-1].append(row)
    size += _bytes(row, leaves)
  return shards
