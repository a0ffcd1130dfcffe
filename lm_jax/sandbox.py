"""Running generated programs, as those of HumanEval and MBPP, where they can do no harm.

A program passes if it runs to the end of its text: a task's tests stand there, and raise where they fail. It
is executed by the Python that runs this, with the packages installed there, in a process that
  - sees of our files the interpreter's and the system's libraries, read-only, and an empty /tmp in memory;
  - sees no other process, no network, not even this machine's own, and no environment variable of ours;
  - is nobody's, whoever runs it, has no privileges and no way to gain them;
  - has bounded time, memory, files, output and processes, and dies with all that it started.
How: sandbox_linux. Until when a result can be trusted: sandbox_process.

Elsewhere than on Linux, and where its kernel denies namespaces, running a program is refused unless the
caller says otherwise, and then little more than time is bounded: see `run`.
"""

import dataclasses
import functools
import os
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent import futures
from pathlib import Path
from typing import Literal, get_args

from lm_jax import sandbox_linux, sandbox_process
from lm_jax.strict import ConfigError, require, require_positive

Reason = Literal[
  "passed",  # ran to its end
  "failed",  # an exception ended it, a failed test's among them; also text that is no Python
  "exited early",  # it ended itself before its end
  "crashed",  # a signal ended it
  "timed out",
  "out of memory",
  "too much output",
]

# The package without its own __init__, whose imports would double the time that a program takes to start.
_START = """
import sys, types
package = types.ModuleType("lm_jax")
package.__path__ = [{folder!r}]
sys.modules["lm_jax"] = package
from lm_jax import sandbox_process
sandbox_process.main({options!r})
"""

# All of a program's environment. Strings hash alike in every run, so that a set has one order.
_ENVIRONMENT = {
  "PATH": "/usr/local/bin:/usr/bin:/bin",
  "LANG": "C.UTF-8",
  "PYTHONHASHSEED": "0",
  "OMP_NUM_THREADS": "1",  # one for each core would count against the limits
  "OPENBLAS_NUM_THREADS": "1",
}

_LEAST_MEMORY = 64 << 20  # of address space, for the interpreter itself

_SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache")


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a program may use.

  Attributes:
    seconds: of time; and of CPU time, for each process.
    memory_bytes: of address space, of all its processes together.
    file_bytes: of files, all together; they are in memory, beside memory_bytes.
    output_bytes: of stdout and stderr.
    processes: at a time, threads included.
  """

  seconds: float = 10.0
  memory_bytes: int = 1 << 30
  file_bytes: int = 64 << 20
  output_bytes: int = 1 << 20
  processes: int = 64

  def __post_init__(self):
    require_positive(self, "limits", ("seconds", "file_bytes", "output_bytes", "processes"))
    enough = self.memory_bytes >= _LEAST_MEMORY
    require(enough, "limits.memory_bytes", self.memory_bytes, f"at least {_LEAST_MEMORY}")


DEFAULT_LIMITS = Limits()


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a program ended, and the last bytes of its stdout and stderr, in the order in which they came."""

  reason: Reason
  output: str

  @property
  def passed(self) -> bool:
    return self.reason == "passed"


@dataclasses.dataclass(frozen=True)
class Isolation:
  """Whether programs can be isolated here; `missing` is what stands against it."""

  missing: str | None

  def __str__(self) -> str:
    if self.missing:
      return f"no isolation: {self.missing}"
    return "isolated: own users, files, processes, network and IPC; filtered system calls"


@functools.cache
def isolation() -> Isolation:
  """Returns whether programs can be isolated here, found by isolating one."""
  machine = os.uname().machine
  if sys.platform != "linux" or machine not in sandbox_linux.MACHINES:
    return Isolation(f"needs Linux on {' or '.join(sandbox_linux.MACHINES)}, not {sys.platform} on {machine}")
  try:
    outcome = _start("", DEFAULT_LIMITS, isolated=True, folder="/tmp")
  except RuntimeError as error:
    return Isolation(str(error))
  return Isolation(None if outcome.passed else f"an empty program {outcome.reason}: {outcome.output.strip()}")


def require_isolation() -> None:
  """Raises ConfigError where programs cannot be isolated."""
  missing = isolation().missing
  if missing:
    raise ConfigError(
      f"generated code can't be isolated here: {missing}. Allow user namespaces (Linux 5.14 or newer, sysctl "
      "user.max_user_namespaces above 0, on Ubuntu sysctl kernel.apparmor_restrict_unprivileged_userns=0, in "
      "a container --security-opt seccomp=unconfined or --privileged), or say without_isolation=True, and "
      "then generated code may do all that you may"
    )


def run(program: str, limits: Limits = DEFAULT_LIMITS, *, without_isolation: bool = False) -> Outcome:
  """Runs a program to its end or to a limit.

  Args:
    program: text of all of it, its tests at the end.
    without_isolation: runs it, isolated or not possible to isolate, as a process that may do all that we may:
      read, change and delete files, use the network, and leave processes behind. Only time, output and, of
      each process, CPU time, the size of a file and (not on macOS) memory are bounded.

  Raises:
    ConfigError: where it cannot be isolated.
  """
  require(isinstance(program, str), "program", program, "a string")
  if not without_isolation:
    require_isolation()
    return _start(program, limits, isolated=True, folder="/tmp")
  with tempfile.TemporaryDirectory() as folder:
    return _start(program, limits, isolated=False, folder=folder)


def run_all(
  programs: Sequence[str],
  limits: Limits = DEFAULT_LIMITS,
  *,
  workers: int,
  without_isolation: bool = False,
  progress: Callable[[int], None] | None = None,
) -> list[Outcome]:
  """Runs programs, some at a time, and returns their outcomes in order.

  Args:
    workers: how many at a time; more than the machine has cores make programs time out that would pass.
    without_isolation: see `run`.
    progress: called with how many have ended, whenever one has.
  """
  require(workers > 0, "workers", workers, "greater than 0")
  with futures.ThreadPoolExecutor(workers) as pool:
    started = [pool.submit(run, p, limits, without_isolation=without_isolation) for p in programs]
    try:
      for count, ended in enumerate(futures.as_completed(started), start=1):
        ended.result()  # raises where it could not be run, at once
        if progress:
          progress(count)
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      raise
  return [future.result() for future in started]


def _start(program: str, limits: Limits, *, isolated: bool, folder: str) -> Outcome:
  options = {
    **dataclasses.asdict(limits),
    "isolated": isolated,
    "parent": os.getpid(),
    "folder": folder,
    "readable": _readable(),
    "site_packages": site.getsitepackages(),
  }
  source = _START.format(folder=str(Path(sandbox_process.__file__).parent), options=options)
  ended = subprocess.run(
    # No site: it would run what is installed to be run at the start of Python, in every program.
    [sys.executable, "-s", "-S", "-P", "-c", source],
    input=program.encode(errors="surrogatepass"),
    capture_output=True,
    cwd="/",
    env=_ENVIRONMENT,
    start_new_session=True,
  )
  reason, newline, output = ended.stdout.partition(b"\n")
  if not newline or reason.decode() not in get_args(Reason):
    raise RuntimeError(ended.stderr.decode(errors="replace").strip() or f"ended with {ended.returncode}")
  return Outcome(reason.decode(), output.decode(errors="replace"))


@functools.cache
def _readable() -> list[tuple[str, str]]:
  """Returns (path, the same without symbolic links) of what a program may read, outer folders first."""
  prefixes = {sys.prefix, sys.base_prefix, *map(os.path.realpath, (sys.prefix, sys.base_prefix))}
  found = []
  for path in (*_SYSTEM, *sorted(prefixes)):
    if os.path.exists(path) and not any(_is_inside(path, outer) for outer, _ in found):
      found.append((path, os.path.realpath(path)))
  return found


def _is_inside(path: str, folder: str) -> bool:
  return Path(path).is_relative_to(folder)
