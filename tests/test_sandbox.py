"""Programs that do harm where they can: the same text without isolation shows that it would."""

import ctypes
import functools
import gzip
import json
import os
import re
import shutil
import site
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy
import pytest
from processes import ROOT, wait_until

from lm_jax import sandbox, sandbox_linux, sandbox_process
from lm_jax.sandbox import Limits, Outcome
from lm_jax.strict import ConfigError

MISSING = sandbox.isolation().missing
isolated = pytest.mark.skipif(MISSING is not None, reason=f"no isolation here: {MISSING}")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Long enough for any program here on a busy machine; those that are to time out get less.
PATIENT = 60.0
# Begins what would end the machine if it were not isolated, as a mistake in the sandbox could have it.
ONLY_ISOLATED = "import os\nassert os.getpid() == 2, 'not isolated'\n"
# A cheap bound for programs that use up memory.
SMALL_MEMORY = 256 << 20


def run(program: str, without_isolation: bool = False, **limits) -> Outcome:
  limits = Limits(**{"seconds": PATIENT, **limits})
  return sandbox.run(textwrap.dedent(program), limits, without_isolation=without_isolation)


def attempts(*lines: str) -> str:
  """Returns a program that prints, one a line, those of `lines` that raise no OSError."""
  return "import ctypes, mmap, os, resource, shutil, signal, socket\n" + "".join(
    f"try:\n  {line}\n  print({line!r})\nexcept (OSError, ValueError):\n  pass\n" for line in lines
  )


def processes_of(parent: int) -> list[int]:
  """Returns the sandbox's processes that a process has started and that are left."""
  found = []
  for entry in Path("/proc").iterdir():
    try:
      command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
    except (FileNotFoundError, ProcessLookupError):
      continue
    if b"sandbox_process.main" in command and re.search(rb"'parent': %d\b" % parent, command):
      found.append(int(entry.name))
  return found


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path, monkeypatch):
  """Every test leaves no process, no mount and no temporary file behind."""
  temporary = tmp_path / "temporary"
  temporary.mkdir()
  monkeypatch.setattr("tempfile.tempdir", str(temporary))
  mounts = Path("/proc/self/mountinfo")
  before = mounts.exists() and mounts.read_text()
  yield
  assert list(temporary.iterdir()) == []
  if mounts.exists():
    assert mounts.read_text() == before
    assert processes_of(os.getpid()) == []


@pytest.fixture
def canary(tmp_path) -> Path:
  path = tmp_path / "canary"
  path.write_text("alive")
  path.chmod(0o666)
  tmp_path.chmod(0o777)
  return path


@pytest.fixture
def victim():
  """A process that anybody may kill who may kill ours."""
  process = subprocess.Popen(["sleep", "1000"], process_group=0)
  yield process
  process.kill()
  process.wait()


# --- what passes, and what does not ---------------------------------------------------------------------


@isolated
def test_reference_solutions_pass_and_without_their_last_line_fail(shared):
  with gzip.open(shared / "data/tasks/humaneval/HumanEval.jsonl.gz", "rt") as file:
    rows = [json.loads(line) for line in file][::8]
  tests = [f"\n{row['test']}\ncheck({row['entry_point']})\n" for row in rows]
  right = [row["prompt"] + row["canonical_solution"] + test for row, test in zip(rows, tests, strict=True)]
  wrong = [row["prompt"] + "    return None\n" + test for row, test in zip(rows, tests, strict=True)]
  counts = []
  outcomes = sandbox.run_all([*right, *wrong], Limits(seconds=PATIENT), workers=2, progress=counts.append)
  assert [o.reason for o in outcomes] == ["passed"] * len(rows) + ["failed"] * len(rows)
  assert counts == list(range(1, 2 * len(rows) + 1))


@isolated
@pytest.mark.parametrize(
  "program",
  [
    "",
    "import dataclasses\n@dataclasses.dataclass\nclass A:\n  x: int\nassert A(1) == A(x=1)",
    "if __name__ == '__main__': x = 1\nassert x",
    "import pickle\nclass A: pass\nassert type(pickle.loads(pickle.dumps(A()))) is A",
    "import inspect\ndef f(): return 7\nassert inspect.getsource(f) == 'def f(): return 7\\n'",
    "import tempfile\nwith tempfile.TemporaryFile() as f: f.write(b'a')",
    "import subprocess, sys\nassert subprocess.check_output([sys.executable, '-c', 'print(1)']) == b'1\\n'",
    "import subprocess\nassert subprocess.run('ls', shell=True, stdout=subprocess.DEVNULL).returncode == 0",
    "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as p: assert p.map(abs, [-1]) == [1]",
    "import threading\nt = threading.Thread(target=print, args='a')\nt.start(); t.join()",
    "import asyncio\nasync def f(): return 1\nassert asyncio.run(f()) == 1",
    "import os; assert len(os.urandom(4)) == len(open('/dev/urandom', 'rb').read(4))",
    "import sys; sys.stdout.close()",
    "assert len('é∀𝄞') == 3",
    "import os; os.write = os._exit = os.getpid = exec = print = None",
  ],
)  # fmt: skip
def test_ordinary_programs_pass(program):
  assert run(program) == Outcome("passed", "a\n" if "args='a'" in program else "")


@isolated
@pytest.mark.skipif(
  not any(Path(numpy.__file__).is_relative_to(f) for f in site.getsitepackages()),
  reason="numpy is not installed, only on the path",
)
def test_installed_packages_can_be_imported():
  program = "import numpy; assert numpy.ones((50, 50)).dot(numpy.ones(50)).sum() == 2500"
  assert run(program) == Outcome("passed", "")


@isolated
def test_a_set_of_strings_has_one_order():
  program = "print(list(set(map(str, range(100)))))"
  assert run(program).output == run(program).output


ENDS = {
  "assert 1 == 2": "failed",
  "raise KeyboardInterrupt": "failed",
  "def (": "failed",
  "a = '\0'": "failed",
  "a = '\ud800'": "failed",
  "input()": "failed",
  "print('passed'); assert False": "failed",
  "def f(): f()\nf()": "failed",
  "class E(Exception):\n  def __str__(self): raise E\nraise E": "failed",
  "import os; os._exit(0)": "exited early",
  "import sys; sys.exit(0)": "exited early",
  "raise SystemExit": "exited early",
  "import atexit, os; atexit.register(os._exit, 0); raise SystemExit": "exited early",
  "import os\nif os.fork(): os._exit(0)": "exited early",
  "import os\nif os.fork(): os.wait(); os._exit(0)": "exited early",
  "import os; os.execv('/bin/true', ['true'])": "exited early",
  "import os; os.closerange(0, 256)": "exited early",
  "import ctypes; ctypes.string_at(0)": "crashed",
  "import os; os.abort()": "crashed",
  "import os; os.kill(os.getpid(), 15)": "crashed",
  "import os; os.kill(0, 9)": "crashed",
  "x = bytearray(100 << 30)": "out of memory",
}


@isolated
@pytest.mark.parametrize("program", ENDS, ids=ascii)
def test_only_the_end_of_the_text_counts(program):
  assert run(program).reason == ENDS[program]


@isolated
def test_the_output_is_what_was_printed_and_the_traceback_of_the_text_alone():
  outcome = run("import sys\nprint('out', flush=True)\nprint('é', file=sys.stderr)\nassert 0, 'why'")
  assert outcome.output.startswith(
    'out\né\nTraceback (most recent call last):\n  File "program.py", line 4, in'
  )
  assert outcome.output.endswith("AssertionError: why\n") and not outcome.passed
  assert "sandbox" not in outcome.output


@isolated
@pytest.mark.parametrize("end", ["os._exit(0)", "os._exit(1)", "os.kill(os.getpid(), 9)"])
def test_the_word_written_into_every_open_file_is_not_believed(end):
  program = f"""
    import os
    for descriptor in range(256):
      try:
        os.write(descriptor, b"passed" * 100)
      except OSError:
        pass
    {end}
  """
  assert run(program).reason == ("crashed" if "kill" in end else "exited early")


def test_what_is_said_counts_only_with_the_token_and_a_clean_end():
  token, clean, killed = b"0123", b"0", b"9"
  reason = functools.partial(sandbox_process.reason, None, token=token)
  assert reason(clean, token + b"passed") == "passed"
  assert reason(clean, b"junk" + token + b"passed") == "passed"
  for said in (b"", b"passed", b"9999passed", token, token + b"well", b"passed" + token):
    assert reason(clean, said) == "exited early"
  assert reason(b"256", token + b"passed") == "exited early"
  assert reason(b"256", token + b"failed") == "failed"
  assert reason(killed, token + b"passed") == reason(b"", token + b"passed") == "crashed"
  assert sandbox_process.reason("timed out", clean, token + b"passed", token) == "timed out"
  with pytest.raises(sandbox_process.SetupError, match="no mount"):
    reason(b"error no mount", token + b"passed")


# --- time, memory, output, files, processes -------------------------------------------------------------


@isolated
@pytest.mark.parametrize(
  "program",
  [
    "while True: pass",
    "import time; time.sleep(1000)",
    "import os\nos.close(1); os.close(2)\nwhile True: pass",
    "import signal, time\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n"
    "  except (OSError, ValueError): pass\nwhile True: time.sleep(1)",
    "import signal, os\nos.kill(os.getpid(), signal.SIGSTOP)",
    "import os\nfor d in range(3, 256):\n  try:\n    while True: os.write(d, b'a')\n  except OSError: pass",
  ],
)  # fmt: skip
def test_endless_programs_time_out(program):
  assert run(program, seconds=1) == Outcome("timed out", "")


@isolated
@pytest.mark.parametrize(
  "child",
  [
    "os.setsid()",
    "signal.signal(15, signal.SIG_IGN); os.setsid(); os.fork() and os._exit(0)",
    "os.setpgid(0, 0); os.execv('/bin/sleep', ['sleep', '1000'])",
  ],
)
def test_daemons_end_with_the_program_and_are_counted(child):
  program = f"""
    import os, signal, time
    count = 0
    try:
      while count < 1000:
        if os.fork() == 0:
          {child}
          time.sleep(1000)
        count += 1
    except BlockingIOError:
      pass
    assert count < 1000
    time.sleep(0.1)
  """
  assert run(program, processes=20, memory_bytes=4 << 30).passed


@isolated
def test_a_fork_bomb_ends():
  program = ONLY_ISOLATED + "while True:\n  try: os.fork()\n  except OSError: pass"
  assert run(program, seconds=1, processes=20).reason in ("timed out", "out of memory")


@isolated
@pytest.mark.parametrize("threads", [False, True])
def test_no_more_processes_than_allowed(threads):
  start = "threading.Thread(target=time.sleep, args=[1000], daemon=True).start()"
  program = f"""
    import os, threading, time
    count = 0
    try:
      while count < 1000:
        {start if threads else "os.fork() or time.sleep(1000)"}
        count += 1
    except (BlockingIOError, RuntimeError):
      pass
    print(count)
  """
  outcome = run(program, processes=20, memory_bytes=4 << 30)
  assert outcome.passed and 15 <= int(outcome.output) < 20


@isolated
@pytest.mark.parametrize(
  "block",
  [
    "bytearray(150 << 20)",
    # Pages in use that are in no process's resident set.
    "mmap.mmap(-1, 150 << 20)\n"
    "        while b.tell() < len(b): b.write(bytes(1 << 20)); b.madvise(mmap.MADV_DONTNEED)",
  ],
)
def test_memory_of_all_processes_is_bounded(block):
  program = f"""
    import mmap, os, time
    for _ in range(8):
      if os.fork() == 0:
        b = {block}
        time.sleep(1000)
    time.sleep(1000)
  """
  assert run(program, memory_bytes=SMALL_MEMORY) == Outcome("out of memory", "")


@isolated
def test_memory_of_one_process_is_bounded():
  program = "kept = []\nwhile True: kept.append(bytearray(1 << 20))"
  assert run(program, memory_bytes=SMALL_MEMORY).reason == "out of memory"
  assert run("x = bytearray(100 << 20)", memory_bytes=SMALL_MEMORY).passed


@isolated
def test_a_flood_of_output_is_cut():
  outcome = run("while True: print('x' * 10000)")
  assert outcome.reason == "too much output"
  assert 0 < len(outcome.output) <= sandbox_process.TAIL_BYTES
  assert run("import os\nwhile True: os.write(2, bytes(1 << 20))").reason == "too much output"


@isolated
def test_the_tail_is_the_end_of_the_output():
  outcome = run("print(*range(100_000), sep='\\n')")
  assert outcome == Outcome("passed", "\n".join(map(str, range(100_000)))[-4095:] + "\n")


@isolated
def test_files_are_bounded_one_by_one_together_and_in_number():
  big = run("with open('a', 'wb') as f:\n  for _ in range(100): f.write(bytes(1 << 20))", file_bytes=10 << 20)
  assert "OSError: [Errno 27] File too large" in big.output
  many = "for i in range(100):\n  with open(f'{i}', 'wb') as f: f.write(bytes(1 << 20))"
  assert "OSError: [Errno 28] No space left" in run(many, file_bytes=10 << 20).output
  empty = "for i in range(100_000): open(f'{i}', 'wb').close()"
  assert "OSError: [Errno 28] No space left" in run(empty).output
  assert run("print(open('program.py').read())", file_bytes=1).passed


@isolated
def test_limits_cannot_be_raised():
  names = ("AS", "CPU", "FSIZE", "NPROC", "NOFILE", "CORE")
  lines = [f"resource.setrlimit(resource.RLIMIT_{n}, (1 << 40, 1 << 40))" for n in names]
  lines += [f"resource.setrlimit(resource.RLIMIT_{n}, (-1, -1))" for n in names]
  assert run(attempts(*lines)) == Outcome("passed", "")


# --- files, processes, network, secrets -----------------------------------------------------------------


def writes(path: Path) -> str:
  lines, parent = [], f"/proc/{os.getpid()}"
  targets = [f"{root}{path}" for root in ("", "/proc/self/root", "/proc/1/root", f"{parent}/root")]
  for target in [*targets, f"{parent}/cwd/{os.path.relpath(path)}"]:
    lines += [
      f"open({target!r}, 'w').write('dead')",
      f"os.remove({target!r})",
      f"os.rename({target!r}, '/tmp/x')",
      f"os.symlink({target!r}, '/tmp/link{len(lines)}'); open('/tmp/link{len(lines)}', 'r+').write('dead')",
      f"os.link({target!r}, '/tmp/y')",
      f"open({str(path) + '-new'!r}, 'w')",
    ]
  return attempts(*lines, f"shutil.rmtree({str(path.parent)!r})")


@isolated
@pytest.mark.parametrize("home", [False, True])
def test_files_outside_are_out_of_reach(home, canary, tmp_path):
  if home:
    canary = Path.home() / f".lm_jax_test_{os.getpid()}" / "canary"
    canary.parent.mkdir()
  canary.write_text("alive")
  try:
    outcome = run(writes(canary) + f"assert not os.path.exists({str(canary)!r})")
    assert outcome == Outcome("passed", "")
    assert canary.read_text() == "alive"
    assert not Path(f"{canary}-new").exists()
  finally:
    if home:
      shutil.rmtree(canary.parent)


def test_without_isolation_they_are_in_reach(canary):
  assert run(f"open({str(canary)!r}, 'w').write('dead')", without_isolation=True).passed
  assert canary.read_text() == "dead"


@isolated
def test_what_can_be_read_cannot_be_written():
  folders = [folder for folder, _ in sandbox._readable() if Path(folder).is_dir()] + ["/"]
  lines = [f"open('{folder}/new', 'w')" for folder in folders]
  lines += [
    "open(os.__file__, 'r+')",
    "os.chmod(os.__file__, os.stat(os.__file__).st_mode)",
    "os.utime(os.__file__)",
  ]
  assert run(attempts(*lines)) == Outcome("passed", "")
  # Also where the user that runs it could write.
  program = f"""
    import os
    for folder in {folders}:
      flags = os.statvfs(folder).f_flag
      assert flags & os.ST_RDONLY and flags & os.ST_NOSUID and flags & os.ST_NODEV, folder
    flags = os.statvfs("/tmp").f_flag
    assert flags & os.ST_NOSUID and flags & os.ST_NODEV
  """
  assert run(program) == Outcome("passed", "")


@isolated
def test_nothing_of_ours_is_visible(monkeypatch):
  monkeypatch.setenv("LM_JAX_SECRET", "hush-hush")
  program = """
    import os, sys
    print(dict(os.environ), sys.argv, sys.orig_argv)
    print(os.getpid(), os.getppid(), os.getuid(), os.geteuid(), os.getgid())
    print([name for name in sys.modules if "lm_jax" in name or "sandbox" in name])
    assert set(os.listdir("/")) == TOP
    assert set(os.listdir("/dev")) == {"null", "urandom", "shm"}
    descriptors = []
    for descriptor in range(256):
      try:
        os.fstat(descriptor)
        descriptors.append(descriptor)
      except OSError:
        pass
    assert len(descriptors) == 4 and descriptors[:3] == [0, 1, 2], descriptors
  """
  top = {"dev", "tmp", *(path.split("/")[1] for path, _ in sandbox._readable())}
  outcome = run(program.replace("TOP", repr(top)))
  assert outcome.passed, outcome.output
  assert "hush-hush" not in outcome.output and "SECRET" not in outcome.output
  _, ids, modules = outcome.output.splitlines()
  assert ids == "2 1 65534 65534 65534" and modules == "[]"
  control = run("import os; print(os.environ)", without_isolation=True)
  assert control.passed and "hush-hush" not in control.output


@isolated
def test_no_network(tmp_path):
  with (
    socket.socket() as tcp,
    socket.socket(type=socket.SOCK_DGRAM) as udp,
    socket.socket(socket.AF_UNIX) as abstract,
    socket.socket(socket.AF_UNIX) as named,
  ):
    tcp.bind(("127.0.0.1", 0))
    udp.bind(("127.0.0.1", 0))
    abstract.bind(f"\0lm_jax_{os.getpid()}")
    path = tmp_path / "socket"
    named.bind(str(path))
    path.chmod(0o777)
    for listener in (tcp, abstract, named):
      listener.listen()
    ways = [
      f"socket.create_connection(('127.0.0.1', {tcp.getsockname()[1]}), timeout=5)",
      f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'a', ('127.0.0.1', {udp.getsockname()[1]}))",
      f"socket.socket(socket.AF_UNIX).connect({abstract.getsockname()!r})",
      f"socket.socket(socket.AF_UNIX).connect({str(path)!r})",
    ]
    families = ["AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG", "AF_BLUETOOTH"]
    more = [f"socket.socket(socket.{family})" for family in families if hasattr(socket, family)]
    more += ["socket.getaddrinfo('example.com', 80)"]
    assert run(attempts(*ways, *more)) == Outcome("passed", "")
    assert run(attempts(*ways), without_isolation=True).output.splitlines() == ways


@isolated
def test_no_other_process_is_in_reach(victim):
  lines = [f"os.kill({pid}, {signal})" for pid in (victim.pid, os.getpid()) for signal in (0, 9)]
  lines += [f"os.killpg({victim.pid}, 9)", f"resource.prlimit({victim.pid}, resource.RLIMIT_CPU, (0, 0))"]
  assert run(attempts(*lines)) == Outcome("passed", "")
  assert victim.poll() is None
  # The first process of its world is there, and takes no signal from it.
  lines = [f"os.kill({pid}, {s})" for pid in ("os.getppid()", -1) for s in (1, 2, 9, 11, 15, 19)]
  assert run(ONLY_ISOLATED + attempts(*lines)).passed
  assert run(f"import os; os.kill({victim.pid}, 9)", without_isolation=True).passed
  assert victim.wait() == -9


@isolated
def test_privileges_cannot_be_gained():
  libc = "ctypes.CDLL(None, use_errno=True)"
  lines = [
    "os.setuid(0)", "os.setgid(0)", "os.setgroups([0])", "os.chroot('/tmp')", "os.chown('/tmp', 0, 0)",
    "os.mknod('/tmp/m', 0o20666, 0x103)", "os.nice(-5)",
  ]  # fmt: skip
  program = attempts(*lines)
  calls = [f"unshare({flag})" for flag in (0x10000000, 0x20000, 0x40000000)]
  calls += ["mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None)", "umount2(b'/tmp', 2)", "umount2(b'/usr', 2)"]
  calls += ["mount(None, b'/usr', None, 0x1020, None)", "shmget(0, 1 << 30, 0o1600)", "memfd_create(b'', 0)"]
  for call in calls:
    program += f"assert {libc}.{call} == -1, {call!r}\n"
  # A child in a user namespace of its own, by either call.
  for number in (sandbox_linux._SYSCALLS[os.uname().machine][name] for name in ("clone", "clone3")):
    program += f"assert {libc}.syscall({number}, 0x10000011, 0, 0, 0, 0) == -1\n"
  assert run(program) == Outcome("passed", "")


# No capability of any kind, and no group that root was in.
POWERLESS = """
import ctypes, os
header, found = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(*[1] * 6)
assert ctypes.CDLL(None).capget(header, found) == 0
assert list(found) == [0] * 6
assert os.getuid() == os.geteuid() == os.getgid() == 65534
"""


@isolated
def test_a_program_of_root_is_powerless():
  assert run(POWERLESS) == Outcome("passed", "")
  if os.geteuid() == 0:
    assert not run(POWERLESS, without_isolation=True).passed
    program = f"from lm_jax import sandbox; print(sandbox.run({POWERLESS + 'assert not os.getgroups()'!r}))"
    with python(program, extra_groups=[0, 65534]) as process:
      assert process.communicate()[0] == "Outcome(reason='passed', output='')\n"


@isolated
def test_semaphores_are_those_of_its_own_world():
  libc, key = ctypes.CDLL(None), 0x6C6D0000 | os.getpid() & 0xFFFF
  number = libc.semget(key, 1, 0o1666)
  assert number >= 0
  try:
    program = f"import ctypes; assert ctypes.CDLL(None).semget({key}, 1, 0) >= 0"
    assert run(program).reason == "failed"
    assert run(program, without_isolation=True).passed
  finally:
    libc.semctl(number, 0, 0)  # IPC_RMID


@isolated
def test_every_denied_call_is_denied():
  calls = sandbox_linux._SYSCALLS[os.uname().machine]
  program = f"""
    import ctypes, errno
    libc = ctypes.CDLL(None, use_errno=True)
    for name, number in {[(name, calls[name]) for name in sandbox_linux._DENIED]}:
      assert libc.syscall(number, 0, 0, 0, 0, 0) == -1
      assert ctypes.get_errno() == errno.EPERM, name
  """
  assert run(program) == Outcome("passed", "")


@pytest.mark.parametrize("machine", sandbox_linux.MACHINES)
def test_numbers_are_those_of_the_kernel_headers(machine):
  name = {"x86_64": "x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}[machine]
  header = Path("/usr/include") / name
  if not header.exists():
    pytest.skip(f"no {header}")
  numbers = dict(re.findall(r"#define __NR_(\w+)\s+(\d+)", header.read_text()))
  audit = Path("/usr/include/linux/audit.h").read_text()
  elf = Path("/usr/include/linux/elf-em.h").read_text()
  upper = machine.upper()
  machine_number = int(re.search(rf"#define EM_{upper}\s+(\d+)", elf).group(1))
  assert f"#define AUDIT_ARCH_{upper}\t(EM_{upper}|__AUDIT_ARCH_64BIT|__AUDIT_ARCH_LE)" in audit
  for call, number in sandbox_linux._SYSCALLS[machine].items():
    if call == "audit_arch":
      assert number == machine_number | 0x80000000 | 0x40000000
    elif call in numbers or call != "memfd_secret":  # which older headers lack
      assert number == int(numbers[call]), call


# --- ends of those who run it ---------------------------------------------------------------------------


def python(script: str, executable: str = sys.executable, **options) -> subprocess.Popen:
  environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
  return subprocess.Popen(
    [executable, "-c", textwrap.dedent(script)], text=True, env=environment,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
  )  # fmt: skip


@isolated
def test_programs_die_with_the_process_that_runs_them():
  program = "import os, time\\nif os.fork(): os.setsid()\\ntime.sleep(1000)"
  script = f"from lm_jax import sandbox; sandbox.run('{program}', sandbox.Limits(seconds=900))"
  with python(script) as process:
    wait_until(lambda: len(processes_of(process.pid)) == 4, process)
    process.kill()
  wait_until(lambda: not processes_of(process.pid))


@isolated
def test_an_interrupt_ends_all_programs():
  script = """
    from lm_jax import sandbox
    sandbox.run_all(["import time; time.sleep(1000)"] * 50, sandbox.Limits(seconds=2), workers=2)
  """
  with python(script) as process:
    wait_until(lambda: len(processes_of(process.pid)) == 6, process)
    process.send_signal(2)
    assert "KeyboardInterrupt" in process.communicate(timeout=120)[1]
  wait_until(lambda: not processes_of(process.pid))


# --- other users, other kernels -------------------------------------------------------------------------


def readable_python() -> str | None:
  """Returns an interpreter that nobody, too, can start and that is new enough."""
  check = "import sys; from lm_jax import sandbox; sys.exit(sys.version_info < (3, 11))"
  for path in (sys.executable, "/usr/bin/python3"):
    try:
      with python(check, path, user=65534, group=65534, extra_groups=[], cwd="/") as process:
        if process.wait() == 0:
          return path
    except OSError:
      continue
  return None


@isolated
@pytest.mark.skipif(
  not hasattr(os, "geteuid") or os.geteuid() != 0, reason="the other tests are that already"
)
def test_a_user_without_privileges_is_as_safe(canary):
  executable = readable_python()
  if executable is None:
    pytest.skip("no Python that user nobody could start")
  programs = {
    "x = 1": "passed",
    "assert 0": "failed",
    "while True: pass": "timed out",
    ONLY_ISOLATED + "while True:\n  if os.fork() == 0: os.setsid()": "failed",
    f"open({str(canary)!r}, 'w')": "failed",
    ONLY_ISOLATED + "for s in (1, 2, 9, 11, 15, 19): os.kill(1, s)\nimport time; time.sleep(0.1)": "passed",
    "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0": "failed",
    "import socket; socket.socket()": "failed",
    "x = bytearray(100 << 30)": "out of memory",
    "import os, time\nfor _ in range(8):\n  if os.fork() == 0: x = bytearray(150 << 20); time.sleep(1000)\n"
    "time.sleep(1000)": "out of memory",
    POWERLESS: "passed",
  }  # fmt: skip
  script = f"""
    from lm_jax import sandbox
    limits = sandbox.Limits(seconds=5, processes=10, memory_bytes={SMALL_MEMORY})
    print([sandbox.run(p, limits).reason for p in {list(programs)!r}])
  """
  with python(script, executable, user=65534, group=65534, extra_groups=[], cwd="/") as process:
    output, errors = process.communicate(timeout=300)
  assert output.strip() == str(list(programs.values())), errors
  assert canary.read_text() == "alive"
  assert processes_of(process.pid) == []


@linux
def test_where_the_kernel_refuses_programs_are_refused():
  script = """
    from lm_jax import sandbox
    from lm_jax.strict import ConfigError
    assert "no isolation" in str(sandbox.isolation())
    try:
      sandbox.run("print(1)")
    except ConfigError as error:
      print(error)
    print(sandbox.run("print(2)", without_isolation=True))
  """
  environment = {**os.environ, "PYTHONPATH": str(ROOT), "WITHOUT": textwrap.dedent(script)}
  forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" -c "$WITHOUT"'
  command = ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, sys.executable]
  if subprocess.run([*command[:3], "true"], capture_output=True).returncode:
    pytest.skip("no namespace in which namespaces could be forbidden")
  ended = subprocess.run(command, env=environment, capture_output=True, text=True)
  first, second = ended.stdout.splitlines()
  assert "can't be isolated here: " in first and "No space left on device" in first
  assert "user.max_user_namespaces" in first and "without_isolation" in first
  assert second == "Outcome(reason='passed', output='2\\n')"


def test_refusal_is_one_line_for_all_ways_to_run(monkeypatch):
  monkeypatch.setattr(sandbox, "isolation", lambda: sandbox.Isolation("no namespaces"))
  for call in (
    sandbox.require_isolation,
    lambda: sandbox.run("1"),
    lambda: sandbox.run_all(["1", "2"], workers=1),
  ):
    with pytest.raises(
      ConfigError, match=r"can't be isolated here: no namespaces\. .*without_isolation"
    ) as info:
      call()
    assert "\n" not in str(info.value)


def test_other_machines_are_named(monkeypatch):
  sandbox.isolation.cache_clear()
  monkeypatch.setattr(sandbox.sys, "platform", "darwin")
  try:
    assert "needs Linux on x86_64 or aarch64, not darwin" in str(sandbox.isolation())
  finally:
    sandbox.isolation.cache_clear()


# --- without isolation ----------------------------------------------------------------------------------

ENDS_WITHOUT = {
  "print(1)": Outcome("passed", "1\n"),
  "import os; os._exit(0)": Outcome("exited early", ""),
  "import ctypes; ctypes.string_at(0)": Outcome("crashed", ""),
  "import sys; print(sys.stdin.read())": Outcome("passed", "\n"),
  "open('left', 'w').write('a')": Outcome("passed", ""),
  "import os; assert os.getcwd() == os.environ['HOME'] == os.environ['TMPDIR']": Outcome("passed", ""),
}


@pytest.mark.parametrize("program", ENDS_WITHOUT)
def test_without_isolation_ends_are_told_apart(program):
  assert run(program, without_isolation=True) == ENDS_WITHOUT[program]


def test_without_isolation_time_output_and_files_are_bounded():
  assert run("while True: pass", without_isolation=True, seconds=1) == Outcome("timed out", "")
  asleep = "import os, time\nos.fork()\ntime.sleep(1000)"
  assert run(asleep, without_isolation=True, seconds=1) == Outcome("timed out", "")
  assert run("while True: print('x' * 10000)", without_isolation=True).reason == "too much output"
  big = run("open('a', 'wb').write(bytes(2 << 20))", without_isolation=True, file_bytes=1 << 20)
  assert "File too large" in big.output
  if sys.platform == "linux":
    assert run("x = bytearray(100 << 30)", without_isolation=True).reason == "out of memory"


# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["seconds", "file_bytes", "output_bytes", "processes"])
def test_limits_are_positive(field):
  with pytest.raises(ConfigError, match=rf"limits\.{field}=0: must be greater than 0"):
    Limits(**{field: 0})


def test_bad_arguments():
  with pytest.raises(ConfigError, match=r"limits\.memory_bytes=1: must be at least 67108864"):
    Limits(memory_bytes=1)
  with pytest.raises(ConfigError, match="program=None: must be a string"):
    sandbox.run(None)
  with pytest.raises(ConfigError, match="workers=0: must be greater than 0"):
    sandbox.run_all([], workers=0)


@isolated
def test_the_least_memory_is_enough_for_the_interpreter():
  assert run("import typing, collections, math, re, itertools, heapq", memory_bytes=64 << 20).passed
