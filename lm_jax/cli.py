"""The command line: `lm-jax COMMAND --config=FILE[:arg] --config.path.to.field=value --flag=value`.

Exit codes: 0 done; 1 some cells failed, or are in the hands of another process (listed); 2 bad input (one
line on stderr); 128 + n stopped by signal n, saved and resumable.
"""

import dataclasses
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from lm_jax import __version__, environment
from lm_jax.config import Config
from lm_jax.strict import ConfigError, did_you_mean, nearest


@dataclasses.dataclass(frozen=True)
class Command:
  """One subcommand: its function, its flags, and which of them must be given."""

  run: Callable[[flags.FlagValues, list[tuple[str, str]]], int]
  help: str
  flags: Sequence[str]
  required: Sequence[str] = ()
  takes_config: bool = False
  many_configs: bool = False


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
    print("lm-jax: stopped; the same command goes on from here", file=sys.stderr)
    code = 128 + signal.SIGINT
  except BrokenPipeError:  # e.g. `lm-jax plan | head`
    sys.stderr.close()
    code = 128 + signal.SIGPIPE
  sys.exit(code)


def _dispatch(argv: Sequence[str]) -> int:
  if not argv:
    raise ConfigError(f"no command given; allowed: {', '.join(COMMANDS)}; see lm-jax --help")
  if argv[0] in ("help", "-h", "--help", "-help"):
    print(_usage())
    return 0
  if argv[0] in ("version", "--version"):
    print(__version__)
    return 0
  name, *rest = argv
  if name not in COMMANDS:
    raise ConfigError(f"{name!r}: no such command{nearest(name, COMMANDS)}")
  command = COMMANDS[name]
  rest, overrides = split_overrides(rest)
  values = _define(command)
  if any(a in ("-h", "--help", "-help") for a in rest):
    print(f"lm-jax {name}: {command.help}\n\n{_flag_help(command, values)}")
    return 0
  try:
    positional = values(["lm-jax", *rest])[1:]
  except flags.Error as error:
    raise ConfigError(_explain(error, name, command)) from None
  if positional:
    raise ConfigError(f"{positional[0]!r}: flags only, as --name=value; see lm-jax {name} --help")
  if overrides and not command.takes_config:
    raise ConfigError(f"--config.{overrides[0][0]}: lm-jax {name} takes no config")
  for required in command.required:
    # An empty one is a shell variable that was not set.
    if not getattr(values, required):
      raise ConfigError(f"--{required}=... must be given to lm-jax {name}: {_FLAGS[required][1]}")
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


# --- flags ------------------------------------------------------------------------------------

_FLAGS: dict[str, tuple[Callable, str, object]] = {
  "config": (flags.DEFINE_string, "config file with get_config(), as FILE or FILE:arg", None),
  "workdir": (flags.DEFINE_string, "folder of the run or sweep", None),
  "workers": (flags.DEFINE_integer, "worker processes (default: one a core, or one a GPU)", None),
  "coordinator": (
    flags.DEFINE_string, "HOST:PORT of the first of several processes, or auto (Slurm, TPU pod, MPI)", None,
  ),
  "num_processes": (flags.DEFINE_integer, "processes that train this run together", None),
  "process_id": (flags.DEFINE_integer, "which of them this is, from 0", None),
  "json": (flags.DEFINE_boolean, "print one JSON object on stdout and nothing else", False),
  "quiet": (flags.DEFINE_boolean, "no progress", False),
  "watch": (flags.DEFINE_boolean, "keep showing until all is done", False),
  "output": (flags.DEFINE_string, "file to append the results to, a JSON line each", None),
  "steps": (flags.DEFINE_integer, "steps to time", 20),
  "text": (flags.DEFINE_multi_string, "text to classify; may be repeated (default: lines of stdin)", None),
  "core": (flags.DEFINE_integer, "pin to this core, single-threaded (default: all cores)", None),
  "flops_per_second": (
    flags.DEFINE_float, "peak of float32 matrix products of one worker, for the time estimate", None,
  ),
}  # fmt: skip


_KINDS = {
  flags.DEFINE_integer: "an integer", flags.DEFINE_float: "a number", flags.DEFINE_boolean: "true or false"
}  # fmt: skip


def _explain(error: flags.Error, name: str, command: Command) -> str:
  """Returns what is wrong with a flag, in one line."""
  if isinstance(error, flags.UnrecognizedFlagError):
    return f"--{error.flagname}: no such flag of lm-jax {name}{nearest(error.flagname, command.flags)}"
  given = re.match(r"flag --(\w+)=(.*?): ", str(error))
  if isinstance(error, flags.IllegalFlagValueError) and given:
    return f"--{given[1]}={given[2]}: must be {_KINDS[_FLAGS[given[1]][0]]}"
  return " ".join(str(error).split())


def _define(command: Command) -> flags.FlagValues:
  values = flags.FlagValues()
  for name in command.flags:
    define, text, default = _FLAGS[name]
    if name == "config" and command.many_configs:
      define = flags.DEFINE_multi_string
    define(name, default, text, flag_values=values)
  return values


def _flag_help(command: Command, values: flags.FlagValues) -> str:
  lines = [f"  --{name}  {_FLAGS[name][1]}" for name in command.flags]
  if command.takes_config:
    lines.append("  --config.path.to.field=value  changes one field of the config")
  return "\n".join(lines)


def _usage() -> str:
  width = max(map(len, COMMANDS))
  commands = "\n".join(f"  {name:<{width}}  {c.help}" for name, c in COMMANDS.items())
  return (
    f"lm-jax {__version__}: from one config to an emergence curve\n\n{commands}\n\n"
    "lm-jax COMMAND --help shows its flags."
  )


def _positive(values: flags.FlagValues, name: str) -> None:
  value = getattr(values, name)
  if value is not None and value <= 0:
    raise ConfigError(f"--{name}={value}: must be greater than 0")


# --- commands ---------------------------------------------------------------------------------


def _load(name: str, overrides: list[tuple[str, str]]):
  from lm_jax import config_file

  return config_file.load(name, overrides)


def _load_run(name: str, overrides: list[tuple[str, str]], command: str) -> Config:
  from lm_jax.sweep import Sweep

  loaded = _load(name, overrides)
  if isinstance(loaded, Sweep):
    hint = "use lm-jax sweep, or " if command == "train" else ""
    raise ConfigError(
      f"--config={name}: is a sweep of {len(loaded.cells)} cells; {hint}give the config of one run"
    )
  return loaded


def plan(values: flags.FlagValues, overrides: list[tuple[str, str]]) -> int:
  from lm_jax import plan as planning

  _positive(values, "workers")
  _positive(values, "flops_per_second")
  loaded = _load(values.config, overrides)
  workers = values.workers or len(environment.usable_cores())
  result = planning.plan(loaded, workers, values.flops_per_second)
  print(json.dumps(result) if values.json else planning.table(result))
  return 0


def train(values: flags.FlagValues, overrides: list[tuple[str, str]]) -> int:
  config = _load_run(values.config, overrides, "train")
  from lm_jax import hosts
  from lm_jax.launch import single

  environment.enable_compilation_cache()
  if values.coordinator is not None:
    hosts.join(values.coordinator, values.num_processes, values.process_id)
  elif values.num_processes is not None or values.process_id is not None:
    raise ConfigError("--num_processes, --process_id: need --coordinator=HOST:PORT")
  hosts.all_devices()
  return single.train(config, _workdir(values), quiet=values.quiet or not hosts.is_first())


def sweep(values: flags.FlagValues, overrides: list[tuple[str, str]]) -> int:
  from lm_jax import records, rundir
  from lm_jax.sweep import Sweep

  _positive(values, "workers")
  loaded = _load(values.config, overrides)
  if not isinstance(loaded, Sweep):
    raise ConfigError(f"--config={values.config}: is a single run; use lm-jax train")
  from lm_jax.analysis import frame, headline, prompting, report
  from lm_jax.launch import local, study

  workdir = _workdir(values)
  records.git_commit()  # before anything else can change the checkout
  # As Ctrl-C does, it ends the launcher, which lets the workers save.
  signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
  outcomes = study.run(loaded, workdir, local.LocalLauncher(values.workers), quiet=values.quiet)
  undone = [outcome for outcome in outcomes if outcome[1] != rundir.DONE]
  if not outcomes:
    print(f"all {len(loaded.cells)} cells are done, nothing to train", file=sys.stderr)
  page = report.write(workdir)
  loaded_study = frame.load(workdir)
  print(headline.format_table(loaded_study))
  if prompted := prompting.format_table(loaded_study):
    print(f"\n{prompted}")
  print(f"report: {page}")
  for cell, state, error in undone:
    print(f"{state}: {cell.cell_id} {cell.label} seed {cell.config.seed}: {error}", file=sys.stderr)
  return 1 if undone else 0


def status(values: flags.FlagValues, _: list[tuple[str, str]]) -> int:
  from lm_jax.launch import study

  return study.show_status(_existing(values), watch=values.watch, as_json=values.json)


def report(values: flags.FlagValues, _: list[tuple[str, str]]) -> int:
  from lm_jax import finetune_config
  from lm_jax.analysis import finetuning
  from lm_jax.analysis import report as reporting

  workdir = _existing(values)
  tuned = finetune_config.is_finetuning(workdir)
  print(finetuning.write(workdir) if tuned else reporting.write(workdir))
  return 0


def bench(values: flags.FlagValues, overrides: list[tuple[str, str]]) -> int:
  from lm_jax.launch import benchmarks

  _positive(values, "steps")
  if values.core is not None and values.core not in environment.usable_cores():
    raise ConfigError(f"--core={values.core}: must be one of {environment.usable_cores()}")
  configs = {name: _load_run(name, overrides, "bench") for name in values.config}
  if len(configs) == 1:
    results = [benchmarks.one(*configs.popitem(), values.steps, values.core)]
  else:
    # One process each: what a process has compiled and allocated would be counted for the next config.
    results = [benchmarks.in_a_process(name, overrides, values.steps, values.core) for name in configs]
  if values.output:
    benchmarks.append(Path(values.output), results)
  if values.json:
    print(json.dumps(results[0] if len(results) == 1 else {"results": results}))
  else:
    print(benchmarks.table(results))
  return 0


def finetune(values: flags.FlagValues, overrides: list[tuple[str, str]]) -> int:
  from lm_jax import config_file, hosts, records

  config = config_file.load_finetuning(values.config, overrides)
  from lm_jax.analysis import finetuning as reporting
  from lm_jax.launch import finetuning

  environment.enable_compilation_cache()
  hosts.all_devices()
  records.git_commit()  # before anything else can change the checkout
  workdir = _workdir(values)
  code = finetuning.run(config, workdir, quiet=values.quiet)
  if code == 0:
    folder = reporting.write(workdir)
    print(reporting.format_table(workdir))
    print(f"report: {folder}")
  return code


def classify(values: flags.FlagValues, _: list[tuple[str, str]]) -> int:
  from lm_jax.launch import finetuning

  environment.enable_compilation_cache()
  workdir = _existing(values)
  texts = values.text or finetuning.read_lines(sys.stdin)
  results = finetuning.classify(workdir, texts)
  if values.json:
    print(json.dumps({"results": results}))
  else:
    for result in results:
      print(finetuning.classified_line(result, with_text=len(results) > 1))
  return 0


def _workdir(values: flags.FlagValues) -> Path:
  """Returns the workdir, made if it was not there."""
  path = Path(values.workdir)
  nearest_there = next(p for p in (path, *path.parents, Path.cwd()) if p.exists())
  if not nearest_there.is_dir():
    raise ConfigError(f"--workdir={path}: {nearest_there} is a file, must be a folder")
  if not os.access(nearest_there, os.W_OK):
    raise ConfigError(f"--workdir={path}: {nearest_there} is not writable")
  try:  # only trying tells: root may write anywhere, but not on every file system
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ConfigError(f"--workdir={path}: cannot be made ({error.strerror})") from None
  return path


def _existing(values: flags.FlagValues) -> Path:
  path = Path(values.workdir)
  if not path.is_dir():
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ConfigError(f"--workdir={path}: no such folder{did_you_mean(path.name, siblings)}")
  return path


_CONFIG, _WORKDIR = ("config",), ("workdir",)
COMMANDS = {
  "plan": Command(
    plan, "cells, parameters, FLOPs, tokens, memory and time; trains nothing",
    ("config", "workers", "flops_per_second", "json"), _CONFIG, takes_config=True,
  ),
  "train": Command(
    train, "train one config", ("config", "workdir", "quiet", "coordinator", "num_processes", "process_id"),
    _CONFIG + _WORKDIR, takes_config=True,
  ),
  "sweep": Command(
    sweep, "train what is missing of a family, then report",
    ("config", "workdir", "workers", "quiet"), _CONFIG + _WORKDIR, takes_config=True,
  ),
  "finetune": Command(
    finetune, "classifiers from a pretrained model on k examples a class: full, LoRA, head; then report",
    ("config", "workdir", "quiet"), _CONFIG + _WORKDIR, takes_config=True,
  ),
  "classify": Command(
    classify, "label and probabilities of texts, by the best classifier of lm-jax finetune",
    ("workdir", "text", "json"), _WORKDIR,
  ),
  "status": Command(status, "how far a run or sweep is", ("workdir", "watch", "json"), _WORKDIR),
  "report": Command(report, "figures, tables and the interactive page", ("workdir",), _WORKDIR),
  "bench": Command(
    bench, "tokens/s, step ms, FLOP/s and utilization, time to first step and memory of training",
    ("config", "steps", "core", "output", "json"), _CONFIG, takes_config=True, many_configs=True,
  ),
}  # fmt: skip
