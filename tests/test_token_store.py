"""Token stores: every document of a corpus comes back from its tokens, whoever is killed or asks at once."""

import io
import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import lm_jax
from lm_jax import tokenizers
from lm_jax.data import corpora, progress, token_store
from lm_jax.strict import ConfigError
from lm_jax.text_config import TokenizerConfig

SEPARATOR = 256
TEXTS = [f"Text {i}: é\n\n" * (i % 7 + 1) for i in range(80)]
LONG = "".join(f"Line {i} of a book, é and 😀.\n" for i in range(9000))


class Bytes:
  """Has ids that are bytes, above an offset."""

  def __init__(self, offset: int = 0, vocab_size: int = 256):
    self.offset, self.vocab_size, self.digest = offset, vocab_size, f"bytes+{offset} of {vocab_size}"

  def encode_batch(self, texts):
    return [[byte + self.offset for byte in text.encode()] for text in texts]


class Refuses(Bytes):
  def encode_batch(self, texts):
    raise AssertionError("tokenized again")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
  path = tmp_path_factory.mktemp("cache")
  monkeypatch.setenv("LM_JAX_CACHE", str(path))
  return path


@pytest.fixture
def rows(tmp_path) -> Path:
  path = tmp_path / "rows.jsonl"
  path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, LONG]))
  return path


@pytest.fixture
def corpus(rows) -> corpora.Corpus:
  return corpora.open_corpus(str(rows))


def documents(store: token_store.TokenStore, offset: int = 0) -> list[str]:
  found = []
  for start, end in zip(store.starts[:-1], store.starts[1:], strict=True):
    ids = np.asarray(store.tokens[start:end], np.int64)
    assert ids[-1] == SEPARATOR
    found.append(bytes((ids[:-1] - offset).tolist()).decode())
  return found


def test_documents_come_back_in_order(corpus):
  stores = token_store.prepare(corpus, Bytes(), SEPARATOR)
  assert list(stores) == ["train", "test"]
  for split, store in stores.items():
    expected = list(corpus.documents(split))
    assert documents(store) == expected and store.num_documents == len(expected)
    assert isinstance(store.tokens, np.memmap) and store.tokens.dtype == np.uint16
    assert isinstance(store.starts, np.memmap) and store.starts.dtype == np.int64
    assert store.num_bytes == len("".join(expected).encode()) == len(store.tokens) - len(expected)
    assert store.starts[0] == 0 and store.starts[-1] == len(store.tokens)
  assert LONG in documents(stores["train"]) + documents(stores["test"])
  assert stores["train"].digest != stores["test"].digest


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_trained_tokenizer_gives_the_documents_back(corpus, kind):
  tokenizer = tokenizers.train(TokenizerConfig(kind=kind, vocab_size=600), corpus.texts("train"))
  for split, store in token_store.prepare(corpus, tokenizer, 600).items():
    parts = zip(store.starts[:-1], store.starts[1:], strict=True)
    assert [tokenizer.decode(store.tokens[start : end - 1]) for start, end in parts] == list(
      corpus.documents(split)
    )
    assert len(store.tokens) < 0.7 * store.num_bytes


@pytest.mark.parametrize("batch_bytes, batch_passages", [(1, 1), (1000, 4096), (1 << 30, 3)])
def test_batches_change_nothing(corpus, monkeypatch, batch_bytes, batch_passages):
  monkeypatch.setattr(token_store, "_BATCH_BYTES", batch_bytes)
  monkeypatch.setattr(token_store, "_BATCH_PASSAGES", batch_passages)
  stores = token_store.prepare(corpus, Bytes(), SEPARATOR)
  assert all(documents(store) == list(corpus.documents(split)) for split, store in stores.items())


@pytest.mark.parametrize(
  "tokenizer, separator, dtype",
  [
    (Bytes(vocab_size=1 << 16), SEPARATOR, np.uint16),
    (Bytes(offset=1 << 16, vocab_size=(1 << 16) + 256), SEPARATOR, np.uint32),
    (Bytes(), (1 << 16) - 1, np.uint16),
    (Bytes(), 1 << 16, np.uint32),
  ],
)
def test_ids_have_the_smallest_type_that_holds_them(corpus, tokenizer, separator, dtype):
  for split, store in token_store.prepare(corpus, tokenizer, separator).items():
    assert store.tokens.dtype == dtype and store.tokens[-1] == separator
    text = np.frombuffer("".join(corpus.documents(split)).encode(), np.uint8)
    ids = np.asarray(store.tokens, np.int64)
    np.testing.assert_array_equal(np.delete(ids, store.starts[1:] - 1) - tokenizer.offset, text)


def test_an_id_that_is_none_of_the_vocabulary_is_an_error(corpus, cache):
  with pytest.raises(OverflowError):
    token_store.prepare(corpus, Bytes(offset=1 << 16), SEPARATOR)
  assert not list(cache.rglob("tokens.npy"))


def test_the_cache_is_asked_by_content(corpus, rows, tmp_path):
  first = token_store.prepare(corpus, Bytes(), SEPARATOR)
  (tmp_path / "copy").mkdir()
  copy = corpora.open_corpus(str(rows.rename(tmp_path / "copy" / "rows.jsonl")))
  again = token_store.prepare(copy, Refuses(), SEPARATOR)
  assert {split: store.digest for split, store in again.items()} == {s: t.digest for s, t in first.items()}
  np.testing.assert_array_equal(again["train"].tokens, first["train"].tokens)
  for tokenizer, separator in ((Refuses(), SEPARATOR + 1), (Refuses(offset=1), SEPARATOR)):
    with pytest.raises(AssertionError, match="tokenized again"):
      token_store.prepare(copy, tokenizer, separator)


def test_tokens_that_are_there_need_no_tfds(corpus, rows):
  token_store.prepare(corpus, Bytes(), SEPARATOR)
  code = """
    prepare(Refuses())
    print(sorted({"tensorflow_datasets", "tensorflow", "jax"} & set(sys.modules)))
    """
  process = _start(code, rows, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
  assert process.communicate() == ("[]\n", "")


def test_a_split_may_be_asked_for_alone(tmp_path):
  (tmp_path / "test.txt").write_text("only to evaluate")
  (tmp_path / "valid.txt").write_text("on")
  corpus = corpora.open_corpus(str(tmp_path))
  assert documents(token_store.prepare(corpus, Bytes(), SEPARATOR, splits=("test",))["test"]) == [
    "only to evaluate"
  ]
  with pytest.raises(ConfigError, match="no text in split 'train'"):
    token_store.prepare(corpus, Bytes(), SEPARATOR)


# --- processes that are killed, fail, or ask at once --------------------------------------------------


def _start(code: str, rows: Path, **kwargs) -> subprocess.Popen:
  """Starts a Python process that runs `code`, with `prepare` (a tokenizer), `Bytes` and `Refuses` at hand."""
  preamble = f"""
    import os, signal, sys, time
    from pathlib import Path
    from lm_jax.data import corpora, corpus_files, token_store

    class Bytes:
      vocab_size, digest = 256, "bytes+0 of 256"
      def encode_batch(self, texts):
        return [list(text.encode()) for text in texts]

    class Refuses(Bytes):
      def encode_batch(self, texts):
        raise AssertionError("tokenized again")

    def prepare(tokenizer):
      return token_store.prepare(corpora.open_corpus({str(rows)!r}), tokenizer, {SEPARATOR})

    cache = Path(os.environ["LM_JAX_CACHE"])
    """
  source = textwrap.dedent(preamble) + textwrap.dedent(code)
  root = Path(lm_jax.__file__).parents[1]
  return subprocess.Popen([sys.executable, "-W", "error", "-c", source], cwd=root, text=True, **kwargs)


KILLS = {
  "while reading through": """
    documents = corpus_files.documents
    def dies(*args):
      for i, document in enumerate(documents(*args)):
        if i == 40:
          os.kill(os.getpid(), signal.SIGKILL)
        yield document
    corpus_files.documents = dies
    """,
  "while writing the dataset": """
    corpora.open_corpus(sys.argv[1])
    documents = corpus_files.documents
    def dies(*args):
      for i, document in enumerate(documents(*args)):
        if i == 40:
          os.kill(os.getpid(), signal.SIGKILL)
        yield document
    corpus_files.documents = dies
    """,
  "while tokenizing": """
    token_store._BATCH_PASSAGES = 10
    calls = []
    class Dies(Bytes):
      def encode_batch(self, texts):
        calls.append(texts)
        if len(calls) == 4:
          os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_batch(texts)
    Bytes = Dies
    """,
}


@pytest.mark.parametrize("when", KILLS)
def test_a_killed_preparation_is_never_half_used(rows, cache, when):
  code = textwrap.dedent(KILLS[when]).replace("sys.argv[1]", repr(str(rows))) + "\nprepare(Bytes())\n"
  process = _start(code, rows)
  assert process.wait() == -signal.SIGKILL
  assert bool(list(cache.rglob("incomplete.*"))) == (when != "while reading through")
  corpus = corpora.open_corpus(str(rows))
  stores = token_store.prepare(corpus, Bytes(), SEPARATOR)
  assert sorted(documents(stores["train"]) + documents(stores["test"])) == sorted([*TEXTS, LONG])
  assert all(documents(store) == list(corpus.documents(split)) for split, store in stores.items())
  assert not list(cache.rglob("incomplete.*"))


def test_an_interrupted_preparation_leaves_nothing(corpus, cache):
  class Interrupted(Bytes):
    def encode_batch(self, texts):
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    token_store.prepare(corpus, Interrupted(), SEPARATOR)
  assert not list(cache.rglob("tokens.npy"))
  assert len(token_store.prepare(corpus, Bytes(), SEPARATOR)) == 2


def test_of_two_processes_at_once_one_prepares_and_both_read(rows, cache):
  code = """
    class Slow(Bytes):
      def encode_batch(self, texts):
        with (cache / "calls").open("a") as file:
          file.write("x")
        time.sleep(0.5)  # long enough for the other to find no tokens
        return super().encode_batch(texts)

    (cache / f"{os.getpid()}.here").touch()
    while len(list(cache.glob("*.here"))) < 2:
      time.sleep(0.01)
    stores = prepare(Slow())
    print([(len(store.tokens), int(store.tokens[:].astype(int).sum())) for store in stores.values()])
    """
  processes = [_start(code, rows, stdout=subprocess.PIPE) for _ in range(2)]
  first, second = (process.communicate(timeout=60)[0] for process in processes)
  assert first == second and first.startswith("[(")
  assert (cache / "calls").read_text() == "xx"  # a batch for each split
  assert all(process.returncode == 0 for process in processes)


# --- files and progress -------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [[], [[]], [[1]], [[1, 2], [], [3] * 100_000, [4]]])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_a_growing_array_is_the_file_that_numpy_writes(tmp_path, parts, dtype):
  with (tmp_path / "grown.npy").open("wb") as file:
    grown = token_store.GrowingArray(file, np.dtype(dtype))
    for part in parts:
      grown.append(part)
    assert len(grown) == sum(map(len, parts))
    grown.close()
  expected = io.BytesIO()
  np.save(expected, np.array([i for part in parts for i in part], dtype))
  assert (tmp_path / "grown.npy").read_bytes() == expected.getvalue()


def _shows(capfd, seconds, quiet=False) -> str:
  clock = iter(seconds)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.Progress("tokenizing a corpus", 4_000_000, quiet=quiet) as shown:
      for _ in seconds[1:]:
        shown.advance(1_000_000)
  out, err = capfd.readouterr()
  assert out == ""
  return err


def test_without_a_terminal_progress_is_a_line_every_ten_seconds(capfd):
  assert _shows(capfd, [0, 4, 9]) == ""
  assert _shows(capfd, [0, 6, 11, 19, 22]) == (
    "tokenizing a corpus: 2 of 4 MB, about 11 s left\ntokenizing a corpus: 4 of 4 MB, about 0 s left\n"
  )
  assert _shows(capfd, [0, 6, 11, 19, 22], quiet=True) == ""


def test_on_a_terminal_progress_is_a_bar_after_a_second(capfd, monkeypatch):
  monkeypatch.setenv("FORCE_COLOR", "1")
  monkeypatch.setenv("COLUMNS", "120")
  monkeypatch.setenv("TERM", "xterm")
  assert _shows(capfd, [0, 0.5, 0.9]) == ""
  assert _shows(capfd, [0, 2, 3], quiet=True) == ""
  with progress.Progress("tokenizing a corpus", 4_000_000, quiet=False) as shown:
    shown._next_shown = 0
    shown.advance(1_000_000)
  assert "tokenizing a corpus" in capfd.readouterr().err
