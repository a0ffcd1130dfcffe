"""The programs of runs of one shape: made once a process, whichever of its runs asks."""

import functools
import threading
from collections.abc import Sequence

from lm_jax import config as configs
from lm_jax import hosts, parallel, tasks
from lm_jax.config import Config
from lm_jax.evaluate import Evaluator
from lm_jax.parallel import Engine
from lm_jax.population import InTurn, Population

_one_at_a_time = threading.Lock()


def make(members: Sequence[Config]) -> tuple[tasks.Task, Engine]:
  """Returns the task and engine of runs of one shape."""
  with _one_at_a_time:
    return _of_shape(configs.shape(members[0]), len(members))


def evaluator(members: Sequence[Config]) -> Evaluator:
  """Returns the evaluator of runs of one shape; apart, since a first step does not need it."""
  with _one_at_a_time:
    return _evaluator_of_shape(configs.shape(members[0]), len(members))


def prepare(members: Sequence[Config]) -> None:
  """Compiles the steps of runs that will be trained later; may be called from any thread."""
  _, engine = make(members)
  engine.compile(members)


@functools.lru_cache(maxsize=3)
def _of_shape(shape: Config, count: int) -> tuple[tasks.Task, Engine]:
  if count == 1:
    task = tasks.make_task(shape.task)
    return task, parallel.Solo(shape, task, parallel.make_layout(shape))
  devices = hosts.all_devices(shape.parallel.num_devices)
  if devices[0].platform == "cpu" and (len(devices) == 1 or shape.parallel.kind == "single"):
    task, solo = _of_shape(shape, 1)
    return task, InTurn(solo, count)
  task = tasks.make_task(shape.task)
  return task, Population([shape] * count, task)


@functools.lru_cache(maxsize=2)
def _evaluator_of_shape(shape: Config, count: int) -> Evaluator:
  task, engine = _of_shape(shape, count)
  return Evaluator(shape, task, engine)
