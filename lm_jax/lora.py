"""LoRA, low-rank adaptation (Hu et al., arXiv:2106.09685), as functions on parameter trees.

A kernel W [in, out] becomes W + alpha / r * A B with A [in, r], B [r, out] and r much smaller than both. A is
random and B is 0, so that training starts at the model as it was (section 4.1). The modules know nothing of
it: they are applied to the merged kernels.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lm_jax.param_paths import flat, name
from lm_jax.strict import ConfigError, nearest

Factors = dict[str, tuple[jax.Array, jax.Array]]  # "block_0/attention/query/kernel": (A, B)


def target_paths(params: Any, targets: Sequence[str]) -> dict[str, tuple[int, ...]]:
  """Returns {path: shape} of the kernels of `params` that belong to modules named `targets`.

  Raises:
    ConfigError: a target that the model does not have.
  """
  kernels = {
    path: x.shape for path, x in flat(params).items() if path.endswith("/kernel") and path.startswith("block")
  }
  owner = {path: path.split("/")[-2] for path in kernels}
  for target in targets:
    if target not in owner.values():
      have = dict.fromkeys(owner.values())
      raise ConfigError(f"config.lora.targets={target!r}: the model has none{nearest(target, have)}")
  return {path: shape for path, shape in kernels.items() if owner[path] in targets}


def init(params: Any, rank: int, key: jax.Array, targets: Sequence[str] = ("query", "value")) -> Factors:
  """Returns (A, B) for every target kernel: A ~ N(0, 1/in), B = 0.

  Kernels [L, in, out] of scanned layers have factors [L, in, r] and [L, r, out].

  Raises:
    ConfigError: a rank larger than a kernel's smaller side, or a target that the model does not have.
  """
  factors = {}
  for i, (path, (*layers, fan_in, fan_out)) in enumerate(target_paths(params, targets).items()):
    if rank > min(fan_in, fan_out):
      raise ConfigError(
        f"config.lora.rank={rank}: must be at most {min(fan_in, fan_out)}, a side of {path} "
        f"[{fan_in}, {fan_out}]"
      )
    a = jax.random.normal(jax.random.fold_in(key, i), (*layers, fan_in, rank)) / math.sqrt(fan_in)
    factors[path] = a, jnp.zeros((*layers, rank, fan_out))
  return factors


def merge(params: Any, factors: Factors, alpha: float) -> Any:
  """Returns `params` with W + alpha / r * A B in the place of every kernel W that has factors."""

  def merged(path: tuple, w: jax.Array) -> jax.Array:
    if name(path) not in factors:
      return w
    a, b = factors[name(path)]
    return w + alpha / a.shape[-1] * (a @ b)

  return jax.tree_util.tree_map_with_path(merged, params)
