"""Workdirs with known numbers for the tests of the analysis; nothing here trains or imports jax."""

import itertools
import json
import math
from pathlib import Path

import numpy as np

from lm_jax.records import Record, append

# Bayes-optimal accuracy of rule induction with 0..11 shots.
BAYES = (0.24, 0.444, 0.575, 0.761, 0.884, 0.946, 0.976, 0.988, 0.992, 0.997, 0.998, 0.999)
RULES = {"name": "rule_induction", "chance": 0.25, "shots": list(range(12)), "window": 4, "answer_length": 1,
         "bayes_accuracy": list(BAYES)}  # fmt: skip
TEXT = {"name": "python_stdlib", "chance": 1 / 256, "shots": None, "window": 0, "answer_length": 1,
        "bayes_accuracy": None}  # fmt: skip

# label: (parameters, family, accuracy over the last four shots for each seed)
LADDER = {
  "d8 L1": (1_024, "decoder", (0.289, 0.281, 0.293)),
  "d8 L2": (1_848, "decoder", (0.374, 0.361, 0.352)),
  "d16 L2": (6_768, "decoder", (0.456, 0.574, 0.512)),
  "d32 L2": (25_824, "decoder", (0.632, 0.633, 0.629)),
  "d48 L2": (57_168, "decoder", (0.803, 0.741, 0.866)),
  "d64 L2": (100_800, "decoder", (0.971, 0.880, 0.942)),
  "d64 L1": (51_200, "depth control", (0.380, 0.371, 0.392)),
}


def cell(label, params, family="decoder", seed=0, task="rule_induction", num_steps=2000, **overrides):
  """Returns a row of sweep.json's cells; its id is readable, which real ones are not."""
  tokens = num_steps * 64 * 35
  return {
    "cell_id": f"{task[:4]}-{label}-{seed}".replace(" ", ""), "label": label, "family": family, "seed": seed,
    "task": task, "overrides": {"seed": seed, **overrides}, "params_total": params,
    "params_nonembedding": int(params * 0.9), "num_steps": num_steps, "tokens": tokens,
    "flops_exact": 6.6 * params * tokens,
  }  # fmt: skip


def row(cell, metric, value, *, step, split="test", n_shots=None, prompt_id=None, stderr=None, chance=None):
  tokens = step * 64 * 35
  return Record(
    study="synthetic", cell_id=cell["cell_id"], family=cell["family"], objective="causal_lm",
    params_total=cell["params_total"], params_nonembedding=cell["params_nonembedding"],
    flops_6nd=6.0 * cell["params_total"] * tokens, flops_exact=6.6 * cell["params_total"] * tokens,
    flops_6nd_nonembedding=6.0 * cell["params_nonembedding"] * tokens,
    tokens=tokens, step=step, seed=cell["seed"], task=cell["task"], split=split, n_shots=n_shots,
    prompt_id=prompt_id, metric=metric, value=value, stderr=stderr,
    n_items=1024 if split == "test" else None, chance=chance, wall_s=step * 0.01, device="cpu",
    lm_jax_version="0.1.0", git_commit="abc123",
  )  # fmt: skip


def write_cell(path: Path, cell, rows, *, state="done", step=None, error=None, task=RULES):
  path.mkdir(parents=True, exist_ok=True)
  step = cell["num_steps"] if step is None else step
  status = {"state": state, "step": step, "num_steps": cell["num_steps"], "loss": 1.0, "tokens_per_s": 1e5,
            "eta_s": 0.0, "time": 1.7e9, "pid": 1, "host": "host", "error": error}  # fmt: skip
  rate = cell["overrides"].get("optimizer.learning_rate", 3e-3)
  config = {"study": "synthetic", "family": cell["family"], "seed": cell["seed"],
            "task": {"name": task["name"]},
            "model": {"d_model": 8, "num_layers": 1}, "train": {"num_steps": cell["num_steps"]},
            "optimizer": {"learning_rate": rate}}  # fmt: skip
  for name, tree in (("status", status), ("task", task), ("config", config)):
    (path / f"{name}.json").write_text(json.dumps(tree))
  append(path / "records.jsonl", rows)


def write_sweep(workdir: Path, cells, study="synthetic"):
  sweep = {"study": study, "lm_jax_version": "0.1.0", "git_commit": "abc123",
           "versions": {"jax": "0.10.0", "flax": "0.12.8"}, "cells": cells}  # fmt: skip
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / "sweep.json").write_text(json.dumps(sweep))


def _metrics(accuracy: float, exact: float) -> dict[str, float]:
  """Returns metrics that go together as they do for a model that is right with this frequency."""
  excess = max(accuracy - 0.25, 0.0) / 0.75
  return {"accuracy": accuracy, "exact_match": exact, "nll": (1 - excess) * math.log(4) * 0.95 + 0.02,
          "choice_prob": 0.25 + 0.72 * excess, "brier": 0.75 * (1 - excess) ** 1.3 + 0.01}  # fmt: skip


def few_shot_rows(cell, accuracy, rng, until=None, num_items=1024):
  """Returns the rows of a run whose accuracy rises to `accuracy` over the last four shots."""
  rows, num_steps = [], cell["num_steps"]
  final_skill = (accuracy - 0.25) / (np.mean(BAYES[-4:]) - 0.25)
  steps = [0, 16, 32, 64, 128, 256, 512, 1024, num_steps]
  for step in steps[: 9 if until is None else max(i for i, s in enumerate(steps) if s <= until) + 1]:
    skill = final_skill / (1 + math.exp(-3 * (math.log2(max(step, 1)) - 8.2)))
    accuracies = [0.25 + skill * (b - 0.25) for b in BAYES]
    for k, a in enumerate(accuracies):
      a = float(np.clip(a + rng.normal(0, 0.008), 0, 1))
      rows += [row(cell, m, v, step=step, n_shots=k, stderr=math.sqrt(a * (1 - a) / (num_items - 1)),
                   chance=0.25 if m in ("accuracy", "exact_match") else None)
               for m, v in _metrics(a, a).items()]  # fmt: skip
    mean = accuracy if step == num_steps else float(np.mean(accuracies[-4:]))
    rows += [row(cell, m, v, step=step, prompt_id="window", stderr=0.4 / math.sqrt(num_items),
                 chance={"accuracy": 0.25, "exact_match": 0.25**4}.get(m))
             for m, v in _metrics(mean, mean**4).items()]  # fmt: skip
  for step in range(50, (until or num_steps) + 1, 50):
    skill = final_skill / (1 + math.exp(-3 * (math.log2(step) - 8.2)))
    loss = math.log(4) * (1 - 0.75 * skill) + rng.normal(0, 0.015)
    rows.append(row(cell, "loss", loss, step=step, split="train"))
  return rows


def text_rows(cell, bits, rng):
  rows = []
  for step in (0, 16, 32, 64, 128, 256, 512, 1024, cell["num_steps"]):
    value = bits + (8 - bits) * math.exp(-step / 150)
    rows += [row(cell, "bits_per_byte", value, step=step, stderr=0.01),
             row(cell, "nll", value * math.log(2), step=step, stderr=0.007),
             row(cell, "accuracy", 0.7 - value / 12, step=step, stderr=0.002, chance=1 / 256)]  # fmt: skip
  for step in range(50, cell["num_steps"] + 1, 50):
    loss = (bits + (8 - bits) * math.exp(-step / 150)) * math.log(2) + rng.normal(0, 0.02)
    rows.append(row(cell, "loss", loss, step=step, split="train"))
  return rows


def realistic(workdir: Path, study="rule induction ladder"):
  """Writes a study like a real one: six sizes and a depth control, three seeds, three cells missing."""
  rng = np.random.default_rng(0)
  cells = []
  for label, (params, family, accuracies) in LADDER.items():
    for seed, accuracy in enumerate(accuracies):
      c = cell(label, params, family, seed)
      cells.append(c)
      path = workdir / "cells" / c["cell_id"]
      if (label, seed) == ("d48 L2", 1):
        write_cell(path, c, few_shot_rows(c, accuracy, rng, until=600), state="running", step=650)
      elif (label, seed) == ("d16 L2", 2):
        write_cell(path, c, few_shot_rows(c, accuracy, rng, until=200), state="failed", step=200,
                   error="FloatingPointError: loss is not finite at step 200")  # fmt: skip
      elif (label, seed) != ("d64 L1", 2):
        write_cell(path, c, few_shot_rows(c, accuracy, rng))
  write_sweep(workdir, cells, study)


def text_study(workdir: Path):
  rng = np.random.default_rng(1)
  sizes = {"d32 L2": (30_000, 3.4), "d64 L2": (120_000, 2.9), "d128 L4": (900_000, 2.3)}
  cells = [cell(label, params, task="python_stdlib") for label, (params, _) in sizes.items()]
  for c in cells:
    write_cell(workdir / "cells" / c["cell_id"], c, text_rows(c, sizes[c["label"]][1], rng), task=TEXT)
  write_sweep(workdir, cells, "python bytes")


def two_ways(workdir: Path) -> None:
  """Writes a study of four sizes, each trained at two learning rates with two seeds."""
  cells = []
  for i, size in enumerate((1_000, 3_000, 10_000, 30_000)):
    for rate in (0.001, 0.003):
      for seed in range(2):
        own = cell(f"d{8 << i} L2", size, seed=seed, **{"optimizer.learning_rate": rate})
        own["cell_id"] += f"-{rate}"
        score = 0.2 + 0.15 * i + 50 * rate + 0.02 * seed
        rows = [row(own, m, score, step=own["num_steps"], n_shots=None, prompt_id="window")
                for m in ("accuracy", "nll")]  # fmt: skip
        write_cell(workdir / "cells" / own["cell_id"], own, rows)
        cells.append(own)
  write_sweep(workdir, cells)


def large(workdir: Path, steps=(0, 10, 100, 300, 1000), num_losses=20, tasks=4):
  """Writes a study of 5,000 cells: `tasks` x 5 families x 25 sizes x 40 / `tasks` seeds, short runs."""
  rng = np.random.default_rng(0)
  cells = []
  for task, family, size, seed in itertools.product(range(tasks), range(5), range(25), range(40 // tasks)):
    info = {**RULES, "name": f"rules_{task}", "shots": [0, 1, 2, 4], "window": 2,
            "bayes_accuracy": [BAYES[k] for k in (0, 1, 2, 4)]}  # fmt: skip
    params = int(np.geomspace(1e3, 1e8, 25)[size]) + 97 * family
    c = cell(f"size {size}", params, f"family {family}", seed, info["name"], num_steps=steps[-1])
    c["cell_id"] = f"{task}-{family}-{size}-{seed}"
    cells.append(c)
    skill, rows = (size + 1) / 25 * (1 - 0.1 * family), []
    for step, shots in itertools.product(steps, (0, 1, 2, 4, None)):
      a = 0.25 + 0.6 * skill * step / steps[-1] + float(rng.normal(0, 0.02))
      window = "window" if shots is None else None
      rows += [row(c, m, v, step=step, n_shots=shots, prompt_id=window, stderr=0.015)
               for m, v in (("accuracy", a), ("exact_match", a**2), ("nll", 1.5 - a))]  # fmt: skip
    for step in np.linspace(steps[-1] / num_losses, steps[-1], num_losses).astype(int).tolist():
      rows.append(row(c, "loss", 1.5 - skill * step / steps[-1], step=step, split="train"))
    # Not by write_cell: 5,000 flushes to the disk take minutes.
    path = workdir / "cells" / c["cell_id"]
    path.mkdir(parents=True)
    (path / "task.json").write_text(json.dumps(info))
    (path / "status.json").write_text(
      json.dumps({"state": "done", "step": steps[-1], "num_steps": steps[-1]})
    )
    (path / "records.jsonl").write_text("".join(json.dumps(vars(r)) + "\n" for r in rows))
  write_sweep(workdir, cells, "large")
