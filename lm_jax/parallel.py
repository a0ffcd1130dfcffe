"""Where a run's values live, and its programs there: on one device, pmapped, or on a mesh.

The step is the same pure function everywhere (step.py). Here it gets its devices: nothing on one device;
a share of the batch and one sum over devices under pmap; shardings by logical axes on a mesh, where the
compiler writes the communication. The state is whole arrays in every case, whatever device holds which
part of them, so a checkpoint of one layout restores in any other.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lm_jax import hosts, sharding, state, step
from lm_jax.config import Config
from lm_jax.feed import Feed
from lm_jax.state import TrainState
from lm_jax.strict import ConfigError
from lm_jax.tasks.base import Batch, Task

DATA, FSDP, TENSOR = AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class Layout:
  """The devices of one run.

  Attributes:
    kind: "single", "pmap" or "mesh".
    mesh: its devices along the axes data, fsdp and tensor; None for the default device alone.
    rules: which logical axes (sharding.py) the mesh splits.
  """

  kind: str
  mesh: Mesh | None = None
  rules: sharding.Rules = ()

  @property
  def num_devices(self) -> int:
    return 1 if self.mesh is None else self.mesh.size

  def traced(self, function: Callable) -> Callable:
    """Returns the function with its logical axes resolved to this layout while it is traced."""
    if self.kind != "mesh":
      return function

    def in_layout(*args: Any) -> Any:
      with sharding.in_force(self.mesh, self.rules):
        return function(*args)

    return in_layout

  @property
  def whole(self) -> NamedSharding | None:
    """The sharding of a value that every device holds whole."""
    return None if self.mesh is None else NamedSharding(self.mesh, PartitionSpec())

  def over_batch(self, axis: int, size: int) -> NamedSharding | None:
    """Returns the sharding of arrays whose `axis` runs over `size` sequences: split where that divides."""
    if self.mesh is None or size % (self.mesh.shape[DATA] * self.mesh.shape[FSDP]):
      return self.whole
    return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, (DATA, FSDP)))

  def put(self, tree: Any, where: NamedSharding | None) -> Any:
    """Places arrays that every process has; each process copies its devices' parts only."""
    if where is None:
      return jax.tree.map(jax.numpy.asarray, tree)

    def place(x: Any) -> jax.Array:
      host = np.asarray(x)
      return jax.make_array_from_callback(host.shape, where, lambda index: host[index])

    return jax.tree.map(place, tree)

  def own_rows(self, batch_size: int) -> slice:
    """Returns the sequences of a batch that this process's devices need."""
    where = self.over_batch(0, batch_size) if self.kind == "mesh" else None
    if where is None:
      return slice(0, batch_size)
    by_device = where.addressable_devices_indices_map((batch_size,))
    bounds = [index[0].indices(batch_size)[:2] for index in by_device.values()]
    return slice(min(start for start, _ in bounds), max(stop for _, stop in bounds))

  def put_rows(self, tree: Any, where: NamedSharding | None, batch_size: int) -> Any:
    """Places arrays [K, rows, ...] that hold `own_rows` of a batch, as [K, batch_size, ...]."""
    if where is None:
      return tree
    own = self.own_rows(batch_size)

    def place(x: np.ndarray) -> jax.Array:
      def part(index: tuple) -> np.ndarray:
        start, stop, _ = index[1].indices(batch_size)
        return x[index[0], start - own.start : stop - own.start]

      return jax.make_array_from_callback((x.shape[0], batch_size, *x.shape[2:]), where, part)

    return jax.tree.map(place, tree)

  def state_shardings(self, abstract: TrainState) -> Any:
    """Returns the sharding of every array of a training state; there must be a mesh."""
    if self.kind != "mesh":
      return jax.tree.map(lambda _: self.whole, abstract)

    def of(path: tuple, x: Any) -> NamedSharding:
      axes = sharding.parameter_axes(path, x.ndim)
      return NamedSharding(self.mesh, nn.logical_to_mesh_axes(axes, self.rules))

    return jax.tree_util.tree_map_with_path(of, abstract)


def make_layout(config: Config) -> Layout:
  """Returns the layout that `config.parallel` asks for; raises ConfigError if it cannot be."""
  p, devices, batch = config.parallel, hosts.all_devices(config.parallel.num_devices), config.train.batch_size
  kind = p.kind
  if kind == "auto":
    asked = p.data is not None or p.fsdp * p.tensor > 1 or p.num_devices is not None
    spread = devices[0].platform != "cpu" or jax.process_count() > 1 or asked
    kind = "mesh" if spread and len(devices) > 1 else "single"
  if jax.process_count() > 1 and kind != "mesh":
    raise ConfigError(f"config.parallel.kind={kind!r}: must be mesh (or auto) for "
                      f"{jax.process_count()} processes")  # fmt: skip
  if kind == "single":
    for name in ("data", "num_devices"):
      if getattr(p, name) not in (None, 1):
        raise ConfigError(f"config.parallel.{name}={getattr(p, name)}: must be 1 where one device is used")
    return Layout("single")
  data, fsdp, tensor = len(devices) if p.kind == "pmap" else p.data, p.fsdp, p.tensor
  data = _data_axis(data, fsdp, tensor, len(devices))
  if batch % (data * fsdp):
    raise ConfigError(f"config.train.batch_size={batch}: must be a multiple of the {data * fsdp} devices "
                      f"that it is split over (parallel.data {data} x fsdp {fsdp})")  # fmt: skip
  part, splits = batch // (data * fsdp), config.train.grad_accum_steps
  if part % splits:
    raise ConfigError(f"config.train.grad_accum_steps={splits}: must divide the {part} sequences a device "
                      f"(batch_size {batch} over {data * fsdp} devices)")  # fmt: skip
  mesh = jax.make_mesh((data, fsdp, tensor), AXES, (AxisType.Auto,) * 3, devices=devices)
  return Layout(kind, mesh, _rules(config, fsdp, tensor) if kind == "mesh" else ())


def _data_axis(data: int | None, fsdp: int, tensor: int, count: int) -> int:
  """Returns the size of the data axis: what the others leave of `count` devices."""
  if data is None:
    if count % (fsdp * tensor):
      raise ConfigError(f"config.parallel: fsdp {fsdp} x tensor {tensor} must divide the {count} devices")
    return count // (fsdp * tensor)
  if data * fsdp * tensor != count:
    raise ConfigError(f"config.parallel: data {data} x fsdp {fsdp} x tensor {tensor} = "
                      f"{data * fsdp * tensor} must be the number of devices, {count} (num_devices says how "
                      "many to use)")  # fmt: skip
  return data


def _rules(config: Config, fsdp: int, tensor: int) -> sharding.Rules:
  """Returns the logical axes that are split, and over what.

  A vocabulary that `tensor` does not divide (GPT-2's 50,257) stays whole on every device; all else that
  does not divide is an error (config.py).
  """
  rules: list[tuple[str, Any]] = [(sharding.BATCH, (DATA, FSDP))]
  if fsdp > 1:
    rules.append((sharding.EMBED, FSDP))
  if tensor > 1:
    rules += [(sharding.HEADS, TENSOR), (sharding.MLP, TENSOR)]
    if config.model.vocab_size % tensor == 0:
      rules.append((sharding.VOCAB, TENSOR))
  return tuple(rules)


# --- programs ---------------------------------------------------------------------------------


class Engine(Protocol):
  """The programs of one or more runs of one shape, and the state of all of them together.

  Attributes:
    num_members: how many runs the state holds.
  """

  num_members: int

  def start(self, configs: Sequence[Config]) -> TrainState:
    """Returns the state before the first step."""
    ...

  def run(self, s: TrainState, first: int, num_steps: int) -> tuple[TrainState, step.Metrics]:
    """Dispatches up to steps_per_dispatch steps after `first` of them; the state given is used up."""
    ...

  def compile(self, configs: Sequence[Config]) -> jax.stages.Compiled:
    """Compiles `start` and `run` ahead of their first calls, and returns the latter; runs nothing."""
    ...

  def program(self, function: Callable) -> Callable:
    """Returns function(one member's state, *shared) for the state of all."""
    ...

  def by_member(self, tree: Any) -> Any:
    """Returns what a program gave as numpy arrays with a leading axis over members."""
    ...

  def put_batches(self, batches: Batch) -> Batch:
    """Places batches [number, B, T] that all members share."""
    ...

  def split(self, s: TrainState) -> list[TrainState]:
    """Returns the members' states, to be saved."""
    ...

  def like(self, s: TrainState) -> TrainState:
    """Returns what a member's state is to be restored as."""
    ...

  def join(self, members: Sequence[TrainState]) -> TrainState:
    """Returns the state of all members from theirs."""
    ...


class Solo:
  """The engine of a single run, on the devices of a layout."""

  num_members = 1

  def __init__(self, config: Config, task: Task, layout: Layout):
    self.layout = layout
    self.shardings = None
    if layout.mesh is not None:
      self.shardings = layout.state_shardings(jax.eval_shape(lambda: state.init_state(config)))
    self._arrays = layout.put(task.arrays, layout.whole)
    self._task, self._config = task, config
    self._feed: Feed | None = None

    def init(*inputs: Any) -> TrainState:
      return state.init_from(config, *inputs)

    self._init = jax.jit(layout.traced(init), out_shardings=self.shardings)
    if layout.kind == "pmap":
      self._run = _Pmapped(config, task, layout)
    else:
      run = layout.traced(step.make_run_steps(config, task))
      out = None if layout.mesh is None else (self.shardings, layout.whole)
      self._run = jax.jit(run, donate_argnums=0, out_shardings=out)

  def start(self, configs: Sequence[Config]) -> TrainState:
    (config,) = configs
    self._feed = self._make_feed(config)
    return self._init(*state.inputs(config))

  def run(self, s: TrainState, first: int, num_steps: int) -> tuple[TrainState, step.Metrics]:
    fed = () if self._feed is None else self._put_fed(self._feed.take(first, num_steps))
    return self._run(s, fed, self._arrays, np.int32(num_steps))

  def _make_feed(self, config: Config) -> Feed | None:
    size, rows = config.train.batch_size, self.layout.own_rows(config.train.batch_size)
    if not self._task.is_fed:
      return None
    return Feed(self._task, state.data_seed(config), size, rows, config.runtime.steps_per_dispatch)

  def _put_fed(self, fed: Batch) -> Batch:
    size = self._config.train.batch_size
    where = self.layout.over_batch(1, size) if self.layout.kind == "mesh" else self.layout.whole
    return self.layout.put_rows(fed, where, size)

  def compile(self, configs: Sequence[Config]) -> jax.stages.Compiled:
    (config,) = configs
    inputs = state.inputs(config)
    self._init.lower(*inputs).compile()
    s = jax.eval_shape(self._init, *inputs)
    if self.shardings is not None:
      s = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), s, self.shardings
      )
    fed = ()
    if (feed := self._make_feed(config)) is not None:
      fed = self._put_fed(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), feed.shapes()))
    return self._run.lower(s, fed, self._arrays, np.int32(1)).compile()

  def program(self, function: Callable) -> Callable:
    return jax.jit(self.layout.traced(function), out_shardings=self.layout.whole)

  def by_member(self, tree: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[None], tree)

  def put_batches(self, batches: Batch) -> Batch:
    return self.layout.put(batches, self.layout.over_batch(1, len(batches.tokens[0])))

  def split(self, s: TrainState) -> list[TrainState]:
    return [s]

  def like(self, s: TrainState) -> TrainState:
    return s

  def join(self, members: Sequence[TrainState]) -> TrainState:
    return members[0]


class _Pmapped:
  """The steps under jax.pmap: every device takes its rows of the batch, and sums are taken once a step."""

  def __init__(self, config: Config, task: Task, layout: Layout):
    count, axis = layout.num_devices, "devices"
    rows = config.train.batch_size // count

    def own(batch: Batch) -> Batch:
      first = jax.lax.axis_index(axis) * rows
      return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, rows), batch)

    share = step.Share(
      own=own,
      reduce=lambda sums: jax.lax.psum(sums, axis),
      own_key=lambda key: jax.random.fold_in(key, jax.lax.axis_index(axis)),
    )
    run = step.make_run_steps(config, task, share)
    # The state is one value that all devices hold, not a stack of copies; something must be mapped.
    self._pmap = jax.pmap(
      lambda _, *args: run(*args), axis, in_axes=(0, None, None, None, None), out_axes=None,
      devices=list(layout.mesh.devices.flat), donate_argnums=1,
    )  # fmt: skip
    self._mapped = np.arange(count)

  def __call__(self, *args: Any) -> Any:
    return self._pmap(self._mapped, *args)

  def lower(self, *args: Any) -> Any:
    return self._pmap.lower(self._mapped, *args)
