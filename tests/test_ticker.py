"""A thread of turns: it takes all that are there, ends with the last of them, and starts again."""

import os
import subprocess
import sys
import threading
import time

from processes import ROOT, wait_until

from lm_jax.ticker import Ticker


def threads(name):
  return [thread for thread in threading.enumerate() if thread.name == name]


def test_one_thread_takes_turns_with_all_and_ends_with_the_last():
  seen = []
  ticker = Ticker("of this test", lambda: 0.005, seen.append)
  assert not threads("of this test")
  for thing in ("a", "b"):
    ticker.add(thing)
  wait_until(lambda: seen.count("a") > 2 and seen.count("b") > 2)
  assert len(threads("of this test")) == 1
  ticker.remove("a")
  ticker.remove("never added")
  time.sleep(0.1)  # a turn that had begun
  before = seen.count("a")
  wait_until(lambda: seen[-3:] == ["b"] * 3)
  assert seen.count("a") == before
  ticker.remove("b")
  wait_until(lambda: not threads("of this test"))
  ticker.add("c")
  wait_until(lambda: seen[-1] == "c")
  ticker.remove("c")
  wait_until(lambda: not threads("of this test"))


def test_a_child_after_a_fork_has_a_thread_of_its_own():
  program = """
import os, time
from lm_jax.ticker import Ticker

seen = set()
ticker = Ticker("of the fork", lambda: 0.005, seen.add)
ticker.add("a")
if pid := os.fork():
  raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
seen.clear()
ticker.add("b")
until = time.monotonic() + 60
while time.monotonic() < until and seen != {"a", "b"}:
  time.sleep(0.005)
os._exit(seen != {"a", "b"})
"""
  # Not of this process, which may have threads of others.
  environ = os.environ | {"PYTHONPATH": str(ROOT)}
  assert (
    subprocess.run([sys.executable, "-c", program], env=environ, timeout=120, check=False).returncode == 0
  )
