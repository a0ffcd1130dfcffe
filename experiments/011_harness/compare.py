"""Times scoring by lm-evaluation-harness with our model and with its own `hf` model, in turns.

  python experiments/011_harness/compare.py --output=CSV [--data=DIR] [--model=FOLDER] [--repeats=3]

DIR has folders of data.jsonl with query, choices and gold (llm-foundry's form). Without a folder of
transformers, a Llama of SmolLM2-135M's shape with random weights is made, which takes as long to compute, and
a tokenizer from GPT-2's vocab.json and merges.txt. All is looked for in $LM_JAX_SHARED (default: ../shared).
"""

import argparse
import csv
import os
import tempfile
import time
from pathlib import Path

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SHAPE = {
  "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
  "num_key_value_heads": 3, "max_position_embeddings": 2048, "tie_word_embeddings": True, "rope_theta": 1e4,
}  # fmt: skip
# (task, shots, how demonstrations are chosen, items): for each item anew, the harness's default, or once.
CASES = [
  ("boolq", 0, "default", 64), ("boolq", 4, "default", 24), ("boolq", 4, "first_n", 24),
  ("arc_easy", 0, "default", 64), ("arc_easy", 4, "default", 24), ("arc_easy", 4, "first_n", 24),
]  # fmt: skip
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {data}}}}}
test_split: test
fewshot_split: train
fewshot_config: {{sampler: {sampler}}}
output_type: multiple_choice
doc_to_text: "{{{{query}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def random_model(folder: Path, vocabulary: Path) -> None:
  """Saves a Llama of SmolLM2-135M's shape, and GPT-2's tokenizer, as transformers does."""
  import torch
  import transformers

  torch.manual_seed(0)
  tokenizer = transformers.GPT2TokenizerFast(str(vocabulary / "vocab.json"), str(vocabulary / "merges.txt"))
  config = transformers.LlamaConfig(
    vocab_size=len(tokenizer), bos_token_id=50256, eos_token_id=50256, **SHAPE
  )
  transformers.LlamaForCausalLM(config).save_pretrained(folder)
  tokenizer.save_pretrained(folder)


def requests(folder: Path, data: Path, name: str, shots: int, sampler: str, items: int) -> list:
  """Returns what the harness asks of a model in a task."""
  from lm_eval.tasks import TaskManager

  path = folder / f"{name}_{sampler}.yaml"
  path.write_text(TASK.format(name=path.stem, data=data / name / "data.jsonl", sampler=sampler))
  task = TaskManager(include_path=str(folder), include_defaults=False).load([path.stem])["tasks"][path.stem]
  task.set_config(key="num_fewshot", value=shots)
  task.set_fewshot_seed(1234)
  task.build_all_requests(limit=items, rank=0, world_size=1)
  return task.instances


def measured(model, asked: list) -> tuple[np.ndarray, list]:
  """Returns seconds, of wall and of all cores, and what the model answers."""
  start = np.array([time.perf_counter(), time.process_time()])
  found = model.loglikelihood(asked, disable_tqdm=True)
  return np.array([time.perf_counter(), time.process_time()]) - start, found


def compare(ours, theirs, asked: list, repeats: int) -> dict[str, float]:
  """Returns medians, the first run of ours, which compiles, apart, and how far the scores are off."""
  first, _ = measured(ours, asked)
  before, runs = ours._scorer._score.tokens_read, {"hf": [], "ours": []}
  for _ in range(repeats):
    for name, model in (("hf", theirs), ("ours", ours)):
      runs[name].append(measured(model, asked))
  hf, own = (np.median([elapsed for elapsed, _ in runs[name]], axis=0) for name in ("hf", "ours"))
  (hf_log_p, hf_greedy), (log_p, greedy) = (np.array(runs[name][-1][1]).T for name in ("hf", "ours"))
  return {
    "requests": len(asked), "tokens_read": (ours._scorer._score.tokens_read - before) // repeats,
    **columns("wall", hf[0], own[0]), **columns("cpu", hf[1], own[1]),
    "first_wall_s": round(float(first[0]), 2), "largest_difference": f"{abs(hf_log_p - log_p).max():.1e}",
    "greedy_equal": bool((hf_greedy == greedy).all()),
  }  # fmt: skip


def columns(clock: str, hf: float, ours: float) -> dict[str, float]:
  values = {f"hf_{clock}_s": hf, f"ours_{clock}_s": ours, f"{clock}_ratio": hf / ours}
  return {name: round(float(value), 2) for name, value in values.items()}


def write(path: Path, row: dict) -> None:
  """Puts a row into the results; those of other cases stay."""
  case = ("task", "shots", "demonstrations")
  rows = list(csv.DictReader(path.open())) if path.exists() else []
  rows = [old for old in rows if [old[name] for name in case] != [str(row[name]) for name in case]]
  with open(path, "w", newline="") as file:
    writer = csv.DictWriter(file, row, extrasaction="ignore")
    writer.writeheader()
    writer.writerows([*rows, row])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  shared = Path(os.environ.get("LM_JAX_SHARED") or "../shared")
  parser.add_argument("--data", type=Path, default=shared / "data/tasks")
  parser.add_argument("--output", type=Path, required=True, help="CSV file")
  parser.add_argument(
    "--vocabulary",
    type=Path,
    default=shared / "tokenizers/gpt2-bpe",
    help="folder of GPT-2's vocab.json and merges.txt",
  )
  parser.add_argument("--model", type=Path)
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--batch_size", type=int, default=8, help="of hf")
  parser.add_argument("--case", type=int, nargs="*", default=range(len(CASES)))
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as name:
    folder = options.model or Path(name) / "model"
    if not options.model:
      random_model(folder, options.vocabulary)
    from lm_eval.models.huggingface import HFLM

    from lm_jax.lm_eval_model import LmJax

    ours = LmJax(str(folder))
    theirs = HFLM(str(folder), device="cpu", dtype="float32", batch_size=options.batch_size)
    for task, shots, sampler, items in (CASES[i] for i in options.case):
      asked = requests(Path(name), options.data, task, shots, sampler, items)
      row = {"task": task, "shots": shots, "demonstrations": sampler, "items": items}
      row |= compare(ours, theirs, asked, options.repeats)
      print(row, flush=True)
      write(options.output, row)


if __name__ == "__main__":
  main()
