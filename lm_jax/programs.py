"""The programs of runs of one shape: made once a process, whichever of its runs asks."""

import functools
import threading
from collections.abc import Sequence

from lm_jax import config as configs
from lm_jax import parallel, tasks
from lm_jax.config import Config
from lm_jax.evaluate import Evaluator
from lm_jax.parallel import Engine
from lm_jax.population import Population

_one_at_a_time = threading.Lock()


def make(members: Sequence[Config]) -> tuple[tasks.Task, Engine, Evaluator]:
  """Returns the task, engine and evaluator of runs of one shape."""
  with _one_at_a_time:
    return _of_shape(configs.shape(members[0]), len(members))


def prepare(members: Sequence[Config]) -> None:
  """Compiles the steps of runs that will be trained later; may be called from any thread."""
  _, engine, _ = make(members)
  engine.compile(members)


@functools.lru_cache(maxsize=2)
def _of_shape(shape: Config, count: int) -> tuple[tasks.Task, Engine, Evaluator]:
  task = tasks.make_task(shape.task)
  if count > 1:
    engine = Population([shape] * count, task)
  else:
    engine = parallel.Solo(shape, task, parallel.make_layout(shape))
  return task, engine, Evaluator(shape, task, engine)
