"""A worker process: reads packs of cells from stdin, a JSON line each, and answers with a JSON line each.

{"run": [{"directory", "config"}, ...]} trains them as one population and is answered by a list of
[state, error, kind]. {"prepare": [{"config"}, ...]} compiles in the background and is not answered. One
process runs many packs, so that imports are paid once. End of input, or SIGTERM, makes it save and stop; so
does the death of its parent, which closes the pipe.
"""

import contextlib
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from lm_jax import environment
from lm_jax.launch import meeting
from lm_jax.launch.worker_process import Reply


def main() -> None:
  environment.postpone_garbage_collection()
  if cores := os.environ.get("LM_JAX_WORKER_CORES"):
    environment.pin_to_cores(map(int, cores.split(",")))
  # Nothing but answers may reach the real stdout, whether written in Python or below it.
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)

  meeting.join()
  from lm_jax import loop

  environment.enable_compilation_cache()
  stop = loop.stop_on_signals()
  for request in _requests(stop):
    reply = run(request["run"], stop)
    with contextlib.suppress(BrokenPipeError):  # the parent died
      answers.write(json.dumps(reply) + "\n")
      answers.flush()
    if stop.is_set():
      break


def _requests(stop: threading.Event) -> Iterator[dict]:
  """Yields what is to be run; a thread reads stdin, so that its end stops a running pack."""
  requests: queue.Queue[dict | None] = queue.Queue()

  def read() -> None:
    for line in sys.stdin:
      request = json.loads(line)
      if "prepare" in request:
        threading.Thread(target=_prepare, args=(request["prepare"],), daemon=True).start()
      else:
        requests.put(request)
    stop.set()
    requests.put(None)

  threading.Thread(target=read, daemon=True).start()
  yield from iter(requests.get, None)


def _prepare(cells: list[dict]) -> None:
  from lm_jax import config, programs

  try:
    programs.prepare([config.from_mapping(cell["config"]) for cell in cells])
  except Exception as error:  # whoever runs them meets it too, and reports it
    print(f"not compiled ahead: {type(error).__name__}: {error}", file=sys.stderr)


def run(cells: Sequence[dict], stop: threading.Event) -> list[Reply]:
  """Runs a pack and returns what became of each cell; no error of a cell ends the worker."""
  from lm_jax import config, loop, mirror

  directories = [mirror.directory(cell) for cell in cells]
  try:
    configs = [config.from_mapping(cell["config"]) for cell in cells]
    resume = environment.resume_garbage_collection
    errors = loop.train_population(configs, directories, stop=stop, on_first_step=resume)
  except Exception as error:
    errors = [error] * len(cells)
  return [_reply(directory, error) for directory, error in zip(directories, errors, strict=True)]


def _reply(directory: Path, error: Exception | None) -> Reply:
  from lm_jax import failures, lease, loop, rundir

  run = rundir.RunDir(directory)
  if error is None or run.is_done():  # then it is an error of others in its pack
    return rundir.DONE, None, None
  if isinstance(error, loop.Stopped):
    return rundir.STOPPED, None, None
  if isinstance(error, loop.Paused):
    return rundir.PAUSED, None, None
  if isinstance(error, rundir.Busy | lease.Lost):
    return rundir.BUSY, str(error), None
  kind = failures.kind(error)
  if kind == failures.DIVERGED:  # the loop has written it down
    return rundir.FAILED, str(error), kind
  group = meeting.own()
  if group and group.rank > 0:  # the first one writes
    return rundir.FAILED, str(error), kind
  message = _message(directory, error, kind)
  try:
    with run.claim():
      if kind == failures.CODE:
        (directory / "error.txt").write_text("".join(traceback.format_exception(error)))
      run.write_failure(message, kind)
  except rundir.Busy as busy:  # it is another's, who tells
    return rundir.BUSY, str(busy), None
  except OSError:  # where the disk is full this cannot be written; the answer still gets through
    pass
  return rundir.FAILED, message, kind


def _message(directory: Path, error: Exception, kind: str) -> str:
  """Returns what is told of an error: of one that was not expected, where the traceback is."""
  from lm_jax import failures

  if kind == failures.CODE:
    return f"{type(error).__name__}: {error}; traceback in {directory / 'error.txt'}"
  return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
  try:
    main()
  except Exception:
    if meeting.own() is None:
      raise
    # A proper exit would wait for the other hosts, which wait for this one.
    traceback.print_exc()
    os._exit(1)
