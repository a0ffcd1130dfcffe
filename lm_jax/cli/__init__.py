"""The command line: `lm-jax COMMAND --config=FILE[:arg] --config.path.to.field=value --flag=value`.

Exit codes: 0 done; 1 some cells failed, or are in the hands of another process (listed); 2 bad input (one
line on stderr); 128 + n stopped by signal n, saved and resumable.
"""

import logging
import platform
import signal
import sys
from collections.abc import Sequence

from absl import flags

from lm_jax import __version__, failures, objects
from lm_jax.cli import (
  answer_command,
  command_flags,
  emergence_command,
  evaluate_command,
  fit_command,
  model_commands,
  predict_command,
  prompts_command,
  run_commands,
)
from lm_jax.strict import ConfigError, nearest

_PARTS = (run_commands, model_commands, answer_command, evaluate_command, prompts_command, emergence_command,
          fit_command, predict_command)  # fmt: skip
COMMANDS = {name: command for part in _PARTS for name, command in part.COMMANDS.items()}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command and exits with its code."""
  argv = sys.argv[1:] if argv is None else argv
  logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
  try:
    code = _dispatch(list(argv))
  except ConfigError as error:
    print(f"lm-jax: {error}", file=sys.stderr)
    code = 2
  except KeyboardInterrupt:
    command = COMMANDS.get(argv[0]) if argv else None
    goes_on = "; the same command goes on from here" if command and command.resumes else ""
    print(f"lm-jax: stopped{goes_on}", file=sys.stderr)
    code = 128 + signal.SIGINT
  except BrokenPipeError:  # e.g. `lm-jax plan | head`
    sys.stderr.close()
    code = 128 + signal.SIGPIPE
  except Exception as error:
    if failures.kind(error) != failures.DISK:
      raise
    print(f"lm-jax: {' '.join(str(error).split())}", file=sys.stderr)
    code = 1
  sys.exit(code)


def _version() -> str:
  """Returns what a report of a bug needs: lm_jax, its commit in a checkout, and what it stands on."""
  from lm_jax import records

  commit = records.git_commit()
  packages = {"python": platform.python_version()} | records.versions()
  own = f"lm_jax {__version__}" + (f" ({commit})" if commit else "")
  return "\n".join([own, *(f"{name} {version}" for name, version in packages.items())])


def _dispatch(argv: Sequence[str]) -> int:
  if not argv:
    raise ConfigError(f"no command given; allowed: {', '.join(COMMANDS)}; see lm-jax --help")
  if argv[0] in ("help", "-h", "--help", "-help"):
    print(_usage())
    return 0
  if argv[0] in ("version", "--version"):
    print(_version())
    return 0
  name, *rest = argv
  if name not in COMMANDS:
    raise ConfigError(f"{name!r}: no such command{nearest(name, COMMANDS)}")
  command = COMMANDS[name]
  rest, overrides = split_overrides(rest)
  values = command_flags.define(command)
  if any(a in ("-h", "--help", "-help") for a in rest):
    print(f"lm-jax {name}: {command.help}\n\n{command_flags.flag_help(command, values)}")
    return 0
  try:
    positional = values(["lm-jax", *rest])[1:]
  except flags.Error as error:
    raise ConfigError(command_flags.explain(error, name, command)) from None
  if positional:
    raise ConfigError(f"{positional[0]!r}: flags only, as --name=value; see lm-jax {name} --help")
  if overrides and not command.takes_config:
    raise ConfigError(f"--config.{overrides[0][0]}: lm-jax {name} takes no config")
  for required in command.required:
    # An empty one is a shell variable that was not set.
    if not getattr(values, required):
      raise ConfigError(f"--{required}=... must be given to lm-jax {name}: {command.flag(required)[1]}")
  if not command.takes_url and "workdir" in command.flags and objects.is_url(values.workdir or ""):
    takers = ", ".join(taker for taker in COMMANDS if COMMANDS[taker].takes_url)
    url = objects.checked(values.workdir)
    raise ConfigError(f"--workdir={url}: must be a folder for lm-jax {name}; URLs are for {takers}")
  return command.run(values, overrides)


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
  """Takes `--config.field=value` (or `--config.field value`) out of the arguments, as absl spells them.

  `--config.flag` alone and `--noconfig.flag` set a boolean, as in ml_collections' config_flags.
  """
  rest, overrides, pending = [], [], list(argv)
  while pending:
    word = pending.pop(0)
    body = word.lstrip("-")
    if not word.startswith("-") or not body.startswith(("config.", "noconfig.")):
      rest.append(word)
      continue
    field, equals, value = body.partition("=")
    negated = field.startswith("no")
    field = field.removeprefix("no").removeprefix("config.")
    if negated and equals:
      raise ConfigError(f"{word}: --noconfig.{field} takes no value")
    if not equals:
      # A word that follows is the value, unless it is a flag; negative numbers are values.
      follows = pending and (not pending[0].startswith("-") or pending[0][1:2].isdigit())
      value = "false" if negated else pending.pop(0) if follows else "true"
    overrides.append((field, value))
  return rest, overrides


def _usage() -> str:
  width = max(map(len, COMMANDS))
  commands = "\n".join(f"  {name:<{width}}  {c.help}" for name, c in COMMANDS.items())
  return (
    f"lm-jax {__version__}: from one config to an emergence curve\n\n{commands}\n\n"
    "lm-jax COMMAND --help shows its flags."
  )
