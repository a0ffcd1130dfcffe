"""Conversion between formats, and models of others in the place of runs."""

import json
from pathlib import Path

import jax
import letters
import numpy as np
import pytest
from foreign import CASES, save, transformers
from letters import DECODER, tree_of, tuning_of

from lm_jax import config as configs
from lm_jax import interop, loop
from lm_jax.data.classifier_inputs import Encoder
from lm_jax.finetune import Group
from lm_jax.interop import huggingface
from lm_jax.strict import ConfigError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)]


@pytest.fixture
def bert(tmp_path) -> Path:
  """Returns a BERT of transformers, with a vocabulary of letters."""
  folder = save(CASES["bert"].build(), tmp_path / "bert")
  (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
  return folder


def same(one, other) -> None:
  jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
  assert one.model == other.model


def test_there_and_back_by_way_of_both_formats(bert, tmp_path):
  count = f"{CASES['bert'].build().num_parameters():,} parameters in float32, a tokenizer of 57"
  line = interop.convert(bert, tmp_path / "ours", "lm_jax", quiet=True)
  assert line == f"{tmp_path / 'ours'}: lm_jax model, {count}"
  line = interop.convert(tmp_path / "ours", tmp_path / "theirs", quiet=True)
  assert line == f"{tmp_path / 'theirs'}: BertModel, {count}"
  first, second, third = (interop.load(path) for path in (bert, tmp_path / "ours", tmp_path / "theirs"))
  same(first, second)
  same(first, third)
  assert first.specials == second.specials == third.specials
  assert second.family == "bert"
  opened = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
  assert opened("abc zx")["input_ids"] == [2, *first.tokenizer.encode("abc zx"), 3]


def test_a_trained_run_is_converted(tmp_path, capsys):
  loop.train(configs.from_mapping(DECODER), tmp_path / "run")
  assert "GPT2LMHeadModel" in interop.convert(tmp_path / "run", tmp_path / "out")
  assert capsys.readouterr().err.endswith(f"reading {tmp_path / 'run'}\n")
  same(interop.load(tmp_path / "out"), interop.load(tmp_path / "run"))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"to": "hugging_face"}, r"--to='hugging_face': unknown; did you mean 'huggingface'\?"),
    ({"target": "full"}, "--target=.*full: is a folder that is not empty"),
    ({"target": "full/file"}, "--target=.*file: is a file"),
    ({"source": "brt"}, r"--source=.*brt: no such file or folder; did you mean 'bert'\?"),
    ({"source": "full"}, "--source=.*full: is no model"),
  ],
)
def test_bad_input_is_one_line(bert, tmp_path, change, message):
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "file").write_text("")
  given = {"source": "bert", "target": "out", "to": "huggingface"} | change
  with pytest.raises(ConfigError, match=message) as error:
    interop.convert(tmp_path / given["source"], tmp_path / given["target"], given["to"], quiet=True)
  assert "\n" not in str(error.value)
  assert not (tmp_path / "out").exists()


def test_a_failed_export_leaves_nothing(bert, tmp_path, monkeypatch):
  def broken(*_) -> None:
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(huggingface.tensor_files, "save", broken)
  with pytest.raises(ConfigError, match=r"cannot be written \(No space left on device\)"):
    interop.convert(bert, tmp_path / "out", quiet=True)
  assert [path.name for path in tmp_path.iterdir()] == ["bert"]


# --- fine-tuning --------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path) -> Path:
  (tmp_path / "data").mkdir()
  return letters.write_data(tmp_path / "data")


def test_an_imported_encoder_is_fine_tuned(bert, data):
  imported = interop.load(bert).params["pooler"]["kernel"]
  control = tuning_of(tree_of(data, bert, initial="random"))
  assert np.any(np.asarray(control.base["pooler"]["kernel"]) != imported)
  tuning = tuning_of(tree_of(data, bert, initial="pretrained"))
  np.testing.assert_array_equal(tuning.base["pooler"]["kernel"], imported)
  result = tuning.train(Group("head", 2, (0,)))
  assert np.isfinite(np.asarray(result.nll)).all()
  assert np.any(np.asarray(result.trained["pooler"]["kernel"])[0] != imported)


def test_a_decoder_begins_with_its_bos(tmp_path, data):
  model = CASES["llama"].build()
  folder = save(model, tmp_path / "llama")
  (folder / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate(LETTERS)}))
  (folder / "merges.txt").write_text("")
  (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True}))
  tuning = tuning_of(tree_of(data, folder))
  assert tuning.pretrained.begin == (1,)
  assert tuning.encoder.sequences(["abc"]) == [[1, 0, 1, 2]]
  assert tuning.facts["model"]["begin"] == [1]
  assert Encoder(tuning.pretrained.tokenizer, {}, True, 3, (1,)).sequences(["abc"]) == [[1, 0, 1]]


def test_what_fine_tuning_lacks_is_said(tmp_path, data):
  folder = save(CASES["bert"].build(), tmp_path / "bert")
  with pytest.raises(ConfigError, match=r"config\.checkpoint: the model has no tokenizer"):
    tuning_of(tree_of(data, folder))
  (folder / "vocab.txt").write_text("\n".join(w for w in WORDS if w != "[SEP]") + "\n")
  with pytest.raises(ConfigError, match="no special token 'sep', which an encoder reads"):
    tuning_of(tree_of(data, folder))
