"""Programs that do harm where they can: the same text without isolation shows that it would."""

import ctypes
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from processes import ROOT
from sandboxed import (
  ONLY_ISOLATED,
  SMALL_MEMORY,
  attempts,
  isolated,
  linux,
  processes_of,
  python,
  run,
)
from sandboxed import nothing_is_left as nothing_is_left

from lm_jax import sandbox, sandbox_linux
from lm_jax.sandbox import Outcome
from lm_jax.strict import ConfigError


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
