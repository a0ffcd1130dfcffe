"""Rotary positions in config.json: rope_parameters as transformers 5 writes it, or what older ones write."""

from collections.abc import Mapping
from typing import Any

from lm_jax.interop.families.base import REQUIRED, positive, value_of
from lm_jax.model_config import ModelConfig, RopeScaling
from lm_jax.strict import ConfigError, nearest

KINDS = {"default": "none", "linear": "linear", "llama3": "llama3"}
DEFAULT_THETA = 10_000.0


def read(
  config: Mapping[str, Any], where: str, theta: str = "rope_theta", fraction: str | None = None,
  default_fraction: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
  """Returns rope_theta, rope_scaling and rotary_fraction of ModelConfig.

  Args:
    theta, fraction: what older versions call them at the top level; fraction None: all is rotated.
  """
  # Where both are there, transformers takes the older one.
  rope = _group(config, "rope_scaling", where) or _group(config, "rope_parameters", where)
  found = value_of(rope, "rope_theta", float | None, None, where)
  older = positive(config, fraction or "partial_rotary_factor", default_fraction, where)
  share = positive(rope, "partial_rotary_factor", older, where)
  if fraction is None and share != 1:
    raise ConfigError(f"{where}: partial_rotary_factor={share}: is not supported; must be 1")
  return {
    "rope_theta": positive(config, theta, DEFAULT_THETA, where) if found is None else found,
    "rope_scaling": _scaling(rope, config, where), "rotary_fraction": share,
  }  # fmt: skip


def _group(config: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
  group = config.get(key) or {}
  if not isinstance(group, dict) or any(isinstance(value, dict) for value in group.values()):
    raise ConfigError(f"{where}: {key}: must be one group of fields")
  return group


def _scaling(rope: Mapping[str, Any], config: Mapping[str, Any], where: str) -> RopeScaling:
  kind = rope.get("rope_type", rope.get("type", "default"))
  if kind not in KINDS:
    raise ConfigError(f"{where}: rope_type={kind!r}: is not supported{nearest(str(kind), KINDS)}")
  if kind == "default":
    return RopeScaling()
  factor = positive(rope, "factor", REQUIRED, where)
  if kind == "linear":
    return RopeScaling("linear", factor)
  low, high = (positive(rope, f"{name}_freq_factor", REQUIRED, where) for name in ("low", "high"))
  key = "original_max_position_embeddings"
  original = value_of({**config, **rope}, key, int, REQUIRED, where)
  return RopeScaling("llama3", factor, low, high, original)


def write(model: ModelConfig, theta: str = "rope_theta") -> dict[str, Any]:
  """Returns the fields as older versions call them, which newer ones read too."""
  s = model.rope_scaling
  fields: dict[str, Any] = {theta: model.rope_theta}
  if s.kind == "none":
    return fields
  scaling: dict[str, Any] = {"rope_type": s.kind, "factor": s.factor}
  if s.kind == "llama3":
    scaling |= {
      "low_freq_factor": s.low_frequency_factor, "high_freq_factor": s.high_frequency_factor,
      "original_max_position_embeddings": s.original_context_length,
    }  # fmt: skip
  return fields | {"rope_scaling": scaling}
