"""What Linux offers to confine a process, called through the C library: a world of its own, and no way out.

Such a world is a set of new namespaces (namespaces(7)): a process there sees no process, network, file system
or user but its own. `clone` makes it, `map_users` gives it its users, `enter_root` its files. Then
`drop_privileges` takes from a process, for good, all capabilities and the system calls with which it could
use up memory that nobody counts, or reach what has no namespace.

Imports little: every program that is run pays for it at its start.
"""

import ctypes
import errno
import os
import struct

# PyDLL holds the interpreter's lock during a call, as a process that `clone` returns in twice needs.
_LIBC = ctypes.PyDLL(None, use_errno=True)

# uid and gid of a program, also where root starts it: nobody's.
NOBODY = 65534

# --- constants of the kernel's headers -----------------------------------------------------------------

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWCGROUP, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x02000000, 0x10000000, 0x20000000, 0x40000000
_NAMESPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
_SIGCHLD = 17
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 0x1, 0x2, 0x4
_CAPABILITY_VERSION_3 = 0x20080522
_MOUNT_SETATTR = 442  # the same on every machine, as all calls since Linux 5.1

# Number of a system call, and the machine's name in a filter (linux/audit.h).
_COMMON = {
  "io_uring_setup": 425, "clone3": 435, "memfd_secret": 447,
}  # fmt: skip
_SYSCALLS = {
  "x86_64": {
    "audit_arch": 0xC000003E, "shmget": 29, "socket": 41, "clone": 56, "msgget": 68, "ptrace": 101,
    "pivot_root": 155, "mq_open": 240, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
    "perf_event_open": 298, "setns": 308, "memfd_create": 319, "bpf": 321, "userfaultfd": 323, **_COMMON,
  },
  "aarch64": {
    "audit_arch": 0xC00000B7, "pivot_root": 41, "unshare": 97, "ptrace": 117, "mq_open": 180, "msgget": 186,
    "shmget": 194, "socket": 198, "add_key": 217, "request_key": 218, "keyctl": 219, "clone": 220,
    "perf_event_open": 241, "setns": 268, "memfd_create": 279, "bpf": 280, "userfaultfd": 282, **_COMMON,
  },
}  # fmt: skip
MACHINES = tuple(_SYSCALLS)

_DENIED = (
  # Memory that belongs to no process's address space.
  "memfd_create", "memfd_secret", "shmget", "msgget", "mq_open",
  # Outlives the process.
  "add_key", "request_key", "keyctl",
  # A new user namespace would give all capabilities back, inside it.
  "unshare", "setns",
  # Of no use to a program here, and where holes in the kernel were found.
  "bpf", "io_uring_setup", "perf_event_open", "ptrace", "userfaultfd",
)  # fmt: skip


def _check(result: int, what: str) -> int:
  if result < 0:
    code = ctypes.get_errno()
    raise OSError(code, f"{what}: {os.strerror(code)}")
  return result


def _call(name: str, *arguments: int | bytes | ctypes.c_ulong | None) -> int:
  return _check(getattr(_LIBC, name)(*arguments), name)


# --- from outside ---------------------------------------------------------------------------------------


def die_with_parent() -> None:
  """Has this process killed when the thread that started it ends."""
  _call("prctl", _PR_SET_PDEATHSIG, 9, 0, 0, 0)


def clone() -> int:
  """Forks into new namespaces; returns the child's pid and, in the child, 0.

  The child is the first process of its world, so that all others there die with it, and has every capability
  in it. The world has no users before `map_users`.
  """
  arguments = [ctypes.c_long(a) for a in (_NAMESPACES | _SIGCHLD, 0, 0, 0, 0)]
  number = _SYSCALLS[os.uname().machine]["clone"]
  return _check(_LIBC.syscall(ctypes.c_long(number), *arguments), "clone into new namespaces")


def map_users(pid: int) -> None:
  """Gives the world of a cloned process its users: nobody and, where this process is root, root beside it."""
  uid, gid = os.geteuid(), os.getegid()
  both = f"0 0 1\n{NOBODY} {NOBODY} 1"
  if uid != 0:
    _write(f"/proc/{pid}/setgroups", "deny")
  _write(f"/proc/{pid}/gid_map", both if uid == 0 else f"{NOBODY} {gid} 1")
  _write(f"/proc/{pid}/uid_map", both if uid == 0 else f"{NOBODY} {uid} 1")


def _write(path: str, text: str) -> None:
  try:
    with open(path, "wb", buffering=0) as file:  # the kernel wants a map in one write
      file.write(text.encode())
  except OSError as error:
    raise OSError(error.errno, error.strerror, path) from error


def address_space(keeper: int) -> int:
  """Returns the bytes of address space of all descendants of a process, a page that two share counted twice.

  Counts what is reserved and not what is resident: pages of shared memory may be in use and in no process's
  resident set.
  """
  pages, left = 0, _children(keeper)
  while left:
    pid = left.pop()
    try:
      with open(f"/proc/{pid}/statm", "rb") as file:
        pages += int(file.read().split()[0])
      left += _children(pid)
    except (FileNotFoundError, ProcessLookupError):
      continue  # it has ended since
  return pages * os.sysconf("SC_PAGE_SIZE")


def _children(pid: int) -> list[int]:
  found = []
  for thread in os.listdir(f"/proc/{pid}/task"):
    with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
      found += map(int, file.read().split())
  return found


# --- from inside ----------------------------------------------------------------------------------------


def enter_root(readable: list[tuple[str, str]], file_bytes: int) -> None:
  """Replaces the root by one that has `readable`, read-only, /dev/null, /dev/urandom and an empty /tmp.

  Args:
    readable: (path, the same without symbolic links) of files and folders.
    file_bytes: size of /tmp, which is memory.
  """
  _call("mount", None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
  # Any folder will do to mount the new root on: what it hides is seen again once the roots are exchanged.
  _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755,size=1m")
  os.mkdir("/tmp/old")
  number = ctypes.c_long(_SYSCALLS[os.uname().machine]["pivot_root"])
  _check(_LIBC.syscall(number, b"/tmp", b"/tmp/old"), "pivot_root")
  os.chdir("/")
  os.mkdir("/tmp")
  # An inode costs kernel memory, too.
  _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode=1777,size={file_bytes},nr_inodes=10000")
  for path, real in readable:  # some of them perhaps below /tmp
    _bind(f"/old{real}", path, _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV)
  for device in ("/dev/null", "/dev/urandom"):
    _bind(f"/old{device}", device, _ATTR_NOSUID)
  os.symlink("/tmp", "/dev/shm")  # semaphores of multiprocessing
  _call("umount2", b"/old", _MNT_DETACH)
  os.rmdir("/old")
  _set_attributes("/", _ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV, recursive=False)


def _mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
  arguments = source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode()
  _check(_LIBC.mount(*arguments), f"mount {kind} on {target}")


def _bind(source: str, target: str, attributes: int) -> None:
  if os.path.isdir(source):
    os.makedirs(target, exist_ok=True)
  else:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    open(target, "xb").close()
  flags = ctypes.c_ulong(_MS_BIND | _MS_REC)
  _check(_LIBC.mount(os.fsencode(source), os.fsencode(target), None, flags, None), f"bind {target}")
  _set_attributes(target, attributes, recursive=True)


def _set_attributes(target: str, attributes: int, *, recursive: bool) -> None:
  attr = struct.pack("=QQQQ", attributes, 0, 0, 0)
  result = _LIBC.syscall(
    ctypes.c_long(_MOUNT_SETATTR), ctypes.c_long(_AT_FDCWD), os.fsencode(target),
    ctypes.c_long(_AT_RECURSIVE if recursive else 0), attr, ctypes.c_size_t(len(attr)),
  )  # fmt: skip
  _check(result, f"mount_setattr {target}")


def drop_privileges() -> None:
  """Makes this process nobody's, without capabilities, groups or the denied system calls, for good."""
  if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
  _call("capset", struct.pack("=II", _CAPABILITY_VERSION_3, 0), bytes(24))
  _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
  code = _filter()
  instructions = ctypes.create_string_buffer(code, len(code))
  # struct sock_fprog: the number of instructions, of 8 bytes each, and where they are.
  program = struct.pack("@HP", len(code) // 8, ctypes.addressof(instructions))
  _call("prctl", _PR_SET_SECCOMP, 2, program, 0, 0)


def _filter() -> bytes:
  """Returns the filter of system calls, a program for the kernel (seccomp(2)).

  A jump skips as many instructions as its number says, so each rule below stands by itself.
  """
  load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
  allow, kill, deny = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
  number, arch, first_argument = 0, 4, 16
  calls = _SYSCALLS[os.uname().machine]
  steps = [
    (load, 0, 0, arch),
    (equal, 1, 0, calls["audit_arch"]),
    (answer, 0, 0, kill),  # the calls of another architecture have other numbers
    (load, 0, 0, number),
    (at_least, 0, 1, 0x40000000),  # as have those of x32
    (answer, 0, 0, kill),
  ]
  for name in _DENIED:
    steps += [(equal, 0, 1, calls[name]), (answer, 0, 0, deny)]
  steps += [
    # Its flags are in memory, where a filter cannot look; without it, the C library falls back to clone.
    (equal, 0, 1, calls["clone3"]),
    (answer, 0, 0, 0x00050000 | errno.ENOSYS),
    (equal, 0, 4, calls["clone"]),
    (load, 0, 0, first_argument),
    (any_bit, 0, 1, _NAMESPACES | CLONE_NEWCGROUP),
    (answer, 0, 0, deny),
    (answer, 0, 0, allow),
    # Some families, as AF_VSOCK, lead out of the machine from any network namespace.
    (equal, 0, 4, calls["socket"]),
    (load, 0, 0, first_argument),
    (equal, 1, 0, 1),  # AF_UNIX
    (answer, 0, 0, deny),
    (answer, 0, 0, allow),
    (answer, 0, 0, allow),
  ]
  return b"".join(struct.pack("=HBBI", code, yes, no, value) for code, yes, no, value in steps)
