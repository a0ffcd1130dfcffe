"""The commands that plan, train, and show runs."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from lm_jax import environment, objects
from lm_jax.cli import launcher_flags
from lm_jax.cli.command_flags import Command, positive
from lm_jax.config import Config
from lm_jax.decode_config import DecodeBench
from lm_jax.strict import ConfigError, did_you_mean

if TYPE_CHECKING:
  from lm_jax.launch.base import Outcome


def _load(name: str, overrides: list[tuple[str, str]]):
  from lm_jax import config_file

  return config_file.load(name, overrides)


def _load_run(name: str, overrides: list[tuple[str, str]]) -> Config:
  return _one(name, _load(name, overrides), "use lm-jax sweep, or ")


def _load_benchmark(name: str, overrides: list[tuple[str, str]]) -> Config | DecodeBench:
  from lm_jax import config_file

  return _one(name, config_file.load_benchmark(name, overrides), "")


def _one(name: str, loaded: Any, hint: str) -> Any:
  """Returns what was loaded; raises ConfigError for a sweep."""
  from lm_jax.sweep import Sweep

  if isinstance(loaded, Sweep):
    raise ConfigError(
      f"--config={name}: is a sweep of {len(loaded.cells)} cells; {hint}give the config of one run"
    )
  return loaded


def plan(values: flags.FlagValues, overrides: list[tuple[str, str]]) -> int:
  from lm_jax import plan as planning

  positive(values, "workers")
  for name in ("flops_per_second", "mfu", "usd_per_hour", "gain", "seed_sd"):
    positive(values, name)
  device = _device(values)
  if values.seed_sd is not None and values.gain is None:
    raise ConfigError("--seed_sd: says how many seeds show a gain, which --gain=... must name")
  loaded = _load(values.config, overrides)
  # The cores of this machine say nothing of how many of another device there are.
  workers = values.workers or (1 if device else len(environment.usable_cores()))
  result = planning.plan(
    loaded, workers, values.flops_per_second, values.gain, values.seed_sd, device, values.mfu,
    values.usd_per_hour,
  )  # fmt: skip
  print(json.dumps(result) if values.json else planning.table(result))
  return 0


def _device(values: flags.FlagValues) -> str | None:
  """Returns the name of the device that a plan is for, or None."""
  from lm_jax import devices

  if values.device is None:
    if values.mfu is not None:
      raise ConfigError(f"--mfu={values.mfu}: is a share of a device's peak; needs --device=...")
    return None
  if values.flops_per_second is not None:
    raise ConfigError(
      f"--device={values.device}, --flops_per_second={values.flops_per_second:g}: give one of them"
    )
  if values.mfu is not None and values.mfu > 1:
    raise ConfigError(f"--mfu={values.mfu}: must be in (0, 1]")
  devices.named(values.device)
  return values.device.lower()


def train(values: flags.FlagValues, overrides: list[tuple[str, str]]) -> int:
  config = _load_run(values.config, overrides)
  from lm_jax import hosts
  from lm_jax.launch import single

  environment.enable_compilation_cache()
  if values.coordinator is not None:
    hosts.join(values.coordinator, values.num_processes, values.process_id)
  elif values.num_processes is not None or values.process_id is not None:
    raise ConfigError("--num_processes, --process_id: need --coordinator=HOST:PORT")
  hosts.all_devices()
  workdir = _workdir(values, may_be_url=values.coordinator is None)
  return single.train(config, workdir, quiet=values.quiet or not hosts.is_first())


def sweep(values: flags.FlagValues, overrides: list[tuple[str, str]]) -> int:
  from lm_jax import mirror, records, rundir
  from lm_jax.sweep import Sweep

  launcher, rules = launcher_flags.launcher(values), launcher_flags.rules(values)
  loaded = _load(values.config, overrides)
  if not isinstance(loaded, Sweep):
    raise ConfigError(f"--config={values.config}: is a single run; use lm-jax train")
  from lm_jax.analysis import frame, headline, prompting
  from lm_jax.analysis.report import report
  from lm_jax.launch import engine, stop_rules, study

  workdir = _workdir(values, may_be_url=values.hosts == 1)
  records.git_commit()  # before anything else can change the checkout
  # As Ctrl-C does, it ends the launcher, which lets the workers save.
  signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
  with mirror.followed(workdir):
    outcomes = study.run(
      loaded, workdir, launcher, order=values.order, retry_failed=values.retry_failed, rules=rules,
      quiet=values.quiet,
    )  # fmt: skip
  sent = [outcome for outcome in outcomes if outcome.error == engine.SENT]
  # What a rule left out, as it was asked to, is told by the report.
  left_out = (rundir.DONE, rundir.PRUNED, rundir.PAUSED, stop_rules.LEFT_OUT)
  undone = [outcome for outcome in outcomes if outcome.state not in left_out and outcome not in sent]
  if sent:
    print(
      f"sent {len(sent)} cells; lm-jax status --workdir={values.workdir} --watch shows them", file=sys.stderr
    )
    return _tell_undone(undone)
  if not outcomes:
    print(f"all {len(loaded.cells)} cells are done, nothing to train", file=sys.stderr)
  try:
    page = report.write(workdir)
    loaded_study = frame.load(workdir)
    print(headline.format_table(loaded_study))
    if prompted := prompting.format_table(loaded_study):
      print(f"\n{prompted}")
    print("\n".join(["", *report.told(page)]))
    print(f"report: {page}")
  finally:  # a disk that is full has no room for a report either
    code = _tell_undone(undone)
  return code


def _tell_undone(undone: Sequence["Outcome"]) -> int:
  """Lists what is not done and should be; returns the exit code."""
  for cell, state, error, kind in undone:
    told = f"{state} ({kind})" if kind else state
    print(f"{told}: {cell.cell_id} {cell.label} seed {cell.config.seed}: {error}", file=sys.stderr)
  return 1 if undone else 0


def status(values: flags.FlagValues, _: list[tuple[str, str]]) -> int:
  from lm_jax import mirror
  from lm_jax.launch import study

  workdir = existing(values)
  with mirror.followed(workdir) if values.watch else contextlib.nullcontext():
    return study.show_status(workdir, watch=values.watch, as_json=values.json)


def serve(values: flags.FlagValues, _: list[tuple[str, str]]) -> int:
  from lm_jax import mirror
  from lm_jax.launch import serve as serving

  if values.port is not None and not 0 <= values.port < 2**16:
    raise ConfigError(f"--port={values.port}: must be in [0, 65535]")
  workdir = existing(values)
  with mirror.followed(workdir):
    return serving.serve(workdir, values.host, values.port)


def report(values: flags.FlagValues, _: list[tuple[str, str]]) -> int:
  from lm_jax import finetune_config
  from lm_jax.analysis import few_shot_frame, finetuning
  from lm_jax.analysis.few_shot_report import few_shot_report
  from lm_jax.analysis.report import compare
  from lm_jax.analysis.report import report as reporting

  workdirs = [existing_folder(workdir) for workdir in values.workdir]
  first = workdirs[0]
  if len(workdirs) > 1 or values.overlay:
    page = compare.write(workdirs, values.overlay or [], Path(values.output) if values.output else None)
    _tell(reporting.told(page))
  elif values.output:
    raise ConfigError(
      f"--output={values.output}: is for several --workdir or an --overlay; of one: {first}/report"
    )
  elif few_shot_frame.is_results(first):
    page = few_shot_report.write(first)
  elif finetune_config.is_finetuning(first):
    page = finetuning.write(first)
  else:
    page = reporting.write(first)
    _tell(reporting.told(page))
  print(page)
  return 0


def _tell(sentences: list[str]) -> None:
  for sentence in sentences:
    print(sentence, file=sys.stderr)


def bench(values: flags.FlagValues, overrides: list[tuple[str, str]]) -> int:
  from lm_jax.launch import benchmarks

  positive(values, "steps")
  if values.core is not None and values.core not in environment.usable_cores():
    raise ConfigError(f"--core={values.core}: must be one of {environment.usable_cores()}")
  configs = {name: _load_benchmark(name, overrides) for name in values.config}
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
  workdir = _workdir(values, may_be_url=False)
  code = finetuning.run(config, workdir, quiet=values.quiet)
  if code == 0:
    folder = reporting.write(workdir)
    print(reporting.format_table(workdir))
    print(f"report: {folder}")
  return code


def classify(values: flags.FlagValues, _: list[tuple[str, str]]) -> int:
  from lm_jax.launch import finetuning

  environment.enable_compilation_cache()
  workdir = existing(values)
  texts = values.text or finetuning.read_lines(sys.stdin)
  results = finetuning.classify(workdir, texts)
  if values.json:
    print(json.dumps({"results": results}))
  else:
    for result in results:
      print(finetuning.classified_line(result, with_text=len(results) > 1))
  return 0


def _workdir(values: flags.FlagValues, *, may_be_url: bool) -> Path:
  """Returns the workdir, made if it was not there; of one in an object store its folder here."""
  if objects.is_url(values.workdir):
    if not may_be_url:
      raise ConfigError(
        f"--workdir={objects.checked(values.workdir)}: several hosts that train one run need a "
        "folder that all of them see"
      )
    from lm_jax import mirror

    return mirror.open_workdir(values.workdir, writes=True)
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


def existing(values: flags.FlagValues) -> Path:
  return existing_folder(values.workdir)


def existing_folder(workdir: str) -> Path:
  if objects.is_url(workdir):
    from lm_jax import mirror

    return mirror.open_workdir(workdir, writes=False)
  path = Path(workdir)
  if not path.is_dir():
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ConfigError(f"--workdir={path}: no such folder{did_you_mean(path.name, siblings)}")
  return path


_CONFIG, _WORKDIR = ("config",), ("workdir",)
COMMANDS = {
  "plan": Command(
    plan, "cells, parameters, FLOPs, tokens, memory, time, and what gain they can resolve; trains nothing",
    ("config", "workers", "device", "mfu", "flops_per_second", "usd_per_hour", "gain", "seed_sd", "json"),
    _CONFIG, takes_config=True,
  ),
  "train": Command(
    train, "train one config", ("config", "workdir", "quiet", "coordinator", "num_processes", "process_id"),
    _CONFIG + _WORKDIR, takes_config=True, takes_url=True, resumes=True,
  ),
  "sweep": Command(
    sweep, "train what is missing of a family, then report",
    ("config", "workdir", *launcher_flags.NAMES, *launcher_flags.RULES, "retry_failed", "quiet"),
    _CONFIG + _WORKDIR, takes_config=True, takes_url=True, resumes=True,
  ),
  "finetune": Command(
    finetune, "classifiers from a pretrained model on k examples a class: full, LoRA, head; then report",
    ("config", "workdir", "quiet"), _CONFIG + _WORKDIR, takes_config=True, resumes=True,
  ),
  "classify": Command(
    classify, "label and probabilities of texts, by the best classifier of lm-jax finetune",
    ("workdir", "text", "json"), _WORKDIR,
  ),
  "status": Command(
    status, "how far a run or sweep is", ("workdir", "watch", "json"), _WORKDIR, takes_url=True
  ),
  "serve": Command(
    serve, "a live page of a run or sweep, for a browser on this machine", ("workdir", "host", "port"),
    _WORKDIR, takes_url=True,
  ),
  "report": Command(
    report, "figures, tables and the interactive page; of several --workdir, and --overlay, one page",
    ("workdir", "overlay", "output"), _WORKDIR, many_workdirs=True, takes_url=True,
  ),
  "bench": Command(
    bench, "tokens/s, step ms, FLOP/s and utilization, time to first step and memory; of generation too",
    ("config", "steps", "core", "output", "json"), _CONFIG, takes_config=True, many_configs=True,
  ),
}  # fmt: skip
