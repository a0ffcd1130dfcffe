"""The families of models that are read and written: a module each, one table for both ways."""

from collections.abc import Mapping
from typing import Any

from lm_jax.interop.families import bert, gpt2, gpt_neox, llama
from lm_jax.interop.families.base import Family, Row
from lm_jax.strict import ConfigError, nearest

__all__ = ["FAMILIES", "Family", "Row", "of"]

FAMILIES = {
  family.model_type: family
  for family in (gpt2.FAMILY, gpt_neox.FAMILY, llama.FAMILY, llama.MISTRAL, llama.QWEN2, bert.FAMILY)
}


def of(config: Mapping[str, Any], where: str) -> Family:
  """Returns the family of a config.json; raises ConfigError for one that is not known."""
  architectures = config.get("architectures") or []
  if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
    raise ConfigError(f"{where}: architectures={architectures!r}: must be a list of names")
  classes = {name: family for family in FAMILIES.values() for name in family.architectures}
  for name in architectures:
    if name not in classes:
      raise ConfigError(f"{where}: architectures={name!r}: is not supported{nearest(name, classes)}")
  if architectures:
    return classes[architectures[0]]
  kind = config.get("model_type")
  if kind not in FAMILIES:
    raise ConfigError(f"{where}: model_type={kind!r}: is not supported{nearest(str(kind), FAMILIES)}")
  return FAMILIES[kind]
