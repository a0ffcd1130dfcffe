"""Few-shot fine-tuning: what is trained, that test chooses nothing, that stopping is harmless."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.special
from processes import ROOT, StopAfter, write_config
from test_cli import assert_refused, call

from lm_jax import (
  checkpoint,
  classifier,
  config,
  finetune,
  finetune_config,
  loop,
  lora,
  pretrained,
  records,
  state,
)
from lm_jax import finetune_programs as programs
from lm_jax.analysis import finetuning as report
from lm_jax.data.classifier_inputs import Encoder
from lm_jax.finetune import Finetuning, Group
from lm_jax.launch import finetuning
from lm_jax.model import Classifier
from lm_jax.rundir import RunDir
from lm_jax.strict import ConfigError
from lm_jax.tokenizers import Bytes

ENCODER = {
  "task": {"name": "text", "objective": "masked_lm", "context_length": 16},
  "model": {
    "preset": "bert",
    "d_model": 32,
    "num_layers": 1,
    "num_heads": 2,
    "dropout": 0.0,
    "initializer": "fan_in",
  },
}
DECODER = {
  "task": {"name": "python_stdlib", "context_length": 16},
  "model": {"preset": "gpt2", "d_model": 16, "num_layers": 2, "num_heads": 2},
  "optimizer": {"warmup_steps": 2},
  "train": {"num_steps": 4, "batch_size": 4},
  "eval": {"num_examples": 8, "batch_size": 8},
}
METHODS = tuple(finetune_config.METHODS)


def save_run(folder: Path, tree: dict) -> Path:
  """Leaves what an untrained run has."""
  folder.mkdir(parents=True)
  RunDir(folder).write_config(config.from_mapping(tree))
  return folder


def texts(rng: np.random.Generator, label: int, count: int) -> list[dict]:
  """Returns rows that a glance tells apart: letters of the alphabet's first half, or of its second."""
  letters = list("abcdefghijklm" if label else "nopqrstuvwxyz")
  return [{"text": "".join(rng.choice(letters, rng.integers(6, 12))), "label": label} for _ in range(count)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
  folder, rng = tmp_path_factory.mktemp("letters"), np.random.default_rng(0)
  for split, count in (("train", 40), ("valid", 20), ("test", 50)):
    rows = texts(rng, 0, count) + texts(rng, 1, count)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
  return save_run(tmp_path_factory.mktemp("runs") / "encoder", ENCODER)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory, cache) -> Path:
  """Returns a run of a few steps."""
  folder = tmp_path_factory.mktemp("runs") / "decoder"
  loop.train(config.from_mapping(DECODER), folder)
  return folder


def tree_of(folder: Path, model: Path, **fields) -> dict:
  return {
    "study": "letters", "checkpoint": str(model), "initial": "random",
    "data": {"name": str(folder), "num_dev": 16},
    "shots": [2], "draws": 2, "max_steps": 8, "eval_every": 4, "max_length": 16, "lora": {"rank": 2},
    "optimizer": {"warmup_steps": 2},
  } | fields  # fmt: skip


def tuning_of(tree: dict) -> Finetuning:
  c = finetune_config.from_mapping(tree)
  return Finetuning(c, pretrained.load(c.checkpoint, trained=c.initial == "pretrained"))


@pytest.fixture(scope="module")
def tuning(data, encoder) -> Finetuning:
  return tuning_of(tree_of(data, encoder))


def one(tree, i: int):
  return jax.tree.map(lambda x: np.asarray(x[i]), tree)


# --- what is trained ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_only_what_a_method_names_changes(tuning, method):
  result = tuning.train(Group(method, 2, (0, 1)))
  before = tuning.pretrained.params
  after = lora.flat(tuning.programs(method).assemble(one(result.trained, 1)))
  trunk = {path for path in lora.flat(before) if path in after and not path.startswith(programs.HEAD)}
  changed = {path for path in trunk if np.any(after[path] != lora.flat(before)[path])}
  assert len(trunk) > 10
  if method == "head":
    assert not changed
  elif method == "lora":
    assert changed == {f"block_0/attention/{name}/kernel" for name in ("query", "value")}
    for path in changed:
      change = np.asarray(after[path], np.float64) - np.asarray(lora.flat(before)[path], np.float64)
      assert (np.linalg.svd(change)[1] > 1e-5).sum() == 2
  else:
    # Rows of the other segment have no gradient, but decay; a bias of the keys has none at all.
    assert changed >= trunk - {"block_0/attention/key/bias"}


def test_numbers_of_trained_parameters(tuning):
  trained = {method: tuning.programs(method).params_trained for method in METHODS}
  head = 32 * 32 + 32 + 32 * 2 + 2
  assert trained["head"] == head
  assert trained["lora"] == head + 2 * 2 * (32 + 32)
  assert trained["full"] == tuning.programs("full").params_total()[0] > 10_000


def test_parts_that_only_language_modeling_has_are_left_behind(tuning):
  model = config.from_mapping(ENCODER).model
  tokens = jnp.zeros((1, 8), jnp.int32)
  whole = jax.eval_shape(lambda: Classifier(model, 2).init(jax.random.key(0), tokens))["params"]
  params = tuning.programs("full").assemble(one(tuning.train(Group("full", 2, (0,))).trained, 0))
  assert {p: x.shape for p, x in lora.flat(params).items()} == {
    p: x.shape for p, x in lora.flat(whole).items()
  }
  assert set(params) < set(tuning.pretrained.params) | {"pooler", "classifier"}


def test_an_easy_task_is_learnt_from_16_examples_a_class(data, encoder):
  fields = {"shots": [16], "max_steps": 60, "eval_every": 10, "methods": ["full"], "draws": 1,
            "optimizer": {"learning_rate": {"full": 3e-3}, "warmup_steps": 5}}  # fmt: skip
  tuning = tuning_of(tree_of(data, encoder, **fields))
  group = Group("full", 16, (0,))
  (outcome,) = tuning.score(group, tuning.train(group))
  assert outcome.test["accuracy"].mean() > 0.9
  assert outcome.test["nll"].mean() < 0.5


# --- draws, dev and test --------------------------------------------------------------------------


def test_dev_and_test_do_not_meet_the_draws(data, encoder):
  for num_dev in (16, None):
    tuning = tuning_of(tree_of(data, encoder, data={"name": str(data), "num_dev": num_dev}, shots=[1, 4]))
    train = {tuning.data.train.texts[i] for draw in range(2) for i in tuning.train_rows(4, draw)}
    dev = {tuning.data.valid.texts[i] for draw in range(2) for i in tuning.dev_rows(4, draw)}
    test = set(tuning.data.test.texts)
    assert not train & dev
    assert not test & (train | dev)
    for draw in range(2):
      np.testing.assert_array_equal(tuning.train_rows(1, draw), tuning.train_rows(4, draw)[:2])
      assert len(tuning.dev_rows(4, draw)) == (num_dev or 8)


def test_batches_hold_the_drawn_examples_and_no_other(tuning):
  draw = tuning.draw(2, 1)
  rows = tuning.train_rows(2, 1)
  assert draw.batches.shape == (8, 8)
  for batch in draw.batches:  # of 4 examples, each twice
    assert sorted(batch) == sorted([*rows, *rows])
  assert draw.dev.min() >= len(tuning.data.train)


@pytest.mark.parametrize("method", METHODS)
def test_labels_of_test_choose_nothing(tuning, data, encoder, tmp_path, method):
  for path in data.iterdir():
    (tmp_path / path.name).write_text(path.read_text())
  rows = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
  flipped = [row | {"label": 1 - row["label"]} for row in rows]
  (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in flipped))
  other = tuning_of(tree_of(tmp_path, encoder))
  group = Group(method, 2, (0, 1))
  results = [t.train(group) for t in (tuning, other)]
  jax.tree.map(np.testing.assert_array_equal, *results)
  ours, theirs = (t.score(group, r)[0] for t, r in zip((tuning, other), results, strict=True))
  np.testing.assert_array_equal(ours.test["accuracy"], 1 - theirs.test["accuracy"])


def test_the_step_that_dev_likes_best_is_kept_until_patience_ends(data, encoder, patience=2):
  rates = {"optimizer": {"learning_rate": {"full": 2e-2}, "warmup_steps": 0, "weight_decay": 0.0}}
  tuning = tuning_of(tree_of(data, encoder, max_steps=6, eval_every=1, patience=patience, **rates))
  result, program = tuning.train(Group("full", 2, (0, 1))), tuning.programs("full")
  draws = [jax.tree.map(jnp.asarray, tuning.draw(2, draw)) for draw in (0, 1)]
  expected = [by_hand(tuning, program, draw, patience) for draw in draws]
  assert result.step.tolist() == [step for _, step, _ in expected]
  np.testing.assert_allclose(result.accuracy, [accuracy for _, _, (accuracy, _) in expected])
  np.testing.assert_allclose(-result.nll, [rank for _, _, (_, rank) in expected], rtol=1e-4)
  for i, (trained, _, _) in enumerate(expected):
    # Adam divides small gradients by their size, and so makes their last bits large.
    close = lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-3)  # noqa: E731
    jax.tree.map(close, one(result.trained, i), trained)


def by_hand(tuning: Finetuning, program: programs.Programs, draw: programs.Draw, patience: int):
  """Returns (trained, step, (accuracy, -nll)) of the best look, by a plain loop."""
  update = jax.jit(lambda step, carry: program.update(tuning.base, tuning.pool, draw, step, carry))
  trained = program.start(tuning.base, draw.key)
  carry = trained, program.optimizer_at(0).init(trained)
  best, without, step = (None, 0, (-1.0, -np.inf)), 0, 0
  while step < tuning.c.max_steps and without < patience:
    carry = update(step, carry)
    step += 1
    rank = on_dev(tuning, program.assemble(carry[0]), draw.dev)
    without = without + 1 if rank <= best[2] else 0
    best = max(best, (carry[0], step, rank), key=lambda look: look[2])
  return best


@functools.cache
def reference(model):
  """Returns the program of an encoder's logits."""
  apply = Classifier(model, 2).apply
  return jax.jit(lambda params, tokens, documents: apply({"params": params}, tokens, documents_BT=documents))


def on_dev(tuning: Finetuning, params, dev: np.ndarray) -> tuple[float, float]:
  """Returns (accuracy, -nll) in float64."""
  tokens, lengths, labels = (np.asarray(x)[np.asarray(dev)] for x in vars(tuning.pool).values())
  documents = (np.arange(tokens.shape[1]) < lengths[:, None]).astype(np.int32)
  logits = reference(tuning.model)(params, jnp.asarray(tokens), jnp.asarray(documents))
  log_p = scipy.special.log_softmax(np.asarray(logits, np.float64), axis=-1)
  rows = np.arange(len(labels))
  return float((log_p.argmax(-1) == labels).mean()), float(log_p[rows, labels].mean())


@pytest.mark.parametrize("method", ["lora"])
def test_a_run_is_the_same_in_any_group_and_close_side_by_side(tuning, method):
  together, alone = tuning.train(Group(method, 2, (0, 1))), tuning.train(Group(method, 2, (1,)))
  jax.tree.map(np.testing.assert_array_equal, one(together, 1), one(alone, 0))
  side_by_side = programs.Programs(tuning.c, tuning.model, 2, method, tuning.base, side_by_side=True)
  draws = jax.tree.map(lambda *xs: np.stack(xs), tuning.draw(2, 0), tuning.draw(2, 1))
  other = side_by_side.train(tuning.pool, draws)
  assert other.step.tolist() == together.step.tolist()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4), together, other)


def test_a_rate_that_is_too_high_is_named(data, encoder):
  rates = {"optimizer": {"learning_rate": {"full": 1e30}, "warmup_steps": 0, "clip_norm": None}}
  tuning = tuning_of(tree_of(data, encoder, **rates))
  with pytest.raises(finetune.Diverged, match=r"full, k=2, draw 0: .*config.optimizer.learning_rate.full"):
    tuning.train(Group("full", 2, (0,)))


# --- what a model reads ---------------------------------------------------------------------------


@pytest.mark.parametrize("tree", [ENCODER, DECODER])
def test_padding_changes_nothing(tree):
  model = config.from_mapping(tree).model
  specials = {"cls": 256, "sep": 257} if not model.causal else {}
  params = programs.init_params(model, 3, np.array([0, 7], np.uint32))
  logits = []
  for length in (8, 16):
    encoder = Encoder(Bytes(), specials, model.causal, length)
    inputs = encoder.inputs(encoder.sequences(["abc", "hello!"]))
    assert inputs.tokens.shape == (2, length)
    logits.append(programs.apply(model, 3, params, *map(jnp.asarray, (inputs.tokens, inputs.lengths))))
  np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-6)
  assert np.abs(logits[0][0] - logits[0][1]).max() > 1e-3


def test_what_is_read_of_a_long_text():
  assert Encoder(Bytes(), {"cls": 256, "sep": 257}, False, 5).sequences(["abcdef", "a"]) == [
    [256, 97, 98, 99, 257], [256, 97, 257]
  ]  # fmt: skip
  assert Encoder(Bytes(), {}, True, 5).sequences(["abcdef"]) == [[97, 98, 99, 100, 101]]


# --- checkpoints ----------------------------------------------------------------------------------


def test_parameters_come_from_the_checkpoint(decoder, data):
  model = pretrained.load(decoder)
  c = config.from_mapping(DECODER)
  like = jax.jit(lambda: state.init_state(c))()
  saved = checkpoint.Checkpoints(decoder / "checkpoints", 1)
  s, _ = saved.restore(4, like)
  saved.close()
  assert model.step == 4
  jax.tree.map(np.testing.assert_array_equal, model.params, s.params)
  assert np.any(np.asarray(like.params["embedding"]["table"]) != model.params["embedding"]["table"])
  tuning = tuning_of(tree_of(data, decoder, initial="pretrained"))
  head = tuning.programs("head").assemble(one(tuning.train(Group("head", 2, (0,))).trained, 0))
  np.testing.assert_array_equal(head["embedding"]["table"], model.params["embedding"]["table"])
  untrained = pretrained.load(decoder, trained=False)
  jax.tree.map(np.testing.assert_array_equal, untrained.params, like.params)


def test_what_does_not_fit_is_listed_in_one_line(decoder, encoder, tmp_path):
  other = save_run(
    tmp_path / "other", DECODER | {"model": DECODER["model"] | {"d_model": 8, "num_layers": 1}}
  )
  (other / "checkpoints").symlink_to(decoder / "checkpoints")
  with pytest.raises(ConfigError) as error:
    pretrained.load(other)
  for part in (
    "step 4 does not fit",
    "block_1/mlp/up/kernel is not the model's",
    "is [256, 16], not [256, 8]",
  ):
    assert part in str(error.value)
  assert "\n" not in str(error.value)
  with pytest.raises(ConfigError, match="has no checkpoint yet"):
    pretrained.load(encoder)
  with pytest.raises(ConfigError, match="did you mean 'encoder'"):
    pretrained.load(encoder.parent / "encodre")
  with pytest.raises(ConfigError, match=r"it has no config\.json"):
    pretrained.load(tmp_path)
  with pytest.raises(ConfigError, match="its task 'markov_chain' is not text"):
    pretrained.load(save_run(tmp_path / "chain", {"task": {"name": "markov_chain"}}), trained=False)


def test_a_tokenizer_of_another_size_is_refused(tmp_path):
  task = ENCODER["task"] | {"tokenizer": {"kind": "wordpiece", "vocab_size": 600}}
  run = save_run(tmp_path / "run", ENCODER | {"task": task})
  with pytest.raises(ConfigError, match="has no folder tokenizer/"):
    pretrained.load(run, trained=False)
  Bytes().save(run / "tokenizer")
  with pytest.raises(ConfigError, match="its tokenizer has vocab_size 256, but the model's was 600"):
    pretrained.load(run, trained=False)


# --- a workdir ------------------------------------------------------------------------------------


def rows_of(workdir: Path) -> list[dict]:
  return [{k: v for k, v in row.items() if k != "wall_s"} for row in records.read(workdir / "records.jsonl")]


@pytest.fixture
def run(data, encoder, monkeypatch):
  """Returns a function that runs what is missing in a workdir and stops before the group number `looks`."""

  def run(workdir: Path, looks: int = 100, **fields) -> int:
    monkeypatch.setattr(loop, "stop_on_signals", lambda: StopAfter(looks))
    workdir.mkdir(exist_ok=True)
    c = finetune_config.from_mapping(tree_of(data, encoder, shots=[1, 2], methods=["full", "head"]) | fields)
    return finetuning.run(c, workdir, quiet=True)

  return run


def test_stopped_and_continued_is_uninterrupted(run, tmp_path):
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  assert run(whole) == 0
  assert run(parts, looks=1) == 128 + 15
  assert len({(row["family"], row["n_shots"]) for row in rows_of(parts)}) == 1
  # What a process that was killed has left: a row of a run without the others, and half a row.
  text = (parts / "records.jsonl").read_text()
  stray = json.dumps(json.loads(text.splitlines()[0]) | {"n_shots": 2})
  (parts / "records.jsonl").write_text(text + stray + "\n" + stray[:50])
  assert run(parts, looks=2) == 128 + 15
  assert run(parts) == 0
  assert rows_of(parts) == rows_of(whole)
  saved = [classifier.load(w / "classifier") for w in (parts, whole)]
  jax.tree.map(np.testing.assert_array_equal, *[c.params for c in saved])
  assert saved[0].facts == saved[1].facts
  assert {path.name for path in parts.iterdir()} == {path.name for path in whole.iterdir()}


def test_nothing_is_done_twice_and_more_draws_are_added(run, tmp_path, monkeypatch):
  assert run(tmp_path) == 0
  before = (tmp_path / "records.jsonl").read_text()
  with monkeypatch.context() as patch:
    patch.setattr(Finetuning, "train", None)
    assert run(tmp_path) == 0
  assert (tmp_path / "records.jsonl").read_text() == before
  assert run(tmp_path, draws=3) == 0
  after = (tmp_path / "records.jsonl").read_text()
  assert after.startswith(before)
  added = [json.loads(line) for line in after[len(before) :].splitlines()]
  assert {(row["family"], row["n_shots"], row["seed"]) for row in added} == {
    (method, k, 2) for method in ("full", "head") for k in (1, 2)
  }  # fmt: skip


def test_a_workdir_of_something_else_is_refused(run, tmp_path, encoder, data):
  assert run(tmp_path / "w") == 0
  with pytest.raises(ConfigError, match="fine-tuning with other settings"):
    run(tmp_path / "w", max_steps=7)
  changed = tmp_path / "changed"
  changed.mkdir()
  for path in data.iterdir():
    more = json.dumps({"text": f"{path.stem} more", "label": 1})
    (changed / path.name).write_text(path.read_text() + more + "\n")
  with pytest.raises(ConfigError, match="the data changed since its first run"):
    run(tmp_path / "w", data={"name": str(changed), "num_dev": 16})
  save_run(tmp_path / "trained", ENCODER)
  with pytest.raises(ConfigError, match="holds a run of lm-jax train"):
    run(tmp_path / "trained")


def test_rows_say_what_was_measured(run, tmp_path, data):
  run(tmp_path)
  rows = rows_of(tmp_path)
  assert len(rows) == 2 * 2 * 2 * 9
  assert finetune.finished(rows) == {(m, k, s) for m in ("full", "head") for k in (1, 2) for s in (0, 1)}
  accuracy = [row for row in rows if row["metric"] == "accuracy"]
  assert {row["chance"] for row in accuracy} == {0.5}
  assert {(row["split"], row["n_items"]) for row in accuracy} == {("test", 100), ("dev", 16)}
  assert {(row["family"], row["objective"]) for row in rows} == {
    ("full", "finetune_full"), ("head", "finetune_head")
  }  # fmt: skip
  assert {row["task"] for row in rows} == {data.name}
  assert all(row["step"] in (4, 8) and row["tokens"] == row["step"] * 8 * 16 for row in rows)
  assert len({row["cell_id"] for row in rows}) == 8
  flops = {row["family"]: row["flops_exact"] / row["step"] for row in rows}
  assert flops["full"] == 3 * flops["head"]


def test_report(run, tmp_path, encoder):
  run(tmp_path)
  folder = report.write(tmp_path)
  assert {path.suffix for path in (folder / "figures").iterdir()} == {".png", ".svg", ".pdf"}
  table = pd.read_csv(folder / "tables" / "finetune.csv")
  assert list(zip(table["method"], table["k"], strict=True)) == [
    ("full", 1), ("full", 2), ("head", 1), ("head", 2)
  ]  # fmt: skip
  for row in table.itertuples():
    values = [
      r["value"] for r in rows_of(tmp_path)
      if (r["family"], r["n_shots"], r["split"], r["metric"]) == (row.method, row.k, "test", "accuracy")
    ]  # fmt: skip
    assert (row.draws, row.min, row.max) == (2, min(values), max(values))
    assert row.mean == pytest.approx(np.mean(values))
    assert row.sd == pytest.approx(np.std(values, ddof=1))
  before = [path.read_bytes() for path in sorted(folder.rglob("*.*"))]
  report.write(tmp_path)
  assert [path.read_bytes() for path in sorted(folder.rglob("*.*"))] == before
  assert "chance 0.500, most frequent class 0.500" in report.format_table(tmp_path)
  with pytest.raises(ConfigError, match="no run of its fine-tuning is done yet"):
    report.load(encoder)


# --- the command line -----------------------------------------------------------------------------


def test_from_config_to_label(data, encoder, tmp_path, capsys, monkeypatch):
  """One config and two commands; the kept classifier says what its row of the records says."""
  monkeypatch.setattr(loop, "stop_on_signals", loop.Stop)
  tree = tree_of(
    data, encoder, methods=["lora"], data={"name": str(data), "num_dev": 16, "label_names": ["late", "early"]}
  )
  write_config(tmp_path / "c.py", tree)
  words = ["finetune", f"--config={tmp_path / 'c.py'}", f"--workdir={tmp_path / 'w'}"]
  code, out, _ = call(capsys, *words, "--config.optimizer.learning_rate.lora=0.02", "--config.max_steps=20")
  assert code == 0
  assert "report" in out
  test = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
  asked = [f"--text={row['text']}" for row in test]
  code, out, _ = call(capsys, "classify", f"--workdir={tmp_path / 'w'}", "--json", *asked)
  assert code == 0
  results = json.loads(out)["results"]
  right = [r["label"] == ["late", "early"][row["label"]] for r, row in zip(results, test, strict=True)]
  facts = json.loads((tmp_path / "w" / "classifier" / "classifier.json").read_text())
  (row,) = [
    r for r in rows_of(tmp_path / "w")
    if (r["seed"], r["split"], r["metric"]) == (facts["draw"], "test", "accuracy")
  ]  # fmt: skip
  assert np.mean(right) == pytest.approx(row["value"])
  assert all(sum(r["probabilities"].values()) == pytest.approx(1) for r in results)
  code, out, _ = call(capsys, "classify", f"--workdir={tmp_path / 'w'}", asked[0])
  first = results[0]
  assert code == 0
  assert out.startswith(f"{first['label']}  ({first['label']} {max(first['probabilities'].values()):.3f}, ")
  monkeypatch.setattr("sys.stdin", ["  abc \n", "\n", "xyz\n"])
  assert len(call(capsys, "classify", f"--workdir={tmp_path / 'w'}")[1].splitlines()) == 2
  monkeypatch.setattr("sys.stdin", [])
  assert_refused(*call(capsys, "classify", f"--workdir={tmp_path / 'w'}"), "--text=... must be given")
  assert_refused(*call(capsys, "classify", f"--workdir={encoder}", "--text=a"), "has no classifier")
  assert_refused(*call(capsys, "classify", f"--workdir={tmp_path / 'w'}", "--text= "), "is empty")


@pytest.mark.parametrize(
  ("words", "said"),
  [
    ("--config.shots=[0]", "config.shots=0: must be greater than 0"),
    ("--config.shots=[2,2]", "config.shots=[2, 2]: must be different values"),
    ("--config.shots=[64]", "config.shots=64: class '0' has 40 examples in train"),
    ("--config.methods=lroa", "config.methods='lroa': unknown; did you mean 'lora'?"),
    ("--config.lora.targets=qery", "config.lora.targets='qery': unknown; did you mean 'query'?"),
    ("--config.initial=trained", "config.initial='trained': must be one of pretrained, random"),
    ("--config.max_length=32", "config.max_length=32: must be at most the model's context_length=16"),
    ("--config.optimizer.learning_rate.full=0", "learning_rate.full=0.0: must be greater than 0"),
    ("--config.optimizer.warmup_steps=9", "must be between 0 and max_steps=8"),
    ("--config.data.name=/nowhere/mr", "nothing of this name in /nowhere"),
    ("--config.checkpoint=none", "config.pretraining.task.name='rule_induction': must be text"),
    (
      "--config.checkpoint=none --config.pretraining.model.num_heads=3",
      "config.pretraining.model.num_heads=3",
    ),
    ("--config.checkpoint=/nowhere", "config.checkpoint=/nowhere: no such folder"),
    ("--config.shot=[1]", "config.shot: no such field; did you mean 'shots'?"),
  ],
)
def test_bad_input_is_one_line(data, encoder, tmp_path, capsys, monkeypatch, words, said):
  monkeypatch.setattr(loop, "stop_on_signals", loop.Stop)
  write_config(tmp_path / "c.py", tree_of(data, encoder))
  line = ["finetune", f"--config={tmp_path / 'c.py'}", f"--workdir={tmp_path / 'w'}", *words.split()]
  assert_refused(*call(capsys, *line), said)
  assert not (tmp_path / "w" / "config.json").exists()


def test_the_config_file_is_valid_where_its_data_is_not():
  from lm_jax import config_file

  c = config_file.load_finetuning(str(ROOT / "configs" / "finetune" / "mr_cls.py"))
  assert c.data.label_names == ("negative", "positive")
  assert not c.pretraining.model.causal
