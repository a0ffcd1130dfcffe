"""Corpora that are TFDS datasets by name: prepared ones, ones to prepare, mocked ones, and none."""

import json
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lm_jax.data import corpora
from lm_jax.strict import ConfigError

TEXTS = [f"Text {i} of a dataset, é.\n" * (i % 5 + 1) for i in range(600)]


class LmJaxToyProse(tfds.core.GeneratorBasedBuilder):
  """Registered under its name, like the builders that come with TFDS."""

  VERSION = tfds.core.Version("1.2.0")
  SPLITS: ClassVar = {"train": (0, 40), "validation": (40, 50), "test": (50, 60), "unlabeled": (60, 70)}

  def _info(self):
    features = {
      "text": tfds.features.Text(),
      "note": tfds.features.Text(),
      "n": tfds.features.Scalar(np.int64),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(*part) for split, part in self.SPLITS.items()}

  def _generate_examples(self, first, end):
    for i in range(first, end):
      yield i, {"text": TEXTS[i], "note": f"note {i}", "n": i}


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
  """Gives TFDS, and us, folders of their own."""
  monkeypatch.setenv("LM_JAX_CACHE", str(tmp_path / "cache"))
  monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path / "tfds"))
  return tmp_path / "tfds"


def _fail(name, **kwargs) -> str:
  with pytest.raises(ConfigError) as caught:
    corpora.open_corpus(name, **kwargs)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_a_dataset_is_prepared_as_array_record_and_has_its_own_splits(data_dir, capfd):
  corpus = corpora.open_corpus("tfds:lm_jax_toy_prose")
  assert capfd.readouterr() == ("", "")
  assert corpus.name == "tfds:lm_jax_toy_prose"
  found = {split: list(corpus.documents(split)) for split in corpus.sizes}
  assert found == {"train": TEXTS[:40], "test": TEXTS[50:60], "validation": TEXTS[40:50]}
  assert list((data_dir / "lm_jax_toy_prose" / "1.2.0").glob("*train.array_record*"))


def test_validation_is_the_test_split_where_there_is_none(monkeypatch):
  monkeypatch.setattr(LmJaxToyProse, "SPLITS", {"train": (0, 40), "validation": (40, 50)})
  corpus = corpora.open_corpus("tfds:lm_jax_toy_prose")
  assert list(corpus.documents("test")) == TEXTS[40:50] and list(corpus.sizes) == ["train", "test"]


def test_without_a_test_split_documents_are_held_out(monkeypatch):
  monkeypatch.setattr(LmJaxToyProse, "SPLITS", {"train": (0, 600)})
  corpus = corpora.open_corpus("tfds:lm_jax_toy_prose")
  train, test = (list(corpus.documents(split)) for split in ("train", "test"))
  assert train == [text for text in TEXTS if text not in test]
  assert test == [text for text in TEXTS if text not in train] and 10 < len(test) < 60


def test_the_text_may_be_in_another_field_and_the_version_be_given():
  corpus = corpora.open_corpus("tfds:lm_jax_toy_prose:1.2.0", text_field="note")
  assert list(corpus.documents("train")) == [f"note {i}" for i in range(40)]


def test_what_was_read_once_is_not_read_again(monkeypatch):
  first = corpora.open_corpus("tfds:lm_jax_toy_prose")

  def refuse(*_):
    raise AssertionError("read again")

  monkeypatch.setattr("lm_jax.data.tfds_corpora.rows", refuse)
  again = corpora.open_corpus("tfds:lm_jax_toy_prose")
  assert (again.digest, again.sizes) == (first.digest, first.sizes)


def test_the_digest_is_that_of_the_same_text_in_files(tmp_path, monkeypatch):
  monkeypatch.setattr(LmJaxToyProse, "SPLITS", {"train": (0, 40), "test": (50, 60)})
  for name, part in (("train", slice(0, 40)), ("test", slice(50, 60))):
    rows = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS[part])
    (tmp_path / f"{name}.jsonl").write_text(rows)
  digests = {corpora.open_corpus(name).digest for name in ("tfds:lm_jax_toy_prose", str(tmp_path))}
  assert len(digests) == 1


def test_datasets_of_parquet_are_read_and_of_tfrecord_refused(data_dir):
  tfds.builder("lm_jax_toy_prose", file_format="parquet").download_and_prepare()
  corpus = corpora.open_corpus("tfds:lm_jax_toy_prose")
  assert list(corpus.documents("test")) == TEXTS[50:60]
  info = data_dir / "lm_jax_toy_prose" / "1.2.0" / "dataset_info.json"
  info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
  assert "is tfrecord: must be array_record or parquet" in _fail("tfds:lm_jax_toy_prose")


def test_mocked_data_is_read_like_prepared_data(capfd):
  def source(builder, split, **_):
    return [{"text": f"{builder.name} {split} {i}".encode()} for i in range(4)]

  with tfds.testing.mock_data(as_data_source_fn=source):
    corpus = corpora.open_corpus("tfds:tiny_shakespeare")
    assert list(corpus.documents("test")) == [f"tiny_shakespeare test {i}" for i in range(4)]
    assert list(corpus.documents("train")) == [f"tiny_shakespeare train {i}" for i in range(4)]


@pytest.mark.parametrize("name", ["lm1b", "wikipedia/20230601.en", "c4/en", "tiny_shakespeare"])
def test_the_large_ones_are_known(name, monkeypatch):
  def no_network(self, **_):
    raise ConnectionError(f"cannot reach\nthe host of {self.info.full_name}")

  monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", no_network)
  message = _fail(f"tfds:{name}")
  assert message.startswith(f"corpus='tfds:{name}': it is not prepared in ")
  assert f"preparing it failed: ConnectionError: cannot reach the host of {name}" in message


def test_a_builder_that_fails_leaves_nothing(data_dir, monkeypatch):
  def fail(self, dl_manager):
    raise ImportError("No module named 'tensorflow'")

  monkeypatch.setattr(LmJaxToyProse, "_split_generators", fail)
  assert "ImportError: No module named 'tensorflow'" in _fail("tfds:lm_jax_toy_prose")
  assert not [path for path in data_dir.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
  "name, kwargs, expected",
  [
    ("tfds:lm_jax_toy_pros", {}, "none is prepared; did you mean 'lm_jax_toy_prose'"),
    ("tfds:", {}, "must be tfds:NAME[/CONFIG][:VERSION]"),
    ("tfds:a b", {}, "must be tfds:NAME[/CONFIG][:VERSION]"),
    ("tfds:lm_jax_toy_prose:9.9.9", {}, "cannot be loaded at version 9.9.9, only: 1.2.0"),
    ("tfds:lm_jax_toy_prose/small", {}, "small"),
    ("tfds:lm_jax_toy_prose", {"text_field": "txt"}, "no field 'txt' (text_field); did you mean 'text'"),
    ("tfds:lm_jax_toy_prose", {"text_field": "n"}, "train[0]: n: must be text, not int"),
  ],
)  # fmt: skip
def test_errors_are_one_line(name, kwargs, expected):
  message = _fail(name, **kwargs)
  assert message.startswith(f"corpus={name!r}: ") and expected in message
