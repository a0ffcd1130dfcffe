"""Evaluation sets: what is read is what was made, whoever else is writing and whoever was killed."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import lm_jax
from lm_jax.data import tfds_files
from lm_jax.data.evaluation_sets import materialize

NAME = "noisy_majority_0a1b2c"


def _arrays(num_examples=37):
  rng = np.random.default_rng(0)
  return {
    "tokens": rng.integers(-(2**31), 2**31, (num_examples, 5)).astype(np.int32),
    "weights": rng.random((num_examples, 5)).astype(np.float32),
    "double": rng.random(num_examples),
    "flags": rng.random((num_examples, 2, 3)) > 0.5,
    "bytes": rng.integers(0, 256, (num_examples, 4)).astype(np.uint8),
    "long": rng.integers(-(2**62), 2**62, num_examples),
  }


def _refuse():
  raise AssertionError("the dataset exists and must not be made again")


def _assert_same(actual, expected):
  assert set(actual) == set(expected)
  for key, array in expected.items():
    assert actual[key].dtype == array.dtype
    np.testing.assert_array_equal(actual[key], array)


def _start(code, directory, **kwargs):
  """Starts a Python process that runs `code` with `directory`, `NAME` and `materialize` at hand."""
  preamble = f"""
    import os, signal, sys, time
    from pathlib import Path
    import numpy as np
    from lm_jax.data import tfds_files
    from lm_jax.data.evaluation_sets import materialize
    directory, NAME = Path({os.fspath(directory)!r}), {NAME!r}
    """
  source = textwrap.dedent(preamble) + textwrap.dedent(code)
  root = Path(lm_jax.__file__).parents[1]
  return subprocess.Popen([sys.executable, "-W", "error", "-c", source], cwd=root, text=True, **kwargs)


def test_arrays_come_back_exactly_and_in_order(tmp_path):
  arrays = _arrays()
  _assert_same(materialize(NAME, lambda: arrays, tmp_path / "new" / "folder"), arrays)


def test_second_call_reads_what_the_first_wrote(tmp_path):
  materialize(NAME, _arrays, tmp_path)
  before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
  _assert_same(materialize(NAME, _refuse, tmp_path), _arrays())
  assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_the_dataset_itself_holds_the_same_and_is_enough(tmp_path):
  """Without the decoded copy, as another's TFDS reads it, or as an earlier version left it."""
  materialize(NAME, _arrays, tmp_path)
  _assert_same(tfds_files.read(tmp_path / NAME / tfds_files.VERSION), _arrays())
  (tmp_path / NAME / "decoded.npz").unlink()
  _assert_same(materialize(NAME, _refuse, tmp_path), _arrays())


def test_reading_again_imports_no_tfds(tmp_path):
  materialize(NAME, _arrays, tmp_path)
  process = _start(
    """
    del sys.modules["lm_jax.data.tfds_files"], tfds_files
    for name in [name for name in sys.modules if name.startswith("tensorflow_datasets")]:
      del sys.modules[name]
    materialize(NAME, None, directory)
    print([name for name in sys.modules if name.startswith("tensorflow_datasets")])
    """,
    tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  )  # fmt: skip
  assert process.communicate() == ("[]\n", "")


def test_datasets_of_different_names_are_independent(tmp_path):
  materialize(NAME, _arrays, tmp_path)
  _assert_same(materialize(NAME + "_b", lambda: _arrays(3), tmp_path), _arrays(3))
  _assert_same(materialize(NAME, _refuse, tmp_path), _arrays())
  assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, NAME + "_b"]


def test_order_survives_several_files(tmp_path, monkeypatch):
  arrays = _arrays(1000)
  config = tfds_files.tfds.download.DownloadConfig
  monkeypatch.setattr(
    tfds_files.tfds.download, "DownloadConfig", lambda **kwargs: config(num_shards=7, **kwargs)
  )
  _assert_same(materialize(NAME, lambda: arrays, tmp_path), arrays)
  assert len(list(tmp_path.rglob("*.array_record*"))) == 7


def test_nothing_is_printed(tmp_path, capfd):
  materialize(NAME, _arrays, tmp_path)
  assert capfd.readouterr() == ("", "")


def test_neither_tensorflow_nor_jax_is_imported(tmp_path):
  process = _start(
    """
    materialize(NAME, lambda: {"x": np.arange(3)}, directory)
    print(sorted({"tensorflow", "jax"} & set(sys.modules)))
    """,
    tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  )  # fmt: skip
  assert process.communicate() == ("[]\n", "")


@pytest.mark.parametrize("stage", ["making the arrays", "writing"])
def test_a_killed_writer_leaves_nothing_in_the_way(tmp_path, stage):
  process = _start(
    f"""
    def die():
      os.kill(os.getpid(), signal.SIGKILL)

    def examples(self):
      for i in range(20):
        yield i, {{"x": np.int64(i)}}
      die()

    tfds_files._EvaluationSet._generate_examples = examples
    materialize(NAME, die if {stage == "making the arrays"} else lambda: {{"x": np.arange(37)}}, directory)
    """,
    tmp_path,
  )
  assert process.wait() == -signal.SIGKILL
  leftovers = list(tmp_path.rglob("incomplete.*"))
  assert bool(leftovers) == (stage == "writing")
  _assert_same(materialize(NAME, _arrays, tmp_path), _arrays())
  assert not list(tmp_path.rglob("incomplete.*"))


def test_of_two_writers_at_once_one_writes_and_both_read(tmp_path):
  code = """
    def make():
      with (directory / "calls").open("a") as file:
        file.write("x")
      time.sleep(0.5)  # long enough for the other to find no dataset
      return {"x": np.arange(os.getpid(), os.getpid() + 50)}

    (directory / str(os.getpid())).touch()
    while len(list(directory.glob("[0-9]*"))) < 2:
      time.sleep(0.01)
    print(materialize(NAME, make, directory)["x"].tolist())
    """
  processes = [_start(code, tmp_path, stdout=subprocess.PIPE) for _ in range(2)]
  first, second = (process.communicate(timeout=60)[0] for process in processes)
  assert first == second and first.startswith("[")
  assert (tmp_path / "calls").read_text() == "x"
  assert all(process.returncode == 0 for process in processes)


def test_a_failure_to_make_the_arrays_leaves_no_dataset(tmp_path):
  with pytest.raises(AssertionError, match="must not be made again"):
    materialize(NAME, _refuse, tmp_path)
  _assert_same(materialize(NAME, _arrays, tmp_path), _arrays())


@pytest.mark.parametrize("name", ["", "Upper", "with-dash", "../up", "1_digit_first"])
def test_names_that_are_no_dataset_names_are_refused(tmp_path, name):
  with pytest.raises(ValueError, match="dataset name"):
    materialize(name, _refuse, tmp_path)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arrays", [{}, {"x": np.zeros(0)}, {"x": np.zeros(2), "y": np.zeros(3)}])
def test_arrays_that_are_no_examples_are_refused(tmp_path, arrays):
  with pytest.raises(ValueError, match="one number of examples"):
    materialize(NAME, lambda: arrays, tmp_path)
