"""Seconds and memory of a large corpus, from its files to random windows of its tokens.

    python experiments/008_corpora/measure.py CSV [MEGABYTES] [bytes|bpe] [books|rows]

Makes a corpus from the text of `classics` (see text_config.Text) with random words in between, as ten .txt
files or as .jsonl rows of a paragraph each, in a temporary folder with a cache of its own, both deleted
afterwards. Every stage is a process of its own; rows are appended to CSV.

peak_anonymous_mb is the largest RssAnon of the process, sampled every 10 ms: what it allocated, without pages
of files that it maps, which the system takes back when it needs them. peak_rss_mb (VmHWM) includes those.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lm_jax import tokenizers
from lm_jax.data import corpora, token_store
from lm_jax.text_config import TokenizerConfig

WINDOW, WINDOWS = 1025, 200_000
STAGES = ("open", "dataset", "tokens", "again", "windows")
READING = STAGES[:3]  # of all the text
FIELDS = (
  "megabytes",
  "tokenizer",
  "shape",
  "stage",
  "seconds",
  "mb_per_s",
  "peak_anonymous_mb",
  "peak_rss_mb",
)


def paragraphs(num_bytes: int) -> Iterator[str]:
  """Yields paragraphs without end to `num_bytes`, no two the same."""
  rng = np.random.default_rng(0)
  source = [text for text in "".join(corpora.open_corpus("classics").texts("train")).split("\n\n") if text]
  words = np.array(sorted(set(" ".join(source[:2000]).split())))
  made = 0
  while made < num_bytes:
    text = source[rng.integers(len(source))]
    added = " ".join(rng.choice(words, 1 + len(text) // 100))
    yield f"{text} {added}"
    made += len(text.encode()) + len(added) + 3


def write_corpus(folder: Path, num_bytes: int, shape: str) -> None:
  texts = paragraphs(num_bytes)
  if shape == "rows":
    with (folder / "rows.jsonl").open("w") as file:
      file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return
  files = [(folder / f"book{i}.txt").open("w") for i in range(10)]
  for i, text in enumerate(texts):
    # In turns of a hundred, so that a file is read as it would be: from its beginning to its end.
    files[i // 100 % 10].write(f"{text}\n\n")
  for file in files:
    file.close()


def run_stage(stage: str, folder: Path, tokenizer_folder: Path) -> None:
  """Does the work of one stage, and of none before it, whose results the cache has."""
  tokenizer = tokenizers.load(tokenizer_folder)
  separator = tokenizer.vocab_size
  corpus = corpora.open_corpus(str(folder), quiet=False)
  if stage == "dataset":
    next(corpus.passages("train"))
  if stage in ("tokens", "again"):
    token_store.prepare(corpus, tokenizer, separator, quiet=False)
  if stage == "windows":
    tokens = token_store.prepare(corpus, tokenizer, separator)["train"].tokens
    starts = np.random.default_rng(1).integers(0, len(tokens) - WINDOW, WINDOWS)
    total = sum(int(tokens[start : start + WINDOW].sum(dtype=np.int64)) for start in starts)
    assert total > 0


def status_kb(field: str) -> int:
  lines = Path("/proc/self/status").read_text().splitlines()
  return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


class Memory(threading.Thread):
  """Samples what this process has allocated."""

  def __init__(self):
    super().__init__(daemon=True)
    self.peak_kb = 0

  def run(self) -> None:
    while True:
      self.sample()
      time.sleep(0.01)

  def sample(self) -> None:
    self.peak_kb = max(self.peak_kb, status_kb("RssAnon"))


def measure_stage(stage: str, folder: str, tokenizer_folder: str) -> None:
  """Prints seconds, peak of allocated memory and peak of all memory, in MB."""
  memory = Memory()
  memory.start()
  start = time.perf_counter()
  run_stage(stage, Path(folder), Path(tokenizer_folder))
  seconds = time.perf_counter() - start
  memory.sample()
  print(json.dumps([seconds, memory.peak_kb * 1.024e-3, status_kb("VmHWM") * 1.024e-3]))


def save_tokenizer(kind: str, folder: Path) -> None:
  if kind == "bytes":
    tokenizer = tokenizers.make(TokenizerConfig())
  else:
    texts = corpora.open_corpus("classics").texts("train")
    tokenizer = tokenizers.train(TokenizerConfig(kind=kind, vocab_size=16_384), texts)
  tokenizer.save(folder)


def append(row: dict[str, object], path: Path) -> None:
  is_new = not path.exists()
  with path.open("a", newline="") as file:
    table = csv.DictWriter(file, FIELDS, lineterminator="\n")
    if is_new:
      table.writeheader()
    table.writerow(row)
  print(*row.values(), flush=True)


def main(output: str, megabytes: int = 1000, kind: str = "bytes", shape: str = "books") -> None:
  with tempfile.TemporaryDirectory() as temporary:
    root = Path(temporary)
    (root / "corpus").mkdir()
    write_corpus(root / "corpus", megabytes * 1_000_000, shape)
    save_tokenizer(kind, root / "tokenizer")
    size = sum(file.stat().st_size for file in (root / "corpus").iterdir()) / 1e6
    for stage in STAGES:
      words = [sys.executable, __file__, f"--stage={stage}", str(root / "corpus"), str(root / "tokenizer")]
      env = os.environ | {"LM_JAX_CACHE": str(root / "cache")}
      run = subprocess.run(words, env=env, stdout=subprocess.PIPE, text=True, check=True)
      seconds, anonymous_mb, rss_mb = json.loads(run.stdout)
      rate = f"{size / seconds:.1f}" if stage in READING else ""
      numbers = (f"{seconds:.2f}", rate, f"{anonymous_mb:.0f}", f"{rss_mb:.0f}")
      append(dict(zip(FIELDS, (round(size), kind, shape, stage, *numbers), strict=True)), Path(output))


if __name__ == "__main__":
  if sys.argv[1:] and sys.argv[1].startswith("--stage="):
    measure_stage(sys.argv[1].removeprefix("--stage="), *sys.argv[2:])
  else:
    main(*(int(word) if word.isdecimal() else word for word in sys.argv[1:]))
