"""Language modeling on text, from files to records: every objective trains, resumes, and joins others."""

import json
import re

import numpy as np
import pytest
from processes import StopAfter, lasting_rows, lm_jax, merged, write_config

from lm_jax import config as configs
from lm_jax import loop, population, programs, records, tasks, tokenizers
from lm_jax.data import preparation
from lm_jax.launch import study
from lm_jax.strict import ConfigError

WORDS = [
  "the",
  "a",
  "one",
  "cat",
  "dog",
  "bird",
  "sees",
  "hears",
  "likes",
  "old",
  "new",
  "red",
  "and",
  "or",
  "then",
]
ENCODER = {"preset": "bert", "d_model": 16, "num_layers": 1, "num_heads": 2}
OBJECTIVES = {
  "causal_lm": {}, "prefix_lm": {}, "span_corruption": {}, "masked_lm": {"model": ENCODER},
  "masked_lm_nsp": {"model": ENCODER},
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """Returns a folder of 40 small documents of sentences, of which a rule holds some out."""
  folder = tmp_path_factory.mktemp("corpus") / "animals"
  folder.mkdir()
  rng = np.random.default_rng(0)
  for i in range(40):
    sentences = [" ".join(rng.choice(WORDS, rng.integers(3, 9))).capitalize() + "." for _ in range(60)]
    (folder / f"{'test' if i % 8 == 0 else 'train'}_{i:02d}.txt").write_text(" ".join(sentences))
  return folder


def tree(corpus, objective="causal_lm", **groups):
  base = {
    "task": {"name": "text", "corpus": [str(corpus)], "context_length": 48, "objective": objective},
    "model": {"d_model": 16, "num_layers": 1, "num_heads": 2},
    "optimizer": {"learning_rate": 1e-2, "warmup_steps": 5},
    "train": {"num_steps": 30, "batch_size": 8}, "eval": {"num_examples": 32, "batch_size": 16},
    "runtime": {"steps_per_dispatch": 7, "log_every": 10, "checkpoint_every": 10},
  }  # fmt: skip
  return merged(merged(base, **OBJECTIVES[objective]), **groups)


def rows(workdir, metric, split="test"):
  found = [r for r in records.read(workdir / "records.jsonl") if (r["metric"], r["split"]) == (metric, split)]
  return {row["step"]: row for row in found}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains(objective, corpus, tmp_path):
  config = configs.from_mapping(tree(corpus, objective))
  loop.train(config, tmp_path)
  nll = rows(tmp_path, "nll")
  # Not from chance alone to the frequency of letters, which is near 2.9.
  assert nll[30]["value"] < min(nll[0]["value"] - 1, 4)
  assert nll[30]["objective"] == objective
  assert (nll[30]["task"], nll[30]["n_items"]) == ("text", 32)
  assert ("bits_per_byte" in {r["metric"] for r in records.read(tmp_path / "records.jsonl")}) == (
    objective == "causal_lm"
  )
  if objective == "masked_lm_nsp":
    assert rows(tmp_path, "next_sentence_accuracy")[30]["chance"] == 0.5
  # What is needed to use the model is beside it.
  tokenizer = tokenizers.load(tmp_path / "tokenizer")
  assert tokenizer.decode(tokenizer.encode("Ünïcode, 猫")) == "Ünïcode, 猫"


def test_bits_a_byte_are_of_the_bytes_of_the_text(corpus, tmp_path):
  """A whole test split in BPE: the sum of its nats over the bytes of its files."""
  size = {"tokenizer": {"kind": "bpe", "vocab_size": 300}}
  config = configs.from_mapping(
    tree(corpus, task=size, train={"num_steps": 5}, optimizer={"warmup_steps": 0})
  )
  task = tasks.make_task(config.task)
  (stream,) = task.prepared.streams["test"]
  files = sorted(corpus.glob("test_*.txt"))
  assert stream.num_bytes == sum(file.stat().st_size for file in files)
  assert len(stream.starts) == len(files) + 1
  loop.train(config, tmp_path)
  nll, bits = rows(tmp_path, "nll")[5]["value"], rows(tmp_path, "bits_per_byte")[5]["value"]
  assert bits == pytest.approx(nll / np.log(2) * len(stream.tokens) / stream.num_bytes)


def test_training_and_test_text_are_apart(corpus):
  task = tasks.make_task(configs.from_mapping(tree(corpus)).task)
  (train,), (test,) = task.prepared.streams["train"], task.prepared.streams["test"]
  decode = task.prepared.tokenizer.decode
  for stream, split in ((train, "train"), (test, "test")):
    texts = {decode(stream.tokens[i:j]) for i, j in zip(stream.starts[:-1], stream.starts[1:], strict=True)}
    assert texts == {file.read_text() for file in corpus.glob(f"{split}_*.txt")}
  batch = task.evaluation(8, seed=0)
  held_out = bytes(np.asarray(test.tokens, np.uint8))
  assert all(bytes(row[row < 256].astype(np.uint8)[:20]) in held_out for row in batch.tokens)
  again = task.evaluation(8, seed=0)
  np.testing.assert_array_equal(batch.tokens, again.tokens)


@pytest.mark.parametrize("objective", ["causal_lm", "masked_lm_nsp"])
def test_a_stopped_run_goes_on_with_the_same_batches(objective, corpus, tmp_path):
  config = configs.from_mapping(tree(corpus, objective))
  loop.train(config, tmp_path / "whole")
  for looks in (3, 2):
    with pytest.raises(loop.Stopped):
      loop.train(config, tmp_path / "parts", stop=StopAfter(looks))
  loop.train(config, tmp_path / "parts")
  assert lasting_rows(tmp_path / "parts") == lasting_rows(tmp_path / "whole")


def test_a_population_of_seeds_is_its_members_alone(corpus, tmp_path):
  members = [configs.from_mapping(tree(corpus) | {"seed": seed}) for seed in (0, 1)]
  folders = [tmp_path / f"together{i}" for i in range(2)]
  assert loop.train_population(members, folders) == [None, None]
  alone = []
  for config, folder in zip(members, folders, strict=True):
    loop.train(config, tmp_path / "alone" / folder.name)
    alone.append(rows(tmp_path / "alone" / folder.name, "loss", "train"))
    for step, row in alone[-1].items():
      assert rows(folder, "loss", "train")[step]["value"] == pytest.approx(row["value"], rel=1e-5)
  assert all(alone[0][step]["value"] != alone[1][step]["value"] for step in alone[0])


def test_members_side_by_side_read_their_own_batches(corpus):
  members = [configs.from_mapping(tree(corpus) | {"seed": seed}) for seed in (0, 1)]
  task = tasks.make_task(members[0].task)
  together = population.Population(members, task, side_by_side=True)
  one = population.Population(members[1:], task)
  losses = [
    np.asarray(engine.by_member(engine.run(engine.start(group), 0, 3)[1])["loss"])[:, :3]
    for engine, group in ((together, members), (one, members[1:]))
  ]
  np.testing.assert_allclose(losses[0][1], losses[1][0], rtol=1e-5)
  assert not np.allclose(losses[0][0], losses[0][1], rtol=1e-3)


def test_prompting_is_recorded_at_the_last_step(corpus, tmp_path):
  asked = {"few_shot": ["association"], "shots": [0, 2], "few_shot_examples": 10}
  for objective in ("causal_lm", "masked_lm"):
    workdir = tmp_path / objective
    # Prompts are about 90 bytes; what is longer loses its beginning.
    short = {"train": {"num_steps": 4, "batch_size": 2}, "optimizer": {"warmup_steps": 1}}
    config = configs.from_mapping(tree(corpus, objective, eval=asked, task={"context_length": 128}, **short))
    loop.train(config, workdir)
    found = [r for r in records.read(workdir / "records.jsonl") if r["task"] == "association"]
    assert {(r["step"], r["n_shots"], r["n_items"]) for r in found} == {(4, 0, 10), (4, 2, 10)}
    assert {r["metric"] for r in found} >= {"accuracy", "choice_prob", "nll", "brier"}
    assert {r["chance"] for r in found if r["metric"] == "accuracy"} == {0.25}


def test_prompting_has_a_cadence(corpus, tmp_path):
  """At steps that are due for nothing else too; what is measured in between does not change the run."""
  short = {"train": {"num_steps": 7, "batch_size": 2}, "optimizer": {"warmup_steps": 1}}
  found = {}
  for every in (3, None):
    asked = {"few_shot": ["association"], "shots": [1], "few_shot_examples": 10, "few_shot_every": every}
    c = configs.from_mapping(tree(corpus, "causal_lm", eval=asked, task={"context_length": 128}, **short))
    loop.train(c, tmp_path / str(every))
    rows = records.read(tmp_path / str(every) / "records.jsonl")
    found[every] = {r["step"]: r["value"] for r in rows if (r["task"], r["metric"]) == ("association", "nll")}
  assert list(found[3]) == [3, 6, 7] and list(found[None]) == [7]
  assert found[3][7] == found[None][7] and len(set(found[3].values())) == 3


@pytest.mark.parametrize(
  ("kind", "objective", "message"),
  [
    ("code", "causal_lm", r"few_shot: '.*' runs what is written; only lm-jax evaluate does"),
    ("generation", "masked_lm", r"few_shot: '.*' is answered in writing, and a masked LM writes nothing"),
  ],
)
def test_what_a_sweep_cannot_ask_is_said_before_it_trains(kind, objective, message, corpus, tmp_path):
  (tmp_path / "rows.jsonl").write_text('{"q": "one", "a": "two"}\n')
  definition = {"kind": kind, "test": "rows.jsonl", "query": "{{q}}", "answer": "{{a}}"}
  definition |= {"program": "{{completion}}"} if kind == "code" else {}
  (tmp_path / "asked.yaml").write_text(json.dumps(definition))
  config = configs.from_mapping(tree(corpus, objective, eval={"few_shot": [str(tmp_path / "asked.yaml")]}))
  with pytest.raises(ConfigError, match=message):
    study.prepare_data([config], quiet=True)


def test_a_changed_corpus_is_another_run(corpus, tmp_path):
  copy = tmp_path / "animals"
  copy.mkdir()
  for file in corpus.iterdir():
    (copy / file.name).write_bytes(file.read_bytes())
  config = configs.from_mapping(tree(copy))
  with pytest.raises(loop.Stopped):
    loop.train(config, tmp_path / "w", stop=StopAfter(2))
  (copy / "train_01.txt").write_text("Something else. " * 200)
  # As another process would.
  for cached in (programs._of_shape, programs._evaluator_of_shape, preparation.prepare):
    cached.cache_clear()
  with pytest.raises(ConfigError, match="the training data changed since the run began"):
    loop.train(config, tmp_path / "w")


@pytest.mark.parametrize(
  ("groups", "message"),
  [
    ({"task": {"corpus": ["nowhere/to/be"]}}, "corpus='nowhere/to/be': not found"),
    ({"eval": {"num_examples": 10**6, "batch_size": 1}}, "config.eval.num_examples=1000000: must be at most"),
    ({"task": {"objective": "masked_lm"}}, "config.model.causal=True: must be false"),
    ({"task": {"tokenizer": {"kind": "bpe", "vocab_size": 100}}}, "vocab_size=100: must be at least 257"),
    ({"task": {"tokenizer": {"kind": "file", "path": "gone.json"}}}, "tokenizer gone.json: no such file"),
    ({"eval": {"few_shot": ["asociation"]}}, "few-shot task 'asociation': .*did you mean 'association'"),
    ({"task": {"objective": "masked_lm_nsp"}, "model": {"causal": False}}, "config.model.num_segments=0"),
  ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(groups, message, corpus, tmp_path):
  file = write_config(tmp_path / "run.py", merged(tree(corpus), **groups))
  done = lm_jax("train", f"--config={file}", f"--workdir={tmp_path / 'w'}", "--quiet")
  assert done.returncode == 2
  (line,) = done.stderr.strip().splitlines()
  assert re.search(message, line), line
  assert not (tmp_path / "w" / "records.jsonl").exists()
