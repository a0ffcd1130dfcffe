"""How long it takes until a run's first step is done, and on what the time went."""

import dataclasses
import os
import time
from collections.abc import Iterable
from pathlib import Path

# jax's own events. Tracing and lowering are one: they are Python, and each does some of the other.
_TRACING = ("/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration")
# Compiling, or reading what was compiled before.
_COMPILING = ("/jax/core/compile/backend_compile_duration",)
_CACHE_MISS = "/jax/compilation_cache/cache_misses"

_LOADED = time.time()

Span = tuple[float, float]


def process_start() -> float:
  """Returns when this process started, in seconds since the epoch; outside Linux, when it imported this.

  A process that replaced itself (`environment.restart_with_huge_pages`) started when the first one did.
  """
  try:
    # The 22nd field, and the 20th after the name, which may hold anything but ends in the last ")".
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
  except (OSError, AttributeError):
    return _LOADED


@dataclasses.dataclass(frozen=True)
class Breakdown:
  """Seconds until the first step was done, and parts of them.

  `imports` is all that came before the run: Python, imports, reading the config, making its text. `rest` is
  what jax did not spend on preparing programs: evaluation sets, the step itself. `compiling` mostly reads
  the cache where it held all programs; `num_compiled` of them it did not hold.
  """

  total: float
  imports: float
  tracing: float
  compiling: float
  num_compiled: int

  @property
  def rest(self) -> float:
    return self.total - self.imports - self.tracing - self.compiling

  def __str__(self) -> str:
    programs = f"compiling {self.num_compiled} programs" if self.num_compiled else "reading compiled programs"
    return (
      f"first step after {self.total:.1f} s (imports {self.imports:.1f}, tracing {self.tracing:.1f}, "
      f"{programs} {self.compiling:.1f}, the rest {self.rest:.1f})"
    )


class Startup:
  """Listens to jax from its making to `first_step`."""

  def __init__(self, began: float | None = None):
    """
    Args:
      began: seconds since the epoch; default: now, for a run that is not the first of its process.
    """
    from jax import monitoring

    self._made = time.time()
    self._began = self._made if began is None else began
    self._tracing: list[Span] = []
    self._compiling: list[Span] = []
    self._num_compiled = 0
    monitoring.register_event_time_span_listener(self._listen)
    monitoring.register_event_listener(self._count)

  def _listen(self, event: str, start: float, end: float, **_: object) -> None:
    if event in _TRACING:
      self._tracing.append((start, end))
    elif event in _COMPILING:
      self._compiling.append((start, end))

  def _count(self, event: str, **_: object) -> None:
    self._num_compiled += event == _CACHE_MISS

  def first_step(self) -> Breakdown:
    """Returns what it took until now. Call once, when the first step's results are there."""
    from jax import monitoring

    monitoring.unregister_event_time_span_listener(self._listen)
    monitoring.unregister_event_listener(self._count)
    compiling = covered(self._compiling)
    # A constant that is computed while tracing is compiled inside of it.
    tracing = covered([*self._tracing, *self._compiling]) - compiling
    imports = self._made - self._began
    return Breakdown(time.time() - self._began, imports, tracing, compiling, self._num_compiled)


def covered(spans: Iterable[Span]) -> float:
  """Returns the seconds that lie in any of the spans, which may contain and overlap each other."""
  total, until = 0.0, float("-inf")
  for start, end in sorted(spans):
    total += max(0.0, end - max(start, until))
    until = max(until, end)
  return total
