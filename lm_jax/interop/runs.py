"""The folder of a run of lm-jax train as a pretrained model, at one of its checkpoints."""

import functools
from pathlib import Path
from typing import Any

import jax

from lm_jax import checkpoint, rundir, state, text_config, tokenizers
from lm_jax.config import Config, cell_id
from lm_jax.pretrained import TOKENIZER, Pretrained, check_fit
from lm_jax.rundir import RunDir
from lm_jax.strict import ConfigError
from lm_jax.task_configs import PythonStdlib
from lm_jax.text_config import Text
from lm_jax.tokenizers import Tokenizer

# Objectives whose sequences of text begin with the separator.
READS_ON = ("causal_lm", "prefix_lm")


def load(folder: Path, *, name: str = "--model", trained: bool = True, step: int | None = None) -> Pretrained:
  """Opens the run in `folder`, finished or not.

  Args:
    step: of the checkpoint; default: the latest one.
    trained: false gives the run's parameters before its first step, of which no checkpoint is needed.
    name: what the folder is called in errors.

  Raises:
    ConfigError: no such run, none of text, no checkpoint yet, or parts that do not fit each other.
  """
  config = _config(folder, name)
  tokenizer, specials = _tokenizer(folder, config, name)
  if trained:
    params, step = _trained_params(folder, config, name, step)
  else:
    params, step = _initial_params(config), 0
  return Pretrained(
    config.model, params, tokenizer, specials, begin(config, specials),
    identity={"cell_id": cell_id(config), "step": step, "tokenizer": tokenizer.digest}, step=step,
  )  # fmt: skip


def _config(folder: Path, name: str) -> Config:
  try:
    return rundir.from_json(folder / "config.json")
  except ValueError as error:
    raise ConfigError(f"{name}={folder}: its config.json is not a run's ({error})") from None


def begin(config: Config, specials: dict[str, int]) -> tuple[int, ...]:
  """Returns what a run's texts begin with."""
  begins = isinstance(config.task, Text) and config.task.objective in READS_ON
  return (specials["end"],) if begins else ()


def _tokenizer(folder: Path, config: Config, name: str) -> tuple[Tokenizer, dict[str, int]]:
  """Returns a run's tokenizer and special ids."""
  task = config.task
  if isinstance(task, PythonStdlib):
    return tokenizers.Bytes(), {}
  if not isinstance(task, Text):
    raise ConfigError(f"{name}={folder}: its task {task.name!r} is not text; must be text or python_stdlib")
  if not (folder / TOKENIZER).is_dir() and task.tokenizer.kind != "bytes":
    raise ConfigError(f"{name}={folder}: has no folder {TOKENIZER}/")
  saved = (folder / TOKENIZER).is_dir()
  tokenizer = tokenizers.load(folder / TOKENIZER) if saved else tokenizers.make(task.tokenizer)
  for what in ("vocab_size", "digest"):
    own, wanted = getattr(tokenizer, what), getattr(task.tokenizer, what)
    if wanted is not None and own != wanted:
      raise ConfigError(f"{name}={folder}: its tokenizer has {what} {own}, but the model's was {wanted}")
  return tokenizer, text_config.special_ids(task, tokenizer.specials)


def saved_steps(folder: Path, name: str = "--model") -> list[int]:
  """Returns the steps that a run has checkpoints of; raises ConfigError where it has none."""
  steps = checkpoint.saved_steps(RunDir(folder).checkpoints)
  if not steps:
    raise ConfigError(f"{name}={folder}: has no checkpoint yet; train it with lm-jax train")
  return steps


def _trained_params(folder: Path, config: Config, name: str, step: int | None) -> tuple[Any, int]:
  checkpoints, there = RunDir(folder).checkpoints, saved_steps(folder, name)
  step = there[-1] if step is None else step
  if step not in there:
    raise ConfigError(
      f"{name}={folder}@{step}: has no checkpoint of step {step}; must be one of "
      f"{', '.join(map(str, there))} (a run keeps the last config.runtime.keep_checkpoints)"
    )
  try:
    params = checkpoint.read_params(checkpoints, step)
  except checkpoint.Damaged as damage:
    raise ConfigError(_unreadable(folder, name, step, damage)) from None
  check_fit(params, _expected(config), f"{name}={folder}: step {step} does not fit its config.json")
  return params, step


def _unreadable(folder: Path, name: str, step: int, damage: checkpoint.Damaged) -> str:
  """Says what can be done where a checkpoint is damaged; another is another model, and not taken unasked."""
  there = checkpoint.saved_steps(RunDir(folder).checkpoints)
  if step not in there:
    return f"{name}={folder}: its checkpoint of step {step} was dropped while it was read; try again"
  others = [f"{folder}@{other}" for other in there if other != step]
  instead = f"give {' or '.join(others)}, or " if others else ""
  return (
    f"{name}={folder}: its checkpoint of step {step} cannot be used ({damage}); {instead}delete "
    f"{RunDir(folder).path / 'status.json'} and train it again"
  )


def _initial_params(config: Config) -> Any:
  return jax.jit(lambda: state.init_state(config).params)()


def _expected(config: Config) -> Any:
  return jax.eval_shape(functools.partial(state.init_state, config)).params
