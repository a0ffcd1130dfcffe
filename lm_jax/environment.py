"""The machine a process runs on: caches, cores, compilation cache. Nothing here changes a result."""

import gc
import os
import sys
from collections.abc import Iterable
from pathlib import Path


def cache_dir() -> Path:
  """Returns the folder of what can be made again: $LM_JAX_CACHE, else lm_jax under the user's cache."""
  if explicit := os.environ.get("LM_JAX_CACHE"):
    return Path(explicit)
  return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lm_jax"


def usable_cores() -> list[int]:
  """Returns the cores this process may run on."""
  if hasattr(os, "sched_getaffinity"):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def pin_to_cores(cores: Iterable[int]) -> None:
  """Confines this process to some cores. Call before jax starts: its thread pools take their size from them.

  Two pinned single-threaded processes use two cores better than one process with two threads.
  """
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, set(cores))


def one_blas_thread() -> None:
  """Lets numpy multiply in one thread. Call before numpy is imported.

  Analyses multiply many small matrices: more threads only wait for each other, which costs half as much
  again in time of the processor (of a report's findings 50 s instead of 33 s, in the same time).
  """
  os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


# Transparent huge pages for large buffers: 4 to 11 % more tokens/s on a CPU at the sizes of configs/bench.
# glibc reads it when a process starts; other systems ignore it.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def restart_with_huge_pages(argv: list[str]) -> None:
  """Replaces this process by `python -m lm_jax ARGV` with HUGE_PAGES, unless the user tunes glibc already."""
  if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
    os.environ |= HUGE_PAGES
    os.execv(sys.executable, [sys.executable, "-m", "lm_jax", *argv])


def postpone_garbage_collection() -> None:
  """Stops looking for garbage until a first step: imports and tracing leave little of it and much that lasts.

  That is a tenth of the time until then.
  """
  gc.disable()


def resume_garbage_collection() -> None:
  """Looks for garbage again, but not among what is there by now."""
  gc.freeze()
  gc.enable()


def enable_compilation_cache() -> None:
  """Keeps compiled programs on disk, shared by all processes and runs of this user."""
  import jax

  jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
