"""Slurm as an engine, through submitit: packs are shared out over the jobs of an array.

Slurm queues a job again that was preempted or whose node was lost (--requeue), and submitit one whose time
is over; what has no job any more and no answer was lost, and is sent again.
"""

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax import failures, rundir, scaling
from lm_jax.launch.base import DirectoryOf, described
from lm_jax.launch.engine import STOP, Back, EngineLauncher, Request
from lm_jax.launch.packing import Pack
from lm_jax.strict import ConfigError
from lm_jax.sweep import Cell

# A job that starts costs some seconds, and a queue of very many small ones annoys everybody: so much
# estimated work goes into one, unless --workers asks for more of them.
JOB_S = 60.0
_MOST_JOBS = 1000  # of one array, as Slurm's MaxArraySize is by default
_LOOK_EVERY_S = 5.0
# How long after its last answer a job may take to end.
_ENDING_S, _END_AGAIN_S = 30.0, 0.5
# Not in Slurm's list any more, which forgets jobs some minutes after their end.
_FORGOTTEN = "FORGOTTEN"
# Of squeue's manual, JOB STATE CODES. What is not listed here, as a newer Slurm may have it, counts as alive:
# that ends too, at the latest as forgotten, while a job that is given up would be trained a second time.
_OVER = ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
         "PREEMPTED", "REVOKED", "TIMEOUT", _FORGOTTEN)  # fmt: skip
_JOBS = 1000  # of one array, as Slurm's MaxArraySize is by default
_LOOK_EVERY_S = 5.0
# How long after its last answer a job may take to end.
_ENDING_S, _END_AGAIN_S = 30.0, 0.5
_LIVING = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD",
           "REQUEUE_FED", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT")  # fmt: skip
# Not in Slurm's list any more, which forgets jobs some minutes after their end.
_FORGOTTEN = "FORGOTTEN"
_JOBS = "jobs"
_DEFAULT_TIME = "24:00:00"


def launcher(options: Sequence[str], request: Request) -> EngineLauncher:
  """Returns a launcher whose jobs have these options of sbatch, each NAME=VALUE."""
  return EngineLauncher("slurm", functools.partial(_Slurm, _parse(options)), request, is_used=_is_used)


def _parse(options: Sequence[str]) -> dict[str, str]:
  parsed = {}
  for option in options:
    name, equals, value = option.removeprefix("--").partition("=")
    if not (name and equals and value):
      raise ConfigError(f"--slurm={option}: must be NAME=VALUE, an option of sbatch, e.g. partition=gpu")
    name = name.replace("-", "_")
    if name in _OURS:
      raise ConfigError(f"--slurm={option}: {_OURS[name]}")
    parsed[name] = value
  if "time" in parsed:
    _minutes(parsed["time"])
  return parsed


_OURS = {
  "array": "set by the launcher", "output": "set by the launcher", "error": "set by the launcher",
  "nodes": "use --hosts", "ntasks": "use --hosts", "cpus_per_task": "use --cpus",
  "gpus_per_node": "use --gpus", "gpus": "use --gpus",
}  # fmt: skip


def _minutes(text: str) -> int:
  """Returns a time limit as sbatch takes it, in whole minutes: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""
  match = re.fullmatch(r"(?:(\d+)-(\d+)(?::(\d+))?(?::(\d+))?|(\d+)(?::(\d+))?(?::(\d+))?)", text)
  if not match:
    raise ConfigError(f"--slurm=time={text}: must be a time limit as sbatch takes it, e.g. 90 or 12:00:00")
  if match[1] is not None:
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups()[:4])
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
  else:
    a, b, c = match.groups()[4:]
    parts = [int(part) for part in (a, b, c) if part is not None]
    total = {1: (60,), 2: (60, 1), 3: (3600, 60, 1)}[len(parts)]
    total = sum(unit * part for unit, part in zip(total, parts, strict=True))
  return max(1, math.ceil(total / 60))


@dataclasses.dataclass
class _Sent:
  """A job: its packs by name, in their order, without those that came back."""

  job_id: str
  packs: dict[str, Pack]
  over_since: float | None = None


class _Slurm:
  def __init__(self, options: Mapping[str, str], folder: Path, directory_of: DirectoryOf, request: Request):
    self._submitit = _import()
    self._options, self._folder = dict(options), folder
    self._directory_of, self._request = directory_of, request
    (folder / "answers").mkdir()
    self._names = itertools.count()
    self._sent: list[_Sent] = []
    self._states: dict[str, str] = {}
    self._next_look = 0.0
    self._stopping = False

  def room(self, cells: Sequence[Cell]) -> int:
    return self._num_jobs(cells, len(cells))

  def _num_jobs(self, cells: Iterable[Cell], num_packs: int) -> int:
    work_s = sum(scaling.seconds(cell.config) for cell in cells)
    asked = self._request.workers or 1
    return min(num_packs, max(asked, math.ceil(work_s / JOB_S)), _MOST_JOBS)

  def wanted(self) -> int | None:
    return None

  def send(self, packs: Sequence[Pack]) -> None:
    if self._request.hosts > 1:
      # One each: a group of processes that met may not be whole any more after a pack that failed.
      for at in range(0, len(packs), _MOST_JOBS):
        self._send(packs[at : at + _MOST_JOBS], len(packs[at : at + _MOST_JOBS]))
    else:
      self._send(packs, self._num_jobs((cell for pack in packs for cell in pack), len(packs)))

  def _send(self, packs: Sequence[Pack], count: int) -> None:
    """Sends packs as an array of so many jobs."""
    shares = [{str(next(self._names)): pack for pack in packs[i::count]} for i in range(count)]
    r = self._request
    from lm_jax.launch.slurm_job import Job

    jobs = [
      Job(
        str(self._folder),
        {name: [described(cell, self._directory_of) for cell in pack] for name, pack in share.items()},
        r.cpus,
        r.hosts,
      )
      for share in shares
    ]
    try:
      with contextlib.redirect_stderr(io.StringIO()):  # submitit repeats there what sbatch says
        sent = self._executor(count).submit_array(jobs)
    except self._submitit.core.utils.FailedJobError as error:
      raise ConfigError(f"--launcher=slurm: sbatch refused: {_one_line(error)[-400:]}") from None
    self._sent += [_Sent(job.job_id, share) for job, share in zip(sent, shares, strict=True)]
    with (self._folder / _JOBS).open("a") as f:
      f.writelines(f"{job.job_id}\n" for job in sent)
    self._next_look = 0.0
    ids = sent[0].job_id.split("_")[0]
    print(f"slurm: job {ids} sent, {count} part{'s' if count > 1 else ''}", file=sys.stderr, flush=True)

  def _executor(self, count: int) -> Any:
    """Returns a submitit.SlurmExecutor for an array of `count` jobs."""
    r, options = self._request, self._options
    executor = self._submitit.SlurmExecutor(
      folder=self._folder, max_num_timeout=sys.maxsize  # as long as it takes
    )  # fmt: skip
    known = {name: options[name] for name in options if name in executor._valid_parameters()}
    others = {name: value for name, value in options.items() if name not in known}
    # Workers must find this very package, also where it is not installed.
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    executor.update_parameters(
      **{"job_name": "lm_jax", "wckey": "lm_jax"} | known | {
        "time": _minutes(options.get("time", _DEFAULT_TIME)),
        "nodes": r.hosts, "ntasks_per_node": 1, "cpus_per_task": r.cpus,
        **({"gpus_per_node": r.gpus} if r.gpus else {}),
        "array_parallelism": min(count, r.workers or count),
        "additional_parameters": {"requeue": True, **others},
        # Since Slurm 22.05 a step does not inherit it from the job.
        "srun_args": [f"--cpus-per-task={r.cpus}", "--kill-on-bad-exit=1"],
        "setup": [f"export PYTHONPATH={shlex.quote(path)}"], "stderr_to_stdout": True,
      }
    )  # fmt: skip
    return executor

  # --- what comes back --------------------------------------------------------------------------

  def back(self) -> list[Back]:
    self._look()
    found = []
    for sent in list(self._sent):
      found += self._answers(sent)
      if sent.packs and self._is_over(sent):
        found += self._without_answer(sent)
        sent.packs.clear()
      if not sent.packs:
        self._sent.remove(sent)
    return found

  def _answers(self, sent: _Sent) -> list[Back]:
    found = []
    for name in list(sent.packs):
      replies = _read_json(self._folder / "answers" / f"{name}.json")
      # A stopped one may be trained on by the same job, queued again; unless it was this launcher that asked.
      if replies is None or (not self._stopping and any(state == rundir.STOPPED for state, *_ in replies)):
        continue
      found.append(Back(sent.packs.pop(name), replies=replies))
    return found

  def _is_over(self, sent: _Sent) -> bool:
    """Whether a job has been over for so long that its answers would be seen."""
    if self._states.get(sent.job_id) not in _OVER:
      sent.over_since = None
      return False
    if sent.over_since is None:
      sent.over_since = time.monotonic()
    return time.monotonic() - sent.over_since >= _LOOK_EVERY_S

  def _without_answer(self, sent: _Sent) -> list[Back]:
    """Judges what is left of a job that is over: the first pack was at work, the others had not begun."""
    state = self._states[sent.job_id]
    first, *others = sent.packs.values()
    how = f"its Slurm job {sent.job_id} ended as {state}{self._last_words(sent)}"
    if state == "CANCELLED" or self._stopping:
      return [Back(pack, replies=[(rundir.STOPPED, how, None)] * len(pack)) for pack in sent.packs.values()]
    if state == "OUT_OF_MEMORY":
      back = Back(first, failure=(f"{how}; --slurm=mem=... asks for more", failures.OUT_OF_MEMORY))
    else:
      back = Back(first, death=how)
    return [back, *map(Back, others)]

  def _last_words(self, sent: _Sent) -> str:
    lines = []
    for path in sorted(self._folder.glob(f"{sent.job_id}*_log.out")):
      with contextlib.suppress(OSError, UnicodeDecodeError):
        lines += [line for line in path.read_text().splitlines() if line.startswith("lm-jax: ")]
    return f" ({lines[-1].removeprefix('lm-jax: ')})" if lines else ""

  def _look(self) -> None:
    """Asks Slurm for the states of the jobs, now and then."""
    now = time.monotonic()
    if now < self._next_look or not self._sent:
      return
    self._next_look = now + _LOOK_EVERY_S
    states = _states(sent.job_id for sent in self._sent)
    if states is not None:  # else the controller did not answer, and nothing is known
      self._states = states

  # --- ends -------------------------------------------------------------------------------------

  def is_idle(self) -> bool:
    return not self._sent

  def stop(self) -> None:
    self._stopping = True
    (self._folder / STOP).touch()
    self._cancel("--state=PENDING")

  def kill(self) -> None:
    self._cancel()

  def _cancel(self, *options: str) -> None:
    ids = sorted({sent.job_id for sent in self._sent})
    if ids:
      subprocess.run(["scancel", *options, *ids], capture_output=True, timeout=60)
    self._next_look = 0.0

  def close(self) -> None:
    """Waits until jobs that gave their last answer are over: what they still write has its place."""
    deadline = time.monotonic() + _ENDING_S
    while not self._sent and _is_used(self._folder) and time.monotonic() < deadline:
      time.sleep(_END_AGAIN_S)


def _states(job_ids: Iterable[str]) -> dict[str, str] | None:
  """Returns the state of each job, as squeue has it; None if it gives no answer."""
  ids = list(job_ids)
  arrays = sorted({job_id.split("_")[0] for job_id in ids})
  command = [
    "squeue",
    "--noheader",
    "--array",
    "--states=all",
    "--format=%i %T",
    f"--jobs={','.join(arrays)}",
  ]
  try:
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
  except subprocess.TimeoutExpired:
    return None
  if answer.returncode and "Invalid job id" not in answer.stderr:
    return None
  listed = dict(line.split(maxsplit=1) for line in answer.stdout.splitlines() if line.strip())
  return {job_id: listed.get(job_id, _FORGOTTEN) for job_id in ids}


def _is_used(folder: Path) -> bool:
  """Whether jobs of a launch may still run, or wait, though its launcher does not."""
  path = folder / _JOBS
  ids = path.read_text().split() if path.exists() else []
  if not ids:
    return False
  states = _states(ids)
  return states is None or any(state not in _OVER for state in states.values())


def _read_json(path: Path) -> Any:
  try:
    return json.loads(rundir.read_text(path))
  except FileNotFoundError:
    return None


def _one_line(error: object) -> str:
  return " ".join(str(error).split())


def _import() -> Any:
  if shutil.which("sbatch") is None:
    raise ConfigError("--launcher=slurm: there is no sbatch on this machine; start it on a Slurm login node")
  try:
    import submitit
  except ImportError:
    raise ConfigError("--launcher=slurm: submitit is not installed; pip install 'lm_jax[slurm]'") from None
  return submitit
