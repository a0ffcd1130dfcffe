"""A worker process: reads cells from stdin, a JSON line each, runs them, answers with a JSON line each.

One process runs many cells, so that imports are paid once. End of input, or SIGTERM, makes it save and
stop; so does the death of its parent, which closes the pipe.
"""

import json
import os
import sys
import threading
import traceback
from pathlib import Path

from lm_jax import environment


def main() -> None:
  if core := os.environ.get("LM_JAX_WORKER_CORE"):
    environment.pin_to_core(int(core))
  # Nothing but answers may reach the real stdout.
  answers, sys.stdout = sys.stdout, sys.stderr

  from lm_jax import loop

  environment.enable_compilation_cache()
  stop = loop.stop_on_signals()
  lines = _read_lines(stop)
  for line in lines:
    request = json.loads(line)
    state, error = _run(request, stop)
    print(
      json.dumps({"cell_id": request["cell_id"], "state": state, "error": error}), file=answers, flush=True
    )
    if stop.is_set():
      break


def _read_lines(stop: threading.Event):
  """Yields lines of stdin; a thread reads them, so that the end of input stops a running cell."""
  import queue

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
  except (loop.Diverged, rundir.Busy, config.ConfigError) as error:
    return rundir.FAILED, str(error)
  except Exception as error:
    (directory / "error.txt").write_text(traceback.format_exc())
    message = f"{type(error).__name__}: {error}; traceback in {directory / 'error.txt'}"
    rundir.RunDir(directory).write_status(rundir.FAILED, error=message)
    return rundir.FAILED, message


if __name__ == "__main__":
  main()
