"""Corpora: all text of every kind of source, in order, in splits; errors that name the place."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

import lm_jax
from lm_jax.data import corpora, corpus_builder, corpus_files, python_stdlib
from lm_jax.strict import ConfigError

LONG = "".join(f"Line {i} of a book, é and 😀.\n" for i in range(9000))  # 290 kB


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
  path = tmp_path_factory.mktemp("cache")
  monkeypatch.setenv("LM_JAX_CACHE", str(path))
  return path


def texts_of(count: int) -> list[str]:
  return [f"Text {i}: é\n\n" * (i % 7 + 1) for i in range(count)]


def write(path: Path, content: str | bytes) -> Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content.encode() if isinstance(content, str) else content)
  return path


def write_rows(path: Path, texts: list[str], field: str = "text") -> Path:
  if path.suffix == ".parquet":
    pq.write_table(pa.table({field: texts, "n": list(range(len(texts)))}), path, row_group_size=11)
    return path
  return write(path, "".join(json.dumps({field: text, "n": i}) + "\n" for i, text in enumerate(texts)))


def contents(corpus: corpora.Corpus) -> dict[str, list[str]]:
  return {split: list(corpus.documents(split)) for split in corpus.sizes}


def open_path(path: Path, **kwargs) -> corpora.Corpus:
  return corpora.open_corpus(str(path), **kwargs)


# --- sources --------------------------------------------------------------------------------------


def test_a_folder_of_texts_is_its_files_in_order_of_their_paths(tmp_path):
  texts = texts_of(60)
  for i, text in enumerate(texts):
    write(tmp_path / f"{i % 3}" / f"{i:03d}{('.txt', '.md', '.py', '.TXT')[i % 4]}", text)
  write(tmp_path / "image.png", b"\0")
  write(tmp_path / ".git" / "notes.txt", "hidden")
  write(tmp_path / "README.md", "about the corpus")
  write(tmp_path / "0" / "empty.py", "")
  corpus = open_path(tmp_path)
  found = contents(corpus)
  in_order = [texts[i] for j in range(3) for i in range(j, 60, 3)]
  assert found["train"] == [text for text in in_order if text not in found["test"]]
  assert found["test"] == [text for text in in_order if text not in found["train"]]
  assert found["train"] and found["test"] and corpus.name == tmp_path.name
  for split, documents in found.items():
    assert corpus.sizes[split].num_documents == len(documents)
    assert corpus.sizes[split].num_bytes == len("".join(documents).encode())


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("field", ["text", "body"])
def test_rows_are_documents(tmp_path, suffix, field):
  texts = [*texts_of(50), LONG, ""]
  path = write_rows(tmp_path / f"rows{suffix}", texts, field)
  found = contents(open_path(path, text_field=field))
  assert [text for text in texts if text in found["train"]] == found["train"]
  assert [text for text in texts if text in found["test"]] == found["test"]
  assert sorted(found["train"] + found["test"]) == sorted(texts[:-1])


def test_a_book_comes_in_passages_and_loses_nothing(tmp_path):
  write(tmp_path / "train.txt", LONG)
  write(tmp_path / "test.txt", "x" * 200_000)  # not even a line to cut at
  corpus = open_path(tmp_path)
  passages = list(corpus.passages("train"))
  assert len(passages) == corpus.sizes["train"].num_passages > 3
  assert {passage.document for passage in passages} == {0}
  assert all(passage.text.endswith(".\n") and len(passage.text.encode()) <= 64 << 10 for passage in passages)
  assert list(corpus.texts("train")) == [passage.text for passage in passages]
  assert contents(corpus) == {"train": [LONG], "test": ["x" * 200_000]}


def test_of_few_documents_passages_are_held_out(tmp_path):
  corpus = open_path(write(tmp_path / "book.md", LONG))
  found = contents(corpus)
  lines = "".join(found["train"] + found["test"]).splitlines(True)
  assert sorted(lines) == sorted(LONG.splitlines(True))
  assert 0 < corpus.sizes["test"].num_bytes < 0.25 * len(LONG.encode())


def test_names_of_files_decide_splits(tmp_path):
  for name in ("train-00001.txt", "train-00000.txt", "test.txt", "valid.txt", "training.txt", "README.md"):
    write(tmp_path / name, f"content of {name}")
  assert contents(open_path(tmp_path)) == {
    "train": ["content of train-00000.txt", "content of train-00001.txt"],
    "test": ["content of test.txt"],
    "validation": ["content of valid.txt"],
  }


def test_sources_named_like_splits_are_only_sources(tmp_path):
  for i in range(40):
    write(tmp_path / f"test_{i}.py", f"print({i})\n")
  assert set(contents(open_path(tmp_path))) == {"train", "test"}


def test_a_split_that_is_not_there_is_missed_when_it_is_asked_for(tmp_path):
  write(tmp_path / "test.txt", "only to evaluate")
  write(tmp_path / "valid.txt", "on")
  corpus = open_path(tmp_path)
  assert list(corpus.documents("test")) == ["only to evaluate"]
  with pytest.raises(
    ConfigError, match=r"no text in split 'train'; it has test \(16 bytes\), validation \(2"
  ):
    corpus.passages("train")


def test_python_stdlib_is_the_files_and_splits_of_the_task_of_this_name():
  corpus = corpora.open_corpus("python_stdlib")
  for split, expected in python_stdlib.load().items():
    # A form feed stands between the files there, also about empty ones, which are no documents here.
    documents = "\f".join(corpus.documents(split)).encode()
    assert documents.replace(b"\f", b"") == expected.tobytes().replace(b"\f", b"")


def test_a_name_is_a_folder_of_shared_corpora(shared, monkeypatch, tmp_path):
  corpus = corpora.open_corpus("tinyshakespeare")
  text = (shared / "data/corpora/tinyshakespeare/input.txt").read_text()
  found = contents(corpus)
  assert corpus.name == "tinyshakespeare"
  assert sum(map(len, found["train"] + found["test"])) == len(text)
  assert all(document in text for document in found["train"] + found["test"])
  assert 0.02 < corpus.sizes["test"].num_bytes / len(text) < 0.12
  monkeypatch.setenv("LM_JAX_SHARED", str(tmp_path))
  write(tmp_path / "data" / "corpora" / "tinyshakespeare" / "a.txt", "".join(map(str, range(99))))
  assert corpora.open_corpus("tinyshakespeare").sizes["train"].num_bytes < 300


# --- digest and cache -----------------------------------------------------------------------------


def _folder(path: Path, count: int = 30) -> Path:
  for i, text in enumerate(texts_of(count)):
    write(path / f"{i:03d}.txt", text)
  return path


def test_the_digest_is_of_content_and_neither_of_path_nor_time(tmp_path):
  first = open_path(_folder(tmp_path / "a"))
  moved = _folder(tmp_path / "elsewhere" / "b")
  os.utime(moved / "003.txt", (1, 1))
  (moved / "003.txt").rename(moved / "003.md")
  assert open_path(moved).digest == first.digest
  as_rows = open_path(write_rows(tmp_path / "c.jsonl", texts_of(30)))
  assert as_rows.digest == first.digest
  write(moved / "003.md", texts_of(30)[3].replace("T", "t", 1))
  assert open_path(moved).digest != first.digest
  assert open_path(_folder(tmp_path / "a", 31)).digest != first.digest


def test_the_digest_tells_splits_and_documents_apart(tmp_path):
  digests = set()
  for i, names in enumerate((("train", "test"), ("test", "train"), ("train_a", "train_b", "test"))):
    for name, text in zip(names, ("ab", "c", "c"), strict=False):
      write(tmp_path / f"{i}" / f"{name}.txt", text)
    digests.add(open_path(tmp_path / f"{i}").digest)
  write(tmp_path / "3" / "train_a.txt", "a")
  write(tmp_path / "3" / "train_b.txt", "b")
  write(tmp_path / "3" / "test.txt", "c")
  digests.add(open_path(tmp_path / "3").digest)
  assert len(digests) == 4


def test_what_was_read_once_is_not_read_again(tmp_path, monkeypatch):
  corpus = open_path(_folder(tmp_path / "a"))
  expected = contents(corpus)

  def refuse(*_):
    raise AssertionError("read again")

  monkeypatch.setattr(corpus_files, "documents", refuse)
  again = open_path(tmp_path / "a")
  assert (again.digest, again.sizes) == (corpus.digest, corpus.sizes)
  assert contents(again) == expected


def test_files_that_change_are_read_again(tmp_path):
  path = write_rows(tmp_path / "a.jsonl", texts_of(30))
  before = open_path(path)
  assert contents(before)["train"]
  write_rows(path, texts_of(31))
  after = open_path(path)
  assert after.digest != before.digest
  found = contents(after)
  assert sorted(found["train"] + found["test"]) == sorted(texts_of(31))


def test_files_that_change_between_opening_and_reading_leave_no_dataset(tmp_path, cache):
  path = write_rows(tmp_path / "a.jsonl", texts_of(30))
  corpus = open_path(path)
  write_rows(path, [text.replace("T", "t") for text in texts_of(30)])
  with pytest.raises(ConfigError, match="changed while they were read"):
    list(corpus.documents("train"))
  assert not list(cache.rglob("*.array_record*"))


# --- the dataset ----------------------------------------------------------------------------------


def test_anybodys_tfds_reads_it(tmp_path, cache, capfd):
  corpus = open_path(_folder(tmp_path / "My corpus"))
  expected = contents(corpus)
  assert capfd.readouterr() == ("", "")
  path = cache / "corpora" / f"my_corpus_{corpus.digest}" / "1.0.0"
  for split, documents in expected.items():
    rows = list(tfds.builder_from_directory(path).as_data_source(split=split))
    assert [row["text"].decode() for row in rows] == documents
    assert [row["document"] for row in rows] == list(range(len(documents)))
  left = {file.name for file in path.parent.iterdir()}
  assert left == {"1.0.0", ".lock"}


def test_many_shards_keep_the_order(tmp_path, cache, monkeypatch):
  monkeypatch.setattr(corpus_builder, "SHARD_BYTES", 100_000)
  path = write_rows(tmp_path / "a.jsonl", [*texts_of(200), LONG, *texts_of(10)])
  monkeypatch.setattr(corpus_files, "splits", lambda files: dict.fromkeys(files, "train"))
  found = list(open_path(path).documents("train"))
  assert found == [*texts_of(200), LONG, *texts_of(10)]
  assert len(list(cache.rglob("*.array_record*"))) == 3


def test_neither_tensorflow_nor_jax_is_imported(tmp_path):
  program = (
    "import sys\n"
    "from lm_jax.data import corpora\n"
    "corpus = corpora.open_corpus(sys.argv[1])\n"
    "print(sorted({'tensorflow_datasets', 'tensorflow', 'jax'} & set(sys.modules)))\n"
    "list(corpus.documents('train'))\n"
    "print(sorted({'tensorflow', 'jax'} & set(sys.modules)))\n"
  )
  words = [sys.executable, "-W", "error", "-c", program, str(_folder(tmp_path / "a"))]
  run = subprocess.run(words, cwd=Path(lm_jax.__file__).parents[1], capture_output=True, text=True)
  assert (run.stdout, run.stderr) == ("[]\n[]\n", "")


# --- errors ---------------------------------------------------------------------------------------


def _fail(path, **kwargs) -> str:
  with pytest.raises(ConfigError) as caught:
    open_path(path, **kwargs)
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize(
  "name, content, expected",
  [
    ("a.txt", "", "has no text"),
    ("a.txt", b"text\0more", "a.txt: byte 4 is 0"),
    ("a.txt", b"x" * (3 << 20) + b"\0", f"a.txt: byte {3 << 20} is 0"),
    ("a.txt", "é".encode() * 200_000 + b"\xff", "a.txt: byte 400000 is not UTF-8"),
    ("a.md", "é".encode("latin-1"), "a.md: byte 0 is not UTF-8"),
    ("a.txt", b"\x80" * 200_000, "a.txt: byte 0 is not UTF-8"),
    ("a.csv", "a,b", "a.csv: must be a folder, or a file of .txt, .md, .py, .jsonl or .parquet"),
    ("a.jsonl", '{"text": "a"}\n\n{"text": "b"\n', "a.jsonl:3: not JSON"),
    ("a.jsonl", '{"text": "a"}\n{"txt": "b", "n": 1}\n', "a.jsonl:2: no field 'text' (text_field); did you"),
    ("a.jsonl", '{"body": "b", "n": 1}\n', "a.jsonl:1: no field 'text' (text_field); allowed: body, n"),
    ("a.jsonl", '["text"]\n', "a.jsonl:1: must be a JSON object, not list"),
    ("a.jsonl", '{"text": 3}\n', "a.jsonl:1: text: must be text, not int"),
    ("a.jsonl", '{"text": null}\n', "a.jsonl:1: text: must be text, not NoneType"),
    ("a.jsonl", '{"text": "a\\ud800"}\n', "a.jsonl:1: text: character 1 is half of a surrogate pair"),
    ("a.jsonl", b'{"text": "\xe9"}\n', "a.jsonl:1: byte 10 of the line is not UTF-8"),
    ("a.jsonl", "[" * 100_000, "a.jsonl:1: not JSON"),
    ("a.parquet", "no parquet at all", "a.parquet: not a Parquet file"),
    ("a.parquet", "", "a.parquet: not a Parquet file"),
  ],
)  # fmt: skip
def test_files_that_are_no_text_are_refused_in_one_line(tmp_path, cache, name, content, expected):
  assert expected in _fail(write(tmp_path / name, content))
  assert not [file for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock"]


def test_columns_that_are_no_text_are_refused(tmp_path):
  path = write_rows(tmp_path / "a.parquet", texts_of(3), "body")
  assert "a.parquet: no field 'text' (text_field); allowed: body, n" in _fail(path)
  assert "a.parquet: row 1: n: must be text, not int" in _fail(path, text_field="n")


def test_folders_without_text_are_refused(tmp_path):
  write(tmp_path / "a" / "image.png", b"\0")
  write(tmp_path / "a" / "README.md", "about it")
  assert "a: holds no file of .txt" in _fail(tmp_path / "a")
  write(tmp_path / "b" / "a.txt", "")
  write(tmp_path / "b" / "b.txt", "")
  assert "has no text" in _fail(tmp_path / "b")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
  write(tmp_path / "a" / "a.txt", "text")
  (tmp_path / "a" / "b.txt").symlink_to(tmp_path / "nowhere")
  assert "b.txt: cannot be read: No such file" in _fail(tmp_path / "a")


def test_a_file_that_goes_away_or_fails_is_named(tmp_path, monkeypatch):
  write(tmp_path / "a" / "a.txt", "text")
  write(tmp_path / "a" / "b.jsonl", "{}")

  open_file = Path.open

  def fail(self, mode="r"):
    if mode == "rb":
      raise PermissionError(13, "Permission denied", str(self))
    return open_file(self, mode)

  monkeypatch.setattr(Path, "open", fail)
  assert "a.txt: cannot be read: Permission denied" in _fail(tmp_path / "a")
  (tmp_path / "a" / "a.txt").unlink()
  assert "b.jsonl: cannot be read: Permission denied" in _fail(tmp_path / "a")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
  write(tmp_path / "a" / "a.txt", "text")
  write(tmp_path / "a" / "b" / "b.txt", "text")
  scan = os.scandir

  def fail(path):
    if os.fspath(path).endswith("b"):
      raise PermissionError(13, "Permission denied", path)
    return scan(path)

  monkeypatch.setattr(os, "scandir", fail)
  assert "a/b: cannot be read: Permission denied" in _fail(tmp_path / "a")


def test_one_passage_leaves_nothing_to_test_on(tmp_path):
  corpus = open_path(write(tmp_path / "a.txt", "short"))
  with pytest.raises(
    ConfigError, match=r"corpus='a.txt': has no text in split 'test'; it has train \(5 bytes\)"
  ):
    corpus.require_splits("train", "test")


@pytest.mark.parametrize(
  "name, expected",
  [
    ("clasics", "did you mean 'classics'"),
    ("pythonstdlib", "'python_stdlib'"),
    ("", "not found"),
    ("x" * 5000, "not found"),
  ],
)
def test_unknown_names_are_told_what_is_near(tmp_path, monkeypatch, name, expected):
  monkeypatch.setenv("LM_JAX_SHARED", str(tmp_path))
  write(tmp_path / "data" / "corpora" / "classics" / "a.txt", "x")
  message = _fail_name(name)
  assert f"corpus={name!r}: not found; must be a file or folder of .txt" in message and expected in message
  assert "did you mean 'classics'" in _fail_name(str(tmp_path / "data" / "corpora" / "clasics"))


def _fail_name(name: str) -> str:
  with pytest.raises(ConfigError) as caught:
    corpora.open_corpus(name)
  assert "\n" not in str(caught.value)
  return str(caught.value)


def test_leftovers_of_killed_writers_are_removed(tmp_path, cache):
  corpus = open_path(_folder(tmp_path / "a"))
  left = cache / "corpora" / f"a_{corpus.digest}" / "incomplete.XYZ_1.0.0"
  left.mkdir(parents=True)
  write(left / "half", "x")
  assert contents(corpus)["train"] and not left.exists()
  shutil.rmtree(tmp_path / "a")
