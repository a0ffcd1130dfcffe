"""Draws the time until the first token against the length of the prompt, from what `lm-jax bench` wrote.

python experiments/012_decoding/prefill.py experiments/012_decoding/prefill.jsonl prefill.png
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt


def draw(results: dict, path: str) -> None:
  figure, axes = plt.subplots(figsize=(5, 3.4), layout="constrained")
  for weights in dict.fromkeys(row["weights"] for row in results["prefill"]):
    rows = [row for row in results["prefill"] if row["weights"] == weights]
    axes.loglog([r["prompt_tokens"] for r in rows], [r["cpu_ms"] for r in rows], "o-", label=weights)
  axes.set(xlabel="tokens of the prompt", ylabel="CPU time until the first token, ms")
  axes.legend(frameon=False)
  figure.savefig(path, dpi=150)


if __name__ == "__main__":
  draw(json.loads(Path(sys.argv[1]).read_text().splitlines()[-1]), sys.argv[2])
