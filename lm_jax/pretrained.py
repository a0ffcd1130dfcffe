"""A trained language model, from the folder of its run: what it is, its parameters and its tokenizer."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax

from lm_jax import checkpoint, rundir, state, text_config, tokenizers
from lm_jax.config import Config, cell_id
from lm_jax.lora import flat
from lm_jax.rundir import RunDir
from lm_jax.strict import ConfigError, did_you_mean
from lm_jax.task_configs import PythonStdlib
from lm_jax.text_config import Text
from lm_jax.tokenizers import Tokenizer

TOKENIZER = "tokenizer"  # folder of a run


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A language model of text.

  Attributes:
    params: of lm_jax.model.Transformer, numpy or jax arrays.
    step: updates that made them; 0: none, they are as initialized.
    specials: ids of special tokens, those that its task added among them.
  """

  config: Config
  params: Any
  step: int
  tokenizer: Tokenizer
  specials: dict[str, int]

  @property
  def identity(self) -> dict[str, Any]:
    """Two models with equal identities are the same numbers."""
    return {"cell_id": cell_id(self.config), "step": self.step, "tokenizer": self.tokenizer.digest}


def load(folder: str | Path, *, trained: bool = True, name: str = "config.checkpoint") -> Pretrained:
  """Opens the run in `folder`, finished or not, at its latest checkpoint.

  Args:
    trained: false gives the run's parameters before its first step, of which no checkpoint is needed.
    name: what the folder is called in errors.

  Raises:
    ConfigError: no such run, none of text, no checkpoint yet, or parts that do not fit each other.
  """
  folder = Path(folder)
  config = _config(folder, name)
  tokenizer, specials = _tokenizer(folder, config, name)
  if not trained:
    return Pretrained(config, _initial_params(config), 0, tokenizer, specials)
  checkpoints = RunDir(folder).checkpoints
  step = checkpoint.latest_step(checkpoints)
  if step is None:
    raise ConfigError(f"{name}={folder}: has no checkpoint yet; train it with lm-jax train")
  params = checkpoint.read_params(checkpoints, step)
  check_fit(params, _expected(config), f"{name}={folder}: step {step}")
  return Pretrained(config, params, step, tokenizer, specials)


def _config(folder: Path, name: str) -> Config:
  path = folder / "config.json"
  if not folder.is_dir():
    near = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
    raise ConfigError(f"{name}={folder}: no such folder{did_you_mean(folder.name, near)}")
  if not path.is_file():
    raise ConfigError(f"{name}={folder}: is no run of lm-jax train: it has no config.json")
  try:
    return rundir.from_json(path)
  except ValueError as error:
    raise ConfigError(f"{name}={folder}: its config.json is not a run's ({error})") from None


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


def _initial_params(config: Config) -> Any:
  return jax.jit(lambda: state.init_state(config).params)()


def _expected(config: Config) -> Any:
  return jax.eval_shape(functools.partial(state.init_state, config)).params


def check_fit(params: Any, expected: Any, where: str) -> None:
  """Raises ConfigError, one line with every difference, unless two trees have the same names and shapes."""
  have, want = ({path: tuple(x.shape) for path, x in flat(tree).items()} for tree in (params, expected))
  differences = [f"{path} is missing" for path in want if path not in have]
  differences += [f"{path} is not the model's" for path in have if path not in want]
  differences += [
    f"{path} is {list(have[path])}, not {list(want[path])}"
    for path in want
    if path in have and have[path] != want[path]
  ]
  if differences:
    raise ConfigError(f"{where} does not fit its config.json: {'; '.join(differences)}")
