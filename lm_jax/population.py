"""Populations: cells of one shape, which differ only in data, and so share their programs.

Seeds, learning rate, weight decay and warmup are part of the state. On accelerators R runs are one program
over a state with a leading axis, spread over devices by jax.pmap and within a device vmapped: its units are
idle with one small model. On a CPU a vmapped step is slower than R steps (batched products of small
matrices): there the program of one run is dispatched for each in turn, and whichever runs train together,
each has the bits that it has alone.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from lm_jax import config as configs
from lm_jax import hosts, state, step, strict
from lm_jax.config import Config
from lm_jax.feed import Feed
from lm_jax.parallel import Solo
from lm_jax.state import TrainState
from lm_jax.strict import ConfigError
from lm_jax.tasks.base import Batch, Task


class InTurn:
  """The engine (parallel.Engine) of R runs on one device, by the programs of one; their state is a list."""

  def __init__(self, solo: Solo, num_members: int):
    # They share programs, and each has its own feed.
    self._solos = [copy.copy(solo) for _ in range(num_members)]
    self.num_members = num_members

  def start(self, configs: Sequence[Config]) -> list[TrainState]:
    return [solo.start([config]) for solo, config in zip(self._solos, configs, strict=True)]

  def run(self, s: list[TrainState], first: int, num_steps: int) -> tuple[list[TrainState], step.Metrics]:
    runs = [solo.run(one, first, num_steps) for solo, one in zip(self._solos, s, strict=True)]
    return [after for after, _ in runs], _listed([metrics for _, metrics in runs])

  def compile(self, configs: Sequence[Config]) -> jax.stages.Compiled:
    return self._solos[0].compile(configs[:1])

  def program(self, function: Callable) -> Callable:
    one = self._solos[0].program(function)
    return lambda s, *shared: _listed([one(member, *shared) for member in s])

  def by_member(self, tree: Any) -> Any:
    return jax.tree.map(np.stack, tree, is_leaf=lambda x: isinstance(x, list))

  def put_batches(self, batches: Batch) -> Batch:
    return self._solos[0].put_batches(batches)

  def split(self, s: list[TrainState]) -> list[TrainState]:
    return s

  def like(self, s: list[TrainState]) -> TrainState:
    return s[0]

  def join(self, members: Sequence[TrainState]) -> list[TrainState]:
    return list(members)


def _listed(by_member: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
  """Returns {name: what each member has}: nothing is computed that a device would have to wait for."""
  return {name: [one[name] for one in by_member] for name in by_member[0]}


class Population:
  """The engine (parallel.Engine) of R runs; their axis is [devices, R / devices] where there are several."""

  def __init__(self, members: Sequence[Config], task: Task, *, side_by_side: bool | None = None):
    """Makes the programs; unless `side_by_side`, as on a CPU, a device maps its members one after another."""
    check_members(members)
    config = members[0]
    if config.parallel.kind == "mesh" or jax.process_count() > 1:
      raise ConfigError("config.parallel.kind='mesh': a population's runs are each on one device")
    self.num_members = len(members)
    available = hosts.all_devices(config.parallel.num_devices)
    self._devices = available[: self.num_members] if config.parallel.kind != "single" else available[:1]
    self._side_by_side = self._devices[0].platform != "cpu" if side_by_side is None else side_by_side
    self._arrays, self._task = task.arrays, task
    self._feeds: list[Feed] = []
    self._init = self._mapped(lambda args: state.init_from(config, *args), 1, 0)
    self._run = self._mapped(step.make_run_steps(config, task), 2, 2, donate_argnums=0)

  def start(self, configs: Sequence[Config]) -> TrainState:
    self._feeds = self._make_feeds(configs)
    return self._init(self.join([state.inputs(c) for c in configs]))

  def run(self, s: TrainState, first: int, num_steps: int) -> tuple[TrainState, step.Metrics]:
    fed = self.join([feed.take(first, num_steps) for feed in self._feeds]) if self._feeds else ()
    return self._run(s, fed, self._arrays, np.int32(num_steps))

  def _make_feeds(self, configs: Sequence[Config]) -> list[Feed]:
    if not self._task.is_fed:
      return []
    size, most = configs[0].train.batch_size, configs[0].runtime.steps_per_dispatch
    return [Feed(self._task, state.data_seed(c), size, slice(0, size), most) for c in configs]

  def compile(self, configs: Sequence[Config]) -> jax.stages.Compiled:
    inputs = self.join([state.inputs(c) for c in configs])
    self._init.lower(inputs).compile()
    fed: Any = ()
    if feeds := self._make_feeds(configs):
      zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), feeds[0].shapes())
      fed = self.join([zeros] * len(configs))
    return self._run.lower(jax.eval_shape(self._init, inputs), fed, self._arrays, np.int32(1)).compile()

  def program(self, function: Callable) -> Callable:
    return self._mapped(function, 1, 1)

  def by_member(self, tree: Any) -> Any:
    def flat(x: Any) -> np.ndarray:
      x = np.asarray(x)
      x = x.reshape(-1, *x.shape[2:]) if len(self._devices) > 1 else x
      return x[: self.num_members]

    return jax.tree.map(flat, tree)

  def put_batches(self, batches: Batch) -> Batch:
    return jax.tree.map(jax.numpy.asarray, batches)

  def split(self, s: TrainState) -> list[TrainState]:
    leaves, tree = jax.tree.flatten(self.by_member(s))
    return [jax.tree.unflatten(tree, [x[i] for x in leaves]) for i in range(self.num_members)]

  def like(self, s: TrainState) -> TrainState:
    return self.split(s)[0]

  def join(self, members: Sequence[Any]) -> Any:
    """Stacks the members' trees; the last is repeated until every device has as many."""
    count = len(self._devices)
    filled = list(members) + [members[-1]] * (-len(members) % count)
    lead = (count, len(filled) // count) if count > 1 else (len(filled),)
    return jax.tree.map(lambda *xs: np.stack(xs).reshape(*lead, *np.shape(xs[0])), *filled)

  def _mapped(self, function: Callable, num_mapped: int, num_shared: int, **options: Any) -> Callable:
    """Returns the function over members of its first arguments; they share the others."""

    def over_members(*args: Any) -> Any:
      members, shared = args[:num_mapped], args[num_mapped:]
      one = lambda member: function(*member, *shared)  # noqa: E731
      return jax.vmap(one)(members) if self._side_by_side else jax.lax.map(one, members)

    if len(self._devices) == 1:
      return jax.jit(over_members, **options)
    axes = (0,) * num_mapped + (None,) * num_shared
    return jax.pmap(over_members, in_axes=axes, devices=self._devices, **options)


def check_members(members: Sequence[Config]) -> None:
  """Raises ConfigError unless the configs differ in data only."""
  first = strict.to_dict(configs.shape(members[0]))
  for i, member in enumerate(members):
    path = _difference(first, strict.to_dict(configs.shape(member)))
    if path:
      (name, one, other) = path
      raise ConfigError(f"config{name}={other!r}: member {i} of a population must have {one!r}, as the first "
                        "has; only seeds, learning rate, weight decay and warmup may differ")  # fmt: skip


def _difference(one: Any, other: Any, path: str = "") -> tuple[str, Any, Any] | None:
  """Returns (dotted name, value, value) of the first field in which two trees differ."""
  if not isinstance(one, dict) or not isinstance(other, dict):
    return None if one == other else (path, one, other)
  for key in one | other:
    found = _difference(one.get(key), other.get(key), f"{path}.{key}")
    if found:
      return found
  return None
