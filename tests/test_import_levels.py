"""The tree reads as one sentence: a module imports only from its own level and the levels below it."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import lm_jax

PACKAGE = Path(lm_jax.__file__).parent

# Level of each module or folder of the package. A new one must be given its place here.
LEVELS = {
  0: (
    "__init__", "abstention", "confidence", "config", "decode_config", "devices",
    "environment", "failures", "finetune_config", "generation_config", "lease", "lease_place",
    "lm_eval_plugin", "mirror", "mirrored_files", "mirrored_run", "model_config", "object_lease", "objects",
    "parametrization", "power", "presets", "records", "rundir", "sandbox", "sandbox_linux", "sandbox_process",
    "scaling", "schedule", "scores", "startup", "strict", "task_configs", "text_config", "ticker",
    "tokenizers", "uncertainty",
  ),
  1: ("chat_template", "data", "prompt_tasks", "shared_prefixes"),
  2: (
    "answer_metrics", "attention", "checksum", "kernels", "kv_cache", "layers", "lora", "metrics", "model",
    "objectives", "optimizer", "param_paths", "quantize", "sampling", "sharding", "tasks", "trees",
  ),
  3: (
    "beam_search", "checkpoint", "classifier", "continuation_text", "conversation", "feed",
    "finetune_programs", "forward", "generate", "hosts", "interop", "parallel", "population",
    "pretrained", "prompt_batches", "row_scorer", "scorer", "state", "step", "text_generation",
  ),
  4: (
    "bench", "decode_bench", "evaluate", "few_shot", "few_shot_folder", "few_shot_prompts", "few_shot_runs",
    "few_shot_scores", "few_shot_settings",
    "finetune", "journal", "language_model", "lm_eval_model", "loop", "member", "programs",
    "prompt_selection", "reader", "text_scores", "trackers", "weights_cost",
  ),
  5: ("config_file", "launch", "plan", "resolution", "sweep"),
  6: ("analysis",),
  7: ("__main__", "cli"),
}  # fmt: skip
LEVEL = {unit: level for level, units in LEVELS.items() for unit in units}

# Results are read anywhere, also where the models cannot be: from records only.
READS_ONLY_LEVEL_0 = ("analysis",)

# What a function of the package itself opens when it is called. Importing the package loads none of it, see
# test_level_0_and_analysis_do_not_load_jax, and so it is no part of the order of levels.
FRONT_DOOR = {"lm_jax": {"lm_jax.language_model"}}


def module_name(path: Path) -> str:
  """Returns "lm_jax.tasks.base"; a folder's __init__.py is the folder."""
  parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def unit(module: str) -> str:
  """Returns the name under which a module stands in LEVELS: "tasks" for lm_jax.tasks.base."""
  return [*module.split("."), "__init__"][1]


def imports(module: str) -> set[str]:
  """Returns the modules of the package that a module names in any import statement, also inside functions."""
  package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
  found = set()
  for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ""
      if node.level:
        root = package.split(".")[: len(package.split(".")) - node.level + 1]
        base = ".".join([*root, *filter(None, [node.module])])
      # `from lm_jax import config` names a module, `from lm_jax.config import Config` something in one.
      for alias in node.names:
        inner = f"{base}.{alias.name}"
        found.add(inner if inner in FILES else base)
  return {name for name in found if name.split(".")[0] == "lm_jax"} - FRONT_DOOR.get(module, set())


def test_parsing_finds_the_imports():
  assert {"lm_jax.presets", "lm_jax.strict"} <= imports("lm_jax.model_config")
  assert "lm_jax" in imports("lm_jax.records")
  assert len(FILES) > 10


def test_every_module_has_a_level():
  missing = {unit(module) for module in FILES} - set(LEVEL)
  assert not missing, f"give these a level in LEVELS: {', '.join(sorted(missing))}"


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down(module):
  for imported in imports(module):
    assert imported in FILES, f"{module} imports {imported}, which is not a module of the package"
    own, other = LEVEL[unit(module)], LEVEL[unit(imported)]
    assert other <= own, f"{module} (level {own}) imports {imported} (level {other})"
    if unit(module) in READS_ONLY_LEVEL_0 and unit(imported) != unit(module):
      assert other == 0, f"{module} reads records only, but imports {imported} (level {other})"


def test_no_cycles():
  # Raises CycleError, which lists the cycle.
  graphlib.TopologicalSorter({module: imports(module) - {module} for module in FILES}).prepare()


def test_level_0_and_analysis_do_not_load_jax():
  modules = [name for name in FILES if LEVEL[unit(name)] == 0 or unit(name) in READS_ONLY_LEVEL_0]
  program = (
    "import importlib, sys\n"
    "for name in sys.argv[1:]:\n"
    "  importlib.import_module(name)\n"
    "  loaded = {'jax', 'flax', 'optax', 'orbax'} & set(sys.modules)\n"
    "  assert not loaded, f'importing {name} loads {loaded}'\n"
  )
  run = subprocess.run(
    [sys.executable, "-c", program, *modules], cwd=PACKAGE.parent, capture_output=True, text=True
  )
  assert run.returncode == 0, run.stderr
