"""`lm-jax train`: one run in this process, with progress."""

import sys
import threading
from pathlib import Path

from lm_jax import environment, hosts, lease, loop, mirror, records, rundir, startup
from lm_jax.config import Config, cell_id
from lm_jax.launch.progress import Progress
from lm_jax.launch.study import is_done, prepare_data
from lm_jax.strict import ConfigError
from lm_jax.sweep import Cell


def train(config: Config, workdir: Path, *, quiet: bool = False) -> int:
  """Runs, or takes up, one run; prints its first and last scores; returns the exit code."""
  if (workdir / "sweep.json").exists():
    raise ConfigError(f"--workdir={workdir}: holds a sweep; choose another workdir")
  cell = Cell(cell_id(config), config, {})
  was_done = is_done(workdir)
  if not was_done:
    prepare_data([config], quiet=quiet)
  stop = loop.stop_on_signals()
  # Its modules are imported by now, and nothing was traced.
  clock = startup.Startup(startup.process_start())

  def on_first_step() -> None:
    breakdown = clock.first_step()
    environment.resume_garbage_collection()
    if not quiet:
      print(breakdown, file=sys.stderr)

  try:
    if hosts.is_first() and not was_done and lease.is_held(workdir):
      # What a machine held when it died is free after a silence, which one process has to hear.
      mirrored = mirror.of(workdir)
      place = mirrored.unit(workdir).place if mirrored else None
      lease.claim_from_the_dead(workdir, wait=stop.wait, place=place).release()
    with _shown(cell, workdir, stop, quiet):
      loop.train(config, workdir, stop=stop, on_first_step=on_first_step)
  except rundir.Busy as error:
    if stop.is_set():
      return 128 + stop.signal_number
    raise ConfigError(f"--workdir={error}") from None
  except (loop.Diverged, loop.OutOfMemory, lease.Lost) as error:
    print(f"lm-jax: {error}", file=sys.stderr)
    return 1
  except loop.Paused as paused:
    print(f"{paused}, config.runtime.stop_at; without that it goes on from there", file=sys.stderr)
    return 0
  except loop.Stopped as stopped:
    print(f"lm-jax: {stopped}; the same command goes on from there", file=sys.stderr)
    return 128 + stopped.signal_number
  if not hosts.is_first():
    return 0
  if was_done:
    print("it is done, nothing to train", file=sys.stderr)
  print(scores_text(workdir))
  return 0


def scores_text(workdir: Path) -> str:
  """Returns the summary metrics of the first and last evaluation, a line each."""
  rows = [
    row for row in records.read(rundir.RunDir(workdir).records)
    if row["split"] == "test" and (row["prompt_id"] == "window" or row["n_shots"] is None)
  ]  # fmt: skip
  first, last = min(row["step"] for row in rows), max(row["step"] for row in rows)
  at = {(row["step"], row["metric"]): row for row in rows}
  lines = [f"{workdir}: step {last}"]
  for metric in dict.fromkeys(row["metric"] for row in rows):
    before, after = at[first, metric], at[last, metric]
    error = "" if after["stderr"] is None else f" ± {after['stderr']:.4f}"
    chance = "" if after["chance"] is None else f", chance {after['chance']:.3g}"
    lines.append(f"  {metric:<14} {after['value']:.4f}{error}  (step {first}: {before['value']:.4f}{chance})")
  return "\n".join(lines)


class _shown:
  """Shows progress from a thread of its own while the run has the main one."""

  def __init__(self, cell: Cell, workdir: Path, stop: loop.Stop, quiet: bool):
    self._stop = stop
    self._progress = Progress([cell], lambda _: workdir, quiet=quiet)
    self._over = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)

  def _watch(self) -> None:
    announced = False
    while not self._over.wait(0.25):
      self._progress.update()
      if self._stop.is_set() and not announced:
        announced = True
        print("stopping: it saves first; Ctrl-C again stops it at once", file=sys.stderr)

  def __enter__(self) -> None:
    self._progress.__enter__()
    self._thread.start()

  def __exit__(self, *exception) -> None:
    self._over.set()
    self._thread.join()
    self._progress.update()
    self._progress.__exit__(*exception)
