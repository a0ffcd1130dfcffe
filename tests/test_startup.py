"""Time to the first step: its parts are disjoint and add up."""

import subprocess
import sys
import time

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_jax import startup


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted), max_size=8))
def test_covered_is_the_length_of_the_union(spans):
  inside = {second for start, end in spans for second in range(start, end)}
  assert startup.covered([tuple(span) for span in spans]) == len(inside)


def test_process_start_is_that_of_the_process_and_not_of_the_import():
  program = (
    "import time; time.sleep(0.3); began = time.time()\n"
    "from lm_jax import startup; print(began - startup.process_start())"
  )
  before = time.time()
  run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
  if sys.platform == "linux":
    assert 0.25 < float(run.stdout) < time.time() - before + 0.05


def test_parts_add_up_and_nothing_is_heard_afterwards():
  began = time.time() - 5
  clock = startup.Startup(began)
  # A constant of the program is computed, and so compiled, while it is traced.
  jax.jit(lambda x: x + jax.jit(lambda y: jax.numpy.cos(y) * 3)(jax.numpy.arange(17.0)).sum())(1.0)
  found = clock.first_step()
  assert 5 <= found.imports <= found.total <= time.time() - began
  assert found.tracing > 0 and found.compiling > 0 and found.rest >= 0
  assert found.imports + found.tracing + found.compiling + found.rest == pytest.approx(found.total)
  heard = len(clock._tracing)
  jax.jit(lambda x: x * 7 - 1)(2.0)
  assert len(clock._tracing) == heard
