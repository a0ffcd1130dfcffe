"""Flags of the commands that ask models few-shot tasks, and what they mean."""

from typing import TYPE_CHECKING

from absl import flags

from lm_jax import environment
from lm_jax.cli.command_flags import FLAGS
from lm_jax.strict import ConfigError

if TYPE_CHECKING:
  from lm_jax.few_shot import RunCode
  from lm_jax.few_shot_runs import Report
  from lm_jax.language_model import LanguageModel

FLAGS |= {
  "tasks": (
    flags.DEFINE_string, "tasks, with commas between: names, .yaml files of definitions, labeled texts", None
  ),
  "shots": (flags.DEFINE_string, "numbers of demonstrations, such as 0,1,4", "0"),
  "seeds": (flags.DEFINE_string, "seeds of demonstrations and samples, such as 0,1,2", "0"),
  "templates": (flags.DEFINE_string, "templates of every task, with commas between, or all", "default"),
  "label_words": (
    flags.DEFINE_string, "words for the labels, in the order of the task's, such as bad|good,terrible|great; "
    "task: its own", "task",
  ),
  "orders": (
    flags.DEFINE_string, "orders of demonstrations, such as 0,1,2: 0 as drawn, others are permutations", "0",
  ),
  "limit": (flags.DEFINE_integer, "items of a task at most, a fixed random choice (default: all)", None),
  "chat": (
    flags.DEFINE_boolean, "ask in a conversation, by the model's chat template: the description as the "
    "system's message, demonstrations as turns", False,
  ),
  "too_long": (
    flags.DEFINE_string, "drop (the default) whole demonstrations of a prompt that is longer than the "
    "context, or refuse it", "drop",
  ),
  "allow_code_execution": (
    flags.DEFINE_boolean, "run code that the model writes, in a sandbox: tasks of code need it", False,
  ),
  "without_isolation": (
    flags.DEFINE_boolean, "run code also where the sandbox cannot isolate it: with limits of time and "
    "memory, but with your rights to files and network", False,
  ),
  "show_prompt": (
    flags.DEFINE_boolean, "print what the model reads: evaluate then asks nothing, prompts prints the "
    "chosen one", False,
  ),
}  # fmt: skip


def split(text: str) -> tuple[str, ...]:
  """Returns the parts between commas."""
  return tuple(part.strip() for part in text.split(",") if part.strip())


def models(text: str) -> list[str]:
  """Returns the models between commas, RUN@all being RUN@STEP at every checkpoint that the run has."""
  from lm_jax import interop

  found = []
  for given in split(text):
    run, at, which = given.rpartition("@")
    if at and which == "all":
      found += [f"{run}@{step}" for step in interop.saved_steps(run)]
    else:
      found.append(given)
  return found


def name_of(given: str) -> str:
  """Returns what a model is called in rows, which name the step themselves."""
  from lm_jax import interop

  path, step = interop.at_step(given)
  return given if step is None else str(path)


def integers(values: flags.FlagValues, name: str) -> tuple[int, ...]:
  given = getattr(values, name)
  try:
    return tuple(int(part) for part in split(given))
  except ValueError:
    raise ConfigError(f"--{name}={given}: must be whole numbers with commas between, such as 0,1,4") from None


def code_runner(values: flags.FlagValues) -> "RunCode | None":
  if not values.allow_code_execution:
    return None
  from lm_jax import sandbox

  if not values.without_isolation:
    sandbox.require_isolation()
  workers = len(environment.usable_cores())
  return lambda programs: sandbox.run_all(
    programs, workers=workers, without_isolation=values.without_isolation
  )


def load(name: str, values: flags.FlagValues, report: "Report | None") -> "LanguageModel":
  from lm_jax.language_model import LanguageModel

  environment.enable_compilation_cache()
  model = LanguageModel.load(name, weights=values.weights, report=report, name="--model")
  model.held.require_tokenizer(f"--model={name}")
  return model
