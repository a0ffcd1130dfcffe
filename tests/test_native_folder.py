"""lm_jax's own model folder: what is written is read, bit by bit, and a run's model passes through it."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from letters import ENCODER, save_run

from lm_jax import interop, param_paths, pretrained
from lm_jax.interop import native
from lm_jax.model import Transformer
from lm_jax.strict import ConfigError


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pretrained.Pretrained:
  tree = ENCODER | {"model": ENCODER["model"] | {"num_layers": 2, "scan_layers": True}}
  folder = save_run(tmp_path_factory.mktemp("runs") / "run", tree)
  return interop.load(folder, trained=False)


@pytest.fixture
def saved(run, tmp_path) -> Path:
  native.save(run, tmp_path / "saved")
  return tmp_path / "saved"


def test_what_is_saved_is_loaded(run, saved):
  loaded = interop.load(saved)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, run.params)
  for field in ("model", "specials", "begin", "chat_template", "family", "step"):
    assert getattr(loaded, field) == getattr(run, field), field
  assert loaded.tokenizer.digest == run.tokenizer.digest
  assert loaded.specials["mask"] >= 256


def test_identity_is_of_the_content(run, saved, tmp_path):
  native.save(run, tmp_path / "again")
  other = dataclasses.replace(run, params=jax.tree.map(lambda x: x + 1, run.params))
  native.save(other, tmp_path / "other")
  assert interop.load(saved).identity == interop.load(tmp_path / "again").identity
  assert interop.load(saved).identity != interop.load(tmp_path / "other").identity


def test_blocks_apart_are_the_same_model(run):
  apart = pretrained.unstacked(run)
  want = {path: x.shape for path, x in param_paths.flat(pretrained.shapes(apart.model)).items()}
  assert {path: x.shape for path, x in param_paths.flat(apart.params).items()} == want
  assert "block_1/mlp/up/kernel" in want
  tokens = jnp.arange(10, dtype=jnp.int32).reshape(1, 10)
  logits = [Transformer(p.model).apply({"params": p.params}, tokens) for p in (run, apart)]
  np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)


def test_nothing_is_overwritten_and_nothing_half_written(run, saved, tmp_path, monkeypatch):
  with pytest.raises(ConfigError, match="is a folder that is not empty"):
    native.save(run, saved)

  def broken(*_) -> None:
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(native.rundir, "write_json", broken)
  with pytest.raises(ConfigError, match=r"cannot be written.*No space left"):
    native.save(run, tmp_path / "new")
  assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_an_untrained_model_is_another_one(saved):
  loaded, control = interop.load(saved), interop.load(saved, trained=False)
  table = "embedding/table"
  assert np.any(param_paths.flat(loaded.params)[table] != param_paths.flat(control.params)[table])
  assert control.identity != loaded.identity


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"format": 2}, "is not of format 1"),
    ({"model": {"d_modle": 3}}, "did you mean 'd_model'"),
    ({"model": None}, "must be a group of fields"),
    ({"specials": {"cls": "x"}}, "model.json: specials.cls='x': must be an integer"),
    ({"begin": 3}, "must be a list of an integer"),
    ({"tokenizer": None}, "is not the one that the model was saved with"),
  ],
)
def test_a_broken_folder_is_one_line(saved, change, message):
  path = saved / native.FILE
  facts = json.loads(path.read_text()) | change
  path.write_text(json.dumps(facts))
  if change == {"tokenizer": None}:
    facts["tokenizer"] = "0" * 16
    path.write_text(json.dumps(facts))
  with pytest.raises(ConfigError, match=message) as error:
    interop.load(saved)
  assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_are_listed(saved):
  path = saved / native.FILE
  facts = json.loads(path.read_text())
  facts["model"]["d_ff"] = 7
  path.write_text(json.dumps(facts))
  with pytest.raises(ConfigError, match=r"blocks/mlp/down/kernel is \[2, 128, 32\], not \[2, 7, 32\]"):
    interop.load(saved)
