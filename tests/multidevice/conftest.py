"""Programs for many devices are slow to compile and quick to run here: compile them without optimization."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def unoptimized() -> Iterator[None]:
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)
