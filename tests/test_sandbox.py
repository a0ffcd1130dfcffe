"""What a program in the sandbox gives back, and how much of the machine it may use up."""

import functools
import gzip
import json
import site
import sys
from pathlib import Path

import numpy
import pytest
from processes import wait_until
from sandboxed import ONLY_ISOLATED, PATIENT, SMALL_MEMORY, attempts, isolated, processes_of, python, run
from sandboxed import nothing_is_left as nothing_is_left

from lm_jax import sandbox, sandbox_process
from lm_jax.sandbox import Limits, Outcome
from lm_jax.strict import ConfigError

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


# --- ends of those who run it ---------------------------------------------------------------------------


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
