"""A worker process: reads cells from stdin, a JSON line each, runs them, answers with a JSON line each.

One process runs many cells, so that imports are paid once. End of input, or SIGTERM, makes it save and
stop; so does the death of its parent, which closes the pipe.
"""

import contextlib
import json
import os
import queue
import sys
import threading
import traceback
from pathlib import Path

from lm_jax import environment


def main() -> None:
  if core := os.environ.get("LM_JAX_WORKER_CORE"):
    environment.pin_to_core(int(core))
  # Nothing but answers may reach the real stdout, whether written in Python or below it.
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)

  from lm_jax import loop

  environment.enable_compilation_cache()
  stop = loop.stop_on_signals()
  for line in _read_lines(stop):
    request = json.loads(line)
    state, error = _run(request, stop)
    with contextlib.suppress(BrokenPipeError):  # the parent died
      answers.write(json.dumps({"cell_id": request["cell_id"], "state": state, "error": error}) + "\n")
      answers.flush()
    if stop.is_set():
      break


def _read_lines(stop: threading.Event):
  """Yields lines of stdin; a thread reads them, so that the end of input stops a running cell."""
  lines: queue.Queue[str | None] = queue.Queue()

  def read() -> None:
    for line in sys.stdin:
      lines.put(line)
    stop.set()
    lines.put(None)

  threading.Thread(target=read, daemon=True).start()
  yield from iter(lines.get, None)


def _run(request: dict, stop: threading.Event) -> tuple[str, str | None]:
  """Runs one cell and returns its state and what went wrong; no error of a cell ends the worker."""
  from lm_jax import config, loop, rundir

  directory = Path(request["directory"])
  try:
    loop.train(config.from_mapping(request["config"]), directory, stop=stop)
    return rundir.DONE, None
  except loop.Stopped:
    return rundir.STOPPED, None
  except rundir.Busy as error:
    return rundir.BUSY, str(error)
  except loop.Diverged as error:
    return rundir.FAILED, str(error)
  except Exception as error:
    message = str(error)
    if not isinstance(error, config.ConfigError):
      (directory / "error.txt").write_text(traceback.format_exc())
      message = f"{type(error).__name__}: {error}; traceback in {directory / 'error.txt'}"
    rundir.RunDir(directory).write_status(rundir.FAILED, error=message)
    return rundir.FAILED, message


if __name__ == "__main__":
  main()
