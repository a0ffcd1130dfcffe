"""Labeled data: what is drawn is balanced, nested a function of the texts; errors name their line."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax.data import labelled
from lm_jax.data.labelled import Split
from lm_jax.finetune_config import DataConfig, from_mapping
from lm_jax.strict import ConfigError

SPLITS = ("train", "valid", "test")


def split_of(counts: list[int], first: str = "") -> Split:
  labels = np.concatenate([np.full(n, label, np.int32) for label, n in enumerate(counts)])
  return Split(tuple(f"{first}text {i}" for i in range(len(labels))), labels)


def names(counts: list[int]) -> tuple[str, ...]:
  return tuple(f"class {i}" for i in range(len(counts)))


# --- draws ----------------------------------------------------------------------------------------

some_counts = st.lists(st.integers(4, 20), min_size=2, max_size=4)


@settings(deadline=None, max_examples=50)
@given(counts=some_counts, seed=st.integers(0, 1000))
def test_draws_are_balanced_and_nested(counts, seed):
  split = split_of(counts)
  before = np.zeros(0, np.int64)
  for k in (1, 2, 4):
    rows = labelled.draw(split, names(counts), k, seed)
    assert len(set(rows.tolist())) == k * len(counts)
    assert np.bincount(split.labels[rows]).tolist() == [k] * len(counts)
    np.testing.assert_array_equal(rows[: len(before)], before)
    before = rows


@settings(deadline=None, max_examples=50)
@given(counts=some_counts, seed=st.integers(0, 1000), data=st.data())
def test_draws_do_not_depend_on_the_order_of_rows(counts, seed, data):
  split = split_of(counts)
  shuffled = split.take(np.array(data.draw(st.permutations(range(len(split))))))
  for pick in (
    lambda s: s.take(labelled.draw(s, names(counts), 3, seed)).texts,
    lambda s: s.take(labelled.sample(s, 5, "test")).texts,
  ):
    assert pick(split) == pick(shuffled)


def test_every_example_is_drawn_by_some_seed_about_as_often():
  split = split_of([10, 10])
  drawn = np.concatenate([labelled.draw(split, names([1, 1]), 2, seed) for seed in range(500)])
  # Binomial of 500 draws at 1/5: 100, standard deviation 9.
  counts = np.bincount(drawn, minlength=20)
  assert counts.min() > 60
  assert counts.max() < 140


def test_too_many_shots_name_the_class():
  with pytest.raises(ConfigError, match=r"config.shots=8: class 'class 1' has 5 examples in train"):
    labelled.draw(split_of([9, 5]), names([9, 5]), 8, 0)


def test_samples_are_nested_and_at_most_all():
  split = split_of([20])
  all_rows = labelled.sample(split, None, "test")
  assert sorted(all_rows.tolist()) == list(range(20))
  np.testing.assert_array_equal(labelled.sample(split, 7, "test"), all_rows[:7])
  assert len(labelled.sample(split, 100, "test")) == 20


# --- files ----------------------------------------------------------------------------------------


def write(folder: Path, rows_of: dict[str, list[dict]] | None = None, **more: bytes) -> DataConfig:
  """Writes a data set of two classes, with files replaced by `more` (train=..., the content)."""
  folder.mkdir(exist_ok=True)
  for split in SPLITS:
    rows = (rows_of or {}).get(split) or [{"text": f"{split} {i}", "label": i % 2} for i in range(6)]
    content = more.get(split) or "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / f"{split}.jsonl").write_bytes(content)
  return DataConfig(name=str(folder))


def test_numbers_are_ordered_by_size_and_words_by_the_alphabet(tmp_path):
  for labels, expected in (
    ([10, -1, 2], ("-1", "2", "10")),
    (["no", "YES", "maybe"], ("YES", "maybe", "no")),
  ):
    rows = [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)]
    train_only = {"train": rows} | {s: [{"text": s, "label": labels[0]}] for s in ("valid", "test")}
    data = labelled.read(write(tmp_path / str(labels[0]), train_only))
    assert data.classes == expected
    assert [data.classes[i] for i in data.train.labels] == list(map(str, labels))


def test_names_replace_labels(tmp_path):
  config = write(tmp_path / "d")
  named = DataConfig(name=config.name, label_names=("bad", "good"))
  assert labelled.read(named).classes == ("bad", "good")
  assert labelled.read(named).digest == labelled.read(config).digest


def test_tsv_with_and_without_header(tmp_path):
  body = "".join(f'{i}\tsome "text" {{}} {i}\t{i % 2}\r\n' for i in range(4))
  for name, head in (("with", "id\ttext\tlabel\n"), ("without", "")):
    (tmp_path / name).mkdir()
    for split in ("train", "dev", "test"):
      (tmp_path / name / f"{split}.tsv").write_text(head + body.format(*[split] * 4))
  with_header = labelled.read(DataConfig(name=str(tmp_path / "with")))
  columns = ("id", "text", "label")
  assert (
    labelled.read(DataConfig(name=str(tmp_path / "without"), columns=columns)).digest == with_header.digest
  )
  assert with_header.train.texts[1] == 'some "text" train 1'
  with pytest.raises(ConfigError, match=r"train.tsv line 1: names no column 'text'"):
    labelled.read(DataConfig(name=str(tmp_path / "without")))


def test_one_file_is_split_by_its_texts(tmp_path):
  rows = [{"text": f"text {i % 200}", "label": i % 2} for i in range(400)]
  path = tmp_path / "all.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  data = labelled.read(DataConfig(name=str(path)))
  sizes = [len(getattr(data, split)) for split in SPLITS]
  assert sum(sizes) == 400
  assert 240 < sizes[0] < 380
  assert min(sizes) > 0


def line(**fields) -> bytes:
  return json.dumps(fields).encode() + b"\n"


GOOD = line(text="a", label=0) + line(text="b", label=1)


@pytest.mark.parametrize(
  ("files", "said"),
  [
    ({"train": GOOD + line(text="c")}, "train.jsonl line 3: has no 'label'"),
    ({"train": GOOD + line(text="c", lable=1)}, "did you mean 'lable'?"),
    ({"train": GOOD + line(text="c", label=None)}, "train.jsonl line 3: has no 'label'"),
    ({"train": GOOD + line(text="c", label=1.5)}, "line 3: label is 1.5, must be a whole number or a word"),
    ({"train": GOOD + line(text="c", label=True)}, "line 3: label is True"),
    ({"train": GOOD + line(text=7, label=1)}, "line 3: text is 7, must be a string"),
    ({"train": GOOD + b"\n" + line(text=" \n", label=1)}, "train.jsonl line 4: text is empty"),
    ({"train": GOOD + b'{"text": "c", "la\n'}, "train.jsonl line 3: is not JSON"),
    ({"train": GOOD + b"[1]\n"}, "train.jsonl line 3: is list, must be an object"),
    ({"train": GOOD + b'{"text": "\xff", "label": 1}\n'}, "line 3: is not UTF-8 (byte 11 of the line)"),
    ({"test": line(text="z", label=2)}, "test.jsonl line 1: label '2' is not one of train (0, 1)"),
    ({"valid": b"\n"}, "no rows in valid"),
    ({"train": line(text="a", label=0)}, "has 1 label in train; must have 2 or more"),
    ({"test": GOOD, "train": GOOD}, "2 texts are in train and in test, e.g. 'a'"),
  ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(tmp_path, files, said):
  with pytest.raises(ConfigError) as error:
    labelled.read(write(tmp_path / "d", **files))
  assert said in str(error.value)
  assert "\n" not in str(error.value)


def test_missing_files_and_folders(tmp_path, monkeypatch):
  config = write(tmp_path / "reviews")
  (tmp_path / "reviews" / "test.jsonl").rename(tmp_path / "reviews" / "tset.jsonl")
  with pytest.raises(ConfigError, match=r"has no test split .*did you mean 'tset.jsonl'"):
    labelled.read(config)
  with pytest.raises(ConfigError, match=r"did you mean 'reviews'"):
    labelled.read(DataConfig(name=str(tmp_path / "review")))
  with pytest.raises(ConfigError, match=r"must name 2 labels \(0, 1\)"):
    labelled.read(DataConfig(name=write(tmp_path / "e").name, label_names=("x",)))
  known = tmp_path / "data" / "tasks" / "mr"
  known.parent.mkdir(parents=True)
  write(known)
  monkeypatch.setenv("LM_JAX_SHARED", str(tmp_path))
  monkeypatch.chdir(tmp_path)
  assert len(labelled.read(DataConfig(name="mr")).train) == 6
  with pytest.raises(
    ConfigError, match=r"config.data.name='mrr': nothing of this name in .*did you mean 'mr'"
  ):
    labelled.read(DataConfig(name="mrr"))
  monkeypatch.setenv("LM_JAX_SHARED", str(tmp_path / "nowhere"))
  with pytest.raises(ConfigError, match=r"is no folder; set LM_JAX_SHARED"):
    labelled.read(DataConfig(name="mr"))


# --- real data ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("name", "sizes", "classes"),
  [
    ("mr", (8530, 1066, 1066), ("negative", "positive")),
    ("subj", (8000, 1000, 1000), ("objective", "subjective")),
    ("cr", (1269, 150, 300), ("negative", "positive")),
    ("poem_sentiment", (892, 105, 104), ("negative", "no impact", "positive", "mixed")),
  ],
)
def test_known_data_sets(shared, monkeypatch, name, sizes, classes):
  if not (shared / "data" / "tasks" / name).is_dir():
    pytest.skip(f"no {name} in {shared}/data/tasks")
  monkeypatch.setenv("LM_JAX_SHARED", str(shared))
  data = labelled.read(from_mapping({"data": {"name": name}, "checkpoint": "x"}).data)
  assert data.classes == classes
  assert tuple(len(getattr(data, split)) for split in SPLITS) == sizes
  rows = labelled.draw(data.train, classes, 32, 0)
  assert np.bincount(data.train.labels[rows]).tolist() == [32] * len(classes)
