"""The processes that run one program, started by lm_jax.sandbox in an interpreter of their own.

Three, each the child of the one before:
  supervisor  outside: keeps the time, counts memory and output, kills, and writes the outcome to its stdout,
              the reason on a line and then the output.
  keeper      the first process of the program's world, with whose end all others of that world end. Without
              isolation an ordinary one.
  program     gives up its privileges, executes the text and says on a pipe how that ended.

The text shares its process with our code that says how it ended, so what is said counts only with a token: a
random string that stands in no file and in no variable of the text's own. A program that walks the stack for
it finds it. Against one that is written to forge its result, and not just to end early, print something or
write into whatever is open, no check inside the same process helps.

Imports little: every program that is run pays for it at its start.
"""

import math
import os
import resource
import select
import signal
import sys
import time
import types

from lm_jax import sandbox_linux as linux

POLL_SECONDS = 0.02
TAIL_BYTES = 4096  # of the output that is handed back
OPEN_FILES = 256
FILE_NAME = "program.py"
# What a program may say of its own end.
SAID = ("passed", "failed", "exited early", "out of memory")


class SetupError(Exception):
  """A step towards isolation, or towards the start of the program, that the system refused."""


def main(options: dict) -> None:
  """Runs the program on stdin and writes the outcome to stdout.

  Args:
    options: fields of Limits, and
      isolated: whether in a world of its own.
      parent: pid of the process that asked.
      folder: working folder of the program.
      readable: see linux.enter_root.
      site_packages: folders to import from beside the standard library.
  """
  if sys.platform == "linux":
    linux.die_with_parent()
  if os.getppid() != options["parent"]:
    sys.exit("the process that asked has ended")
  text = sys.stdin.buffer.read()
  try:
    reason, output = supervise(text, options)
  except (OSError, SetupError) as error:
    sys.exit(str(error))
  sys.stdout.buffer.write(reason.encode() + b"\n" + output)


# --- supervisor -----------------------------------------------------------------------------------------


def supervise(text: bytes, options: dict) -> tuple[str, bytes]:
  """Returns the reason and the last bytes of the output of a program."""
  token = os.urandom(16).hex().encode()
  output, said, status, start = (Pipe() for _ in range(4))
  keeper = linux.clone() if options["isolated"] else os.fork()
  if keeper == 0:
    _contain_errors(status, lambda: keep(text, token, output, said, status, start, options))
  for pipe in (output, said, status):
    pipe.close_writer()
    os.set_blocking(pipe.reader, False)
  try:
    if options["isolated"]:
      linux.map_users(keeper)
      linux.address_space(os.getpid())  # fails where the kernel does not tell children
    os.write(start.writer, b".")
    stopped, tail = watch(keeper, output, status, options)
  finally:
    kill(keeper, options["isolated"])
    os.waitpid(keeper, 0)  # returns when all of the keeper's world has ended
  tail = (tail + output.read())[-TAIL_BYTES:]
  return reason(stopped, status.read(), said.read(), token), tail


def watch(keeper: int, output: "Pipe", status: "Pipe", options: dict) -> tuple[str | None, bytes]:
  """Waits until the program ends or breaks a limit; returns which, if any, and the end of its output."""
  deadline = time.monotonic() + options["seconds"]
  tail, count = b"", 0
  while True:
    left = deadline - time.monotonic()
    ready = select.select([output.reader, status.reader], [], [], max(0, min(left, POLL_SECONDS)))[0]
    if output.reader in ready:
      part = output.read()
      count += len(part)
      tail = (tail + part)[-TAIL_BYTES:]
      if not part:  # closed by the program, which may go on
        output.reopen_empty()
    if status.reader in ready:
      return None, tail
    if count > options["output_bytes"]:
      return "too much output", tail
    if options["isolated"] and linux.address_space(keeper) > options["memory_bytes"]:
      return "out of memory", tail
    if left <= 0:
      return "timed out", tail


def kill(keeper: int, isolated: bool) -> None:
  """Ends the keeper and with it its world or, without isolation, what has stayed in its process group."""
  try:
    if isolated:
      os.kill(keeper, signal.SIGKILL)
    else:
      os.killpg(keeper, signal.SIGKILL)
  except ProcessLookupError:  # it has not made its group yet
    os.kill(keeper, signal.SIGKILL)


def reason(stopped: str | None, status: bytes, said: bytes, token: bytes) -> str:
  """Returns why the program ended.

  Args:
    stopped: the limit that it broke.
    status: what the keeper wrote: the program's wait status, or what kept it from being started.
    said: what was written on the pipe that is the program's own.
  """
  if stopped:
    return stopped
  if status.startswith(b"error "):
    raise SetupError(status.removeprefix(b"error ").decode(errors="replace"))
  code = os.waitstatus_to_exitcode(int(status)) if status else -signal.SIGKILL
  if code < 0:
    return "timed out" if code == -signal.SIGXCPU else "crashed"
  word = said.rpartition(token)[2].decode(errors="replace") if token in said else ""
  if word in SAID and (word != "passed" or code == 0):
    return word
  return "exited early"


class Pipe:
  """A pipe; no program started by the processes that share it inherits its ends."""

  def __init__(self):
    self.reader, self.writer = os.pipe()

  def close_writer(self) -> None:
    os.close(self.writer)

  def reopen_empty(self) -> None:
    """Leaves a reader for which there is never anything to read."""
    os.close(self.reader)
    self.reader, self.writer = os.pipe()
    os.set_blocking(self.reader, False)

  def read(self) -> bytes:
    """Returns what is there now, at most 1 MiB of it; b"" also at the end."""
    try:
      return os.read(self.reader, 1 << 20)
    except BlockingIOError:
      return b""


def _contain_errors(status: Pipe, work) -> None:
  """Calls `work` and ends this process, reporting an error to the supervisor."""
  try:
    work()
  except BaseException as error:
    os.write(status.writer, f"error {error}".encode(errors="replace"))
  finally:
    os._exit(1)


# --- keeper ---------------------------------------------------------------------------------------------


def keep(
  text: bytes, token: bytes, output: Pipe, said: Pipe, status: Pipe, start: Pipe, options: dict
) -> None:
  """Starts the program and waits for it; reports its wait status."""
  # The first process of a world receives from inside only the signals that it handles.
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  if sys.platform == "linux":
    linux.die_with_parent()
  start.close_writer()
  if not os.read(start.reader, 1):
    os._exit(1)  # the supervisor has ended
  os.setsid()
  if options["isolated"]:
    linux.enter_root(options["readable"], options["file_bytes"] + len(text))
  program = os.fork()
  if program == 0:
    _contain_errors(status, lambda: execute(text, token, output, said, options))
  for descriptor in (0, 1, 2, output.writer, said.writer):
    os.close(descriptor)
  while True:
    pid, code = os.waitpid(-1, 0)
    if pid == program:
      os.write(status.writer, b"%d" % code)
      os._exit(0)


# --- program --------------------------------------------------------------------------------------------


def execute(text: bytes, token: bytes, output: Pipe, said: Pipe, options: dict) -> None:
  """Turns this process into one that is the program's, executes it, and ends."""
  os.chdir(options["folder"])
  with open(FILE_NAME, "wb") as file:  # for the lines of a traceback, and for inspect
    file.write(text)
  null = os.open(os.devnull, os.O_RDONLY)
  for source, target in ((null, 0), (output.writer, 1), (output.writer, 2)):
    os.dup2(source, target)
  os.environ["HOME"] = os.environ["TMPDIR"] = options["folder"]
  sys.argv[:] = [FILE_NAME]
  sys.path[:] = [options["folder"], *sys.path, *options["site_packages"]]
  sys.dont_write_bytecode = True
  for name in [name for name in sys.modules if name.partition(".")[0] == "lm_jax"]:
    del sys.modules[name]
  module = types.ModuleType("__main__")
  module.__file__ = FILE_NAME
  sys.modules["__main__"] = module
  limit_resources(options)
  if options["isolated"]:
    linux.drop_privileges()
  elif sys.platform == "linux":
    linux.die_with_parent()
  os.closerange(3, said.writer)
  os.closerange(said.writer + 1, os.sysconf("SC_OPEN_MAX"))
  run_to_end(text.decode(errors="surrogatepass"), module, said.writer, token)


def limit_resources(options: dict) -> None:
  """Sets the limits of each process, which none of them can raise again."""
  cpu = math.ceil(options["seconds"])
  limits = {
    resource.RLIMIT_CPU: (cpu, cpu + 1),  # a signal to end, then one that cannot be caught
    resource.RLIMIT_FSIZE: (options["file_bytes"],) * 2,
    resource.RLIMIT_CORE: (0, 0),
    resource.RLIMIT_NOFILE: (OPEN_FILES,) * 2,
  }
  if sys.platform != "darwin":  # which refuses to limit it
    limits[resource.RLIMIT_AS] = (options["memory_bytes"],) * 2
  if options["isolated"]:  # elsewhere all other processes of the user are counted, too
    limits[resource.RLIMIT_NPROC] = (options["processes"],) * 2
  for which, (soft, hard) in limits.items():
    allowed = resource.getrlimit(which)[1]
    if allowed != resource.RLIM_INFINITY:
      soft, hard = min(soft, allowed), min(hard, allowed)
    resource.setrlimit(which, (soft, hard))


def run_to_end(
  text: str, module: types.ModuleType, said: int, token: bytes,
  *, write=os.write, getpid=os.getpid, leave=os._exit, show=sys.__excepthook__, stdout=sys.stdout,
  stderr=sys.stderr,
) -> None:  # fmt: skip
  """Executes a program and ends the process, saying how if its last line was reached or an error ended it.

  Args:
    write, ...: what is needed after the program, which may have replaced them where they are usually found.
  """
  pid, word = getpid(), b"passed"
  try:
    exec(compile(text, FILE_NAME, "exec", dont_inherit=True), module.__dict__)
  except SystemExit:
    word = b"exited early"
  except BaseException as error:
    word = b"out of memory" if isinstance(error, MemoryError) else b"failed"
    sys.stderr = stderr
    # Without this function's own line.
    show(type(error), BaseException.with_traceback(error, error.__traceback__.tb_next), None)
  if getpid() == pid:  # and this is no copy that the program has made of itself
    for stream in (stdout, stderr):
      if not stream.closed:
        stream.flush()
    write(said, token + word)
  leave(0 if word == b"passed" else 1)
