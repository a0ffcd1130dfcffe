"""Tasks: procedural few-shot tasks with known chance and Bayes-optimal accuracy, and text."""

from lm_jax import task_configs
from lm_jax.tasks.arithmetic import Arithmetic
from lm_jax.tasks.associative_recall import AssociativeRecall
from lm_jax.tasks.base import Batch, Split, Task
from lm_jax.tasks.ginc import Ginc
from lm_jax.tasks.khop import KHop
from lm_jax.tasks.markov_chain import MarkovChain
from lm_jax.tasks.noisy_majority import NoisyMajority
from lm_jax.tasks.python_stdlib import PythonStdlib
from lm_jax.tasks.rule_induction import RuleInduction

__all__ = ["TASKS", "Batch", "Split", "Task", "make_task"]

# A new task is a config class in lm_jax/task_configs.py, a class here with the same name, and one line below.
TASKS: dict[type, type] = {
  task_configs.RuleInduction: RuleInduction,
  task_configs.AssociativeRecall: AssociativeRecall,
  task_configs.MarkovChain: MarkovChain,
  task_configs.Arithmetic: Arithmetic,
  task_configs.NoisyMajority: NoisyMajority,
  task_configs.KHop: KHop,
  task_configs.Ginc: Ginc,
  task_configs.PythonStdlib: PythonStdlib,
}


def make_task(config: task_configs.TaskConfig) -> Task:
  """Returns the task whose geometry and parameters `config` gives."""
  if isinstance(config, task_configs.Text):
    from lm_jax.tasks.text import Text  # its libraries take their time to import

    return Text(config)
  return TASKS[type(config)](config)
