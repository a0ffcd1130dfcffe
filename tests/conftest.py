"""Strict by default: several devices, no silent broadcasting across ranks, no warnings, checked shapes."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import install_import_hook

from lm_jax import environment

# The same devices on every machine; JAX_PLATFORMS=cuda asks for others.
if not os.environ.get("JAX_PLATFORMS"):
  jax.config.update("jax_platforms", "cpu")
# As configuration, not as XLA_FLAGS: the environment is inherited by the processes tests start.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Tests compare with float64 references; on a GPU the default would round products to TF32.
jax.config.update("jax_default_matmul_precision", "highest")

# Modules whose jaxtyping annotations are checked at every call. The hook must precede their import.
CHECKED = [
  "lm_jax.attention", "lm_jax.kernels", "lm_jax.kv_cache", "lm_jax.layers", "lm_jax.model",
  "lm_jax.objectives", "lm_jax.quantize",
]  # fmt: skip
if importlib.util.find_spec("beartype"):
  install_import_hook(CHECKED, "beartype.beartype")

# Every line names a third party and the reason we cannot act on it.
ACCEPTED_WARNINGS = ()


def pytest_configure(config: pytest.Config) -> None:
  for line in ("error", *ACCEPTED_WARNINGS):
    config.addinivalue_line("filterwarnings", line)


def pytest_report_header() -> str:
  checked = "checked" if importlib.util.find_spec("beartype") else "NOT checked: beartype is not installed"
  return f"jax {jax.__version__}, {jax.device_count()} {jax.default_backend()} devices, shapes {checked}"


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory) -> Iterator[Path]:
  """Gives the session, and the processes it starts, a cache of their own: compilation is shared within."""
  with pytest.MonkeyPatch.context() as patch:
    path = tmp_path_factory.getbasetemp()
    path = (path.parent if os.environ.get("PYTEST_XDIST_WORKER") else path) / "cache"
    path.mkdir(exist_ok=True)
    patch.setenv("LM_JAX_CACHE", str(path))
    environment.enable_compilation_cache()
    # jax looks for its folder once, at the first compilation, which may have been while tests were imported.
    compilation_cache.reset_cache()
    yield path


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
  """Frees programs in time: each takes some of the 65,530 maps of memory that Linux lets a process have,
  and one that has them all dies of a segmentation fault."""
  yield
  maps = Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
    jax.clear_caches()


@pytest.fixture(scope="session")
def shared() -> Path:
  """Returns the folder of reference data (task data, corpora, curves, small models)."""
  root = Path(os.environ.get("LM_JAX_SHARED") or Path(__file__).resolve().parents[2] / "shared")
  if not root.is_dir():
    pytest.skip(f"no reference data: {root} is not a folder (set LM_JAX_SHARED)")
  return root
