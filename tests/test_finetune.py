"""Fine-tuning one classifier: what is trained, that test chooses nothing, and what a checkpoint must have."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import letters
import numpy as np
import pytest
import scipy.special
from letters import DECODER, ENCODER, save_run, tree_of, tuning_of

from lm_jax import checkpoint, config, finetune, finetune_config, interop, loop, param_paths, state
from lm_jax import finetune_programs as programs
from lm_jax.data.classifier_inputs import Encoder
from lm_jax.finetune import Finetuning, Group
from lm_jax.model import Classifier
from lm_jax.strict import ConfigError
from lm_jax.tokenizers import Bytes

METHODS = tuple(finetune_config.METHODS)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
  return letters.write_data(tmp_path_factory.mktemp("letters"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
  return save_run(tmp_path_factory.mktemp("runs") / "encoder", ENCODER)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory, cache) -> Path:
  """Returns a run of a few steps."""
  folder = tmp_path_factory.mktemp("runs") / "decoder"
  loop.train(config.from_mapping(DECODER), folder)
  return folder


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
  after = param_paths.flat(tuning.programs(method).assemble(one(result.trained, 1)))
  trunk = {path for path in param_paths.flat(before) if path in after and not path.startswith(programs.HEAD)}
  changed = {path for path in trunk if np.any(after[path] != param_paths.flat(before)[path])}
  assert len(trunk) > 10
  if method == "head":
    assert not changed
  elif method == "lora":
    assert changed == {f"block_0/attention/{name}/kernel" for name in ("query", "value")}
    for path in changed:
      change = np.asarray(after[path], np.float64) - np.asarray(param_paths.flat(before)[path], np.float64)
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
  params = tuning.programs("full").assemble(one(tuning.train(Group("full", 2, (0, 1))).trained, 0))
  assert {p: x.shape for p, x in param_paths.flat(params).items()} == {
    p: x.shape for p, x in param_paths.flat(whole).items()
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


@pytest.mark.parametrize("method", ["lora"])
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
  update = jax.jit(functools.partial(program.update, tuning.base, tuning.pool))
  expected = [by_hand(tuning, program, update, draw, patience) for draw in draws]
  assert result.step.tolist() == [step for _, step, _ in expected]
  np.testing.assert_allclose(result.accuracy, [accuracy for _, _, (accuracy, _) in expected])
  np.testing.assert_allclose(-result.nll, [rank for _, _, (_, rank) in expected], rtol=1e-4)
  for i, (trained, _, _) in enumerate(expected):
    # Adam divides small gradients by their size, and so makes their last bits large.
    close = lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=2e-3)  # noqa: E731
    jax.tree.map(close, one(result.trained, i), trained)


def by_hand(tuning: Finetuning, program: programs.Programs, update, draw: programs.Draw, patience: int):
  """Returns (trained, step, (accuracy, -nll)) of the best look, by a plain loop."""
  trained = jax.jit(program.start)(tuning.base, draw.key)
  carry = trained, program.optimizer_at(0).init(trained)
  best, without, step = (None, 0, (-1.0, -np.inf)), 0, 0
  while step < tuning.c.max_steps and without < patience:
    carry = update(draw, step, carry)
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
  rates = {"optimizer": {"learning_rate": {"head": 1e38}, "warmup_steps": 0, "clip_norm": None}}
  tuning = tuning_of(tree_of(data, encoder, **rates))
  with pytest.raises(finetune.Diverged, match=r"head, k=2, draw 0: .*config.optimizer.learning_rate.head"):
    tuning.train(Group("head", 2, (0,)))


# --- what a model reads ---------------------------------------------------------------------------


@pytest.mark.parametrize("tree", [ENCODER, DECODER])
def test_padding_changes_nothing(tree):
  model = config.from_mapping(tree).model
  specials = {"cls": 256, "sep": 257} if not model.causal else {}
  params = jax.jit(lambda key: programs.init_params(model, 3, key))(np.array([0, 7], np.uint32))
  apply = jax.jit(functools.partial(programs.apply, model, 3))
  logits = []
  for length in (8, 16):
    encoder = Encoder(Bytes(), specials, model.causal, length)
    inputs = encoder.inputs(encoder.sequences(["abc", "hello!"]))
    assert inputs.tokens.shape == (2, length)
    logits.append(apply(params, inputs.tokens, inputs.lengths))
  np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-6)
  assert np.abs(logits[0][0] - logits[0][1]).max() > 1e-3


def test_what_is_read_of_a_long_text():
  assert Encoder(Bytes(), {"cls": 256, "sep": 257}, False, 5).sequences(["abcdef", "a"]) == [
    [256, 97, 98, 99, 257], [256, 97, 257]
  ]  # fmt: skip
  assert Encoder(Bytes(), {}, True, 5).sequences(["abcdef"]) == [[97, 98, 99, 100, 101]]


# --- checkpoints ----------------------------------------------------------------------------------


def test_parameters_come_from_the_checkpoint(decoder, data):
  model = interop.load(decoder)
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
  untrained = interop.load(decoder, trained=False)
  jax.tree.map(np.testing.assert_array_equal, untrained.params, like.params)


def test_what_does_not_fit_is_listed_in_one_line(decoder, encoder, tmp_path):
  other = save_run(
    tmp_path / "other", DECODER | {"model": DECODER["model"] | {"d_model": 8, "positions": "rope"}}
  )
  (other / "checkpoints").symlink_to(decoder / "checkpoints")
  with pytest.raises(ConfigError) as error:
    interop.load(other)
  for part in (
    "step 4 does not fit",
    "positions is not the model's",
    "block_0/attention/key/kernel is [16, 16], not [8, 8]",
    "and 10 more",
  ):
    assert part in str(error.value)
  assert "\n" not in str(error.value)
  with pytest.raises(ConfigError, match="has no checkpoint yet"):
    interop.load(encoder)
  with pytest.raises(ConfigError, match="did you mean 'encoder'"):
    interop.load(encoder.parent / "encodre")
  with pytest.raises(ConfigError, match=r"it has no config\.json"):
    interop.load(tmp_path)
  with pytest.raises(ConfigError, match="its task 'markov_chain' is not text"):
    interop.load(save_run(tmp_path / "chain", {"task": {"name": "markov_chain"}}), trained=False)


def test_a_tokenizer_of_another_size_is_refused(tmp_path):
  task = ENCODER["task"] | {"tokenizer": {"kind": "wordpiece", "vocab_size": 600}}
  run = save_run(tmp_path / "run", ENCODER | {"task": task})
  with pytest.raises(ConfigError, match="has no folder tokenizer/"):
    interop.load(run, trained=False)
  Bytes().save(run / "tokenizer")
  with pytest.raises(ConfigError, match="its tokenizer has vocab_size 256, but the model's was 600"):
    interop.load(run, trained=False)
