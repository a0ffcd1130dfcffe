"""`lm-jax finetune` and `lm-jax classify`: pretraining and runs, those that are missing.

WORKDIR/pretraining/    a run of lm-jax train, where no checkpoint is given
WORKDIR/classifier/     the best of the first method at the largest k, see lm_jax/classifier.py
WORKDIR/config.json task.json status.json records.jsonl report/
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax import classifier, environment, finetune, finetune_config, interop, lease, loop, rundir
from lm_jax.finetune import Finetuning, Group, Outcome
from lm_jax.finetune_config import FinetuneConfig
from lm_jax.launch import single
from lm_jax.launch.progress import duration
from lm_jax.launch.study import is_done
from lm_jax.rundir import RunDir
from lm_jax.strict import ConfigError

PRETRAINING, CLASSIFIER = "pretraining", "classifier"


def run(c: FinetuneConfig, workdir: Path, *, quiet: bool = False) -> int:
  """Runs what is missing in a workdir; returns the exit code. What is there already is not done again."""
  _check_workdir(c, workdir)
  finetune.check_data(c)
  source = c.checkpoint or workdir / PRETRAINING
  if c.checkpoint is None and not is_done(source):
    RunDir(workdir).write_config(c)
    code = single.train(c.pretraining, source, quiet=quiet)
    if code:
      return code
  environment.resume_garbage_collection()
  stop = loop.stop_on_signals()
  run = RunDir(workdir)
  try:
    if lease.is_held(workdir):
      lease.claim_from_the_dead(workdir, wait=stop.wait).release()
    with run.claim() as held:
      return _run_missing(c, run, source, stop, quiet, held.check)
  except lease.Lost as error:
    print(f"lm-jax: {error}", file=sys.stderr)
    return 1
  except rundir.Busy as error:
    if stop.is_set():
      return 128 + stop.signal_number
    raise ConfigError(f"--workdir={error}") from None
  except finetune.Diverged as error:
    run.write_status(rundir.FAILED, error=str(error))
    print(f"lm-jax: {error}", file=sys.stderr)
    return 1


def _check_workdir(c: FinetuneConfig, workdir: Path) -> None:
  """Raises ConfigError if a workdir holds something else; before anything is trained."""
  if (workdir / "sweep.json").exists():
    raise ConfigError(f"--workdir={workdir}: holds a sweep; choose another workdir")
  path = workdir / "config.json"
  if not path.exists():
    return
  if not finetune_config.is_finetuning(workdir):
    raise ConfigError(f"--workdir={workdir}: holds a run of lm-jax train; choose another workdir")
  before = finetune_config.from_mapping(json.loads(path.read_text()))
  if finetune_config.identity(before) != finetune_config.identity(c):
    raise ConfigError(
      f"--workdir={workdir}: holds fine-tuning with other settings; choose another workdir, or delete it "
      "(shots, draws and methods may change)"
    )


def _check_facts(run: RunDir, facts: dict[str, Any]) -> None:
  """Raises ConfigError if the data or the model is not what the runs in the workdir had."""
  path = run.path / "task.json"
  if not path.exists():
    return
  before = json.loads(path.read_text())
  names = {"data_digest": "the data", "model": "the pretrained model", "initial": "config.initial"}
  for key, what in names.items():
    if before[key] != facts[key]:
      raise ConfigError(
        f"--workdir={run.path}: {what} changed since its first run ({before[key]} -> {facts[key]}); "
        "choose another workdir"
      )


def _run_missing(
  c: FinetuneConfig, run: RunDir, source: str | Path, stop: loop.Stop, quiet: bool, check: Callable[[], None]
) -> int:
  model = interop.load(source, name="config.checkpoint", trained=c.initial == "pretrained")
  tuning = Finetuning(c, model)
  _check_facts(run, tuning.facts)
  run.write_config(c)
  rundir.write_json(run.path / "task.json", tuning.facts)
  groups = finetune.missing(c, finetune.read_finished(run.records))
  progress = _Progress(c, groups, run, quiet)
  for group in groups:
    if stop.is_set():
      progress.write(rundir.STOPPED)
      print("lm-jax: stopped; the same command goes on from here", file=sys.stderr)
      return 128 + stop.signal_number
    keep = run.path / CLASSIFIER if finetune.is_kept(c, group) else None
    check()
    progress.begin(group)
    progress.end(group, finetune.run_group(tuning, group, run.records, keep))
  progress.write(rundir.DONE)
  if not groups:
    print("all runs are done, nothing to train", file=sys.stderr)
  return 0


class _Progress:
  """A line on stderr for every group, with the time that is left, and status.json."""

  def __init__(self, c: FinetuneConfig, groups: Sequence[Group], run: RunDir, quiet: bool):
    self._run, self._quiet = run, quiet
    self._left, self._total = list(groups), len(c.methods) * len(c.shots)
    self._seconds: dict[str, list[float]] = {}  # of finished groups, by method
    self._started = 0.0

  def begin(self, group: Group) -> None:
    self._started = time.monotonic()
    self.write(rundir.RUNNING)
    if not self._quiet and not self._seconds:
      print(f"{group.method}, k={group.shots}: compiling", file=sys.stderr, flush=True)

  def end(self, group: Group, outcomes: Sequence[Outcome]) -> None:
    self._seconds.setdefault(group.method, []).append(time.monotonic() - self._started)
    self._left.remove(group)
    if self._quiet:
      return
    dev, test = (
      np.mean([getattr(o, split)["accuracy"].mean() for o in outcomes]) for split in ("dev", "test")
    )
    steps = f"{min(o.step for o in outcomes)} to {max(o.step for o in outcomes)}"
    left = f", about {duration(self.time_left())} left" if self._left else ""
    print(f"{group.method}, k={group.shots}: accuracy {test:.3f} on test, {dev:.3f} on dev, mean of "
          f"{len(outcomes)} draws, at steps {steps} "
          f"({self._total - len(self._left)}/{self._total}{left})", file=sys.stderr, flush=True)  # fmt: skip

  def time_left(self) -> float | None:
    """Estimates from the groups so far: of the same method where there are, whose first one compiled."""
    if not self._seconds:
      return None
    every = [s for seconds in self._seconds.values() for s in seconds]
    mean = {method: np.mean(s[1:] or s) for method, s in self._seconds.items()}
    return float(sum(mean.get(group.method, np.mean(every)) for group in self._left))

  def write(self, state: str) -> None:
    done = self._total - len(self._left)
    self._run.write_status(state, step=done, num_steps=self._total, loss=None, tokens_per_s=None,
                           eta_s=self.time_left(), error=None)  # fmt: skip


# --- lm-jax classify ------------------------------------------------------------------------------


def classify(workdir: Path, texts: Sequence[str]) -> list[dict[str, Any]]:
  """Returns the label and the probability of each class for every text; ConfigError for an empty one."""
  for text in texts:
    if not text.strip():
      raise ConfigError("--text='': is empty")
  model = classifier.load(workdir / CLASSIFIER)
  return [
    {
      "text": text,
      "label": model.classes[int(p.argmax())],
      "probabilities": {name: float(p[i]) for i, name in enumerate(model.classes)},
    }
    for text, p in zip(texts, model.probabilities(texts), strict=True)
  ]


def classified_line(result: dict[str, Any], *, with_text: bool) -> str:
  """Returns e.g. "positive  (positive 0.913, negative 0.087)", the likeliest class first."""
  ranked = sorted(result["probabilities"].items(), key=lambda item: -item[1])
  line = f"{result['label']}  ({', '.join(f'{name} {p:.3f}' for name, p in ranked)})"
  return f"{line}  {result['text']}" if with_text else line


def read_lines(stream: Any) -> list[str]:
  """Returns the lines of a stream that are not blank."""
  texts = [line.strip() for line in stream if line.strip()]
  if not texts:
    raise ConfigError("--text=... must be given, or texts on stdin, one a line")
  return texts
