"""Logical axes: which axis of which array may be split over devices, in words that know no device.

A parameter's axes have names (`parameter_axes`), activations are named where they are made (`constrain`),
and rules say which names a mesh splits. Without rules in force, as on one device or under pmap, every
function here does nothing.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

from flax import linen as nn
from jax.sharding import Mesh

Rules = Sequence[tuple[str, str | tuple[str, ...]]]  # (logical axis, axes of the mesh)

BATCH, EMBED, HEADS, MLP, VOCAB = "batch", "embed", "heads", "mlp", "vocab"

# By the last names of a parameter's path. Vectors of the size of the residual stream are not split: they
# are small, and every device needs all of them in every layer.
_KERNELS = {
  "query": (EMBED, HEADS), "key": (EMBED, HEADS), "value": (EMBED, HEADS), "out": (HEADS, EMBED),
  "up": (EMBED, MLP), "gate": (EMBED, MLP), "down": (MLP, EMBED), "output": (EMBED, VOCAB),
  "dense": (EMBED, None), "pooler": (EMBED, None),
  "next_sentence": (EMBED, None), "classifier": (EMBED, None),
}  # fmt: skip
_TABLES = {"table": (VOCAB, EMBED), "positions": (None, EMBED), "segments": (None, EMBED)}


def parameter_axes(path: tuple, ndim: int) -> tuple[str | None, ...]:
  """Returns the logical axes of an array of the training state, from its path in the tree.

  The optimizer's moments have their parameter's path at their end, and its axes where they have its
  rank. Scanned layers have one axis more, in front, which is not split.
  """
  names = [str(getattr(entry, "key", getattr(entry, "name", ""))) for entry in path]
  *_, module, name = ["", "", *names]
  axes: tuple[str | None, ...]
  if name == "kernel":
    axes = _KERNELS[module]
  elif name == "bias" and module in _KERNELS:
    axes = tuple(axis for axis in _KERNELS[module][1:] if axis != EMBED) or (None,)
  else:
    axes = _TABLES.get(name, (None,) * ndim)
  stacked = ndim - len(axes) == 1 and "blocks" in names
  if ndim != len(axes) + stacked:  # a factored moment, of a shape of its own
    return (None,) * ndim
  return (None,) * stacked + axes


_mesh: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("mesh", default=None)


@contextlib.contextmanager
def in_force(mesh: Mesh, rules: Rules) -> Iterator[None]:
  """Puts rules in force for what is traced inside."""
  token = _mesh.set(mesh)
  try:
    with nn.logical_axis_rules(rules):
      yield
  finally:
    _mesh.reset(token)


def is_split(axis: str) -> bool:
  """Whether the rules in force split a logical axis."""
  return any(name == axis for name, _ in nn.get_logical_axis_rules())


def constrain(x: Any, *axes: str | None) -> Any:
  """Says how an activation is split; the compiler then moves parameters to it, and not it to them."""
  mesh = _mesh.get()
  return x if mesh is None else nn.with_logical_constraint(x, axes, mesh=mesh)
