"""A damaged checkpoint never ends a run, and is never gone on from: the bits are those of one undisturbed."""

import dataclasses
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from letters import DECODER
from processes import RUN, StopAfter, lasting_rows, lm_jax, merged, status, write_config

from lm_jax import checkpoint, checksum, interop, loop, programs, records, rundir
from lm_jax import config as configs
from lm_jax.checkpoint import Checkpoints, Damaged
from lm_jax.strict import ConfigError

# A save falls between two rows of losses; an evaluation lies between the last two saves, at step 32.
TREE = merged(RUN, runtime={"checkpoint_every": 25, "log_every": 20})
CONFIG = configs.from_mapping(TREE)
LAST, BEFORE = 50, 25


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
  """Returns the folder of a finished run."""
  folder = tmp_path_factory.mktemp("undisturbed")
  loop.train(CONFIG, folder)
  return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
  """Returns the folder of a run that was killed after step 50, with rows that no checkpoint knows."""
  folder = tmp_path_factory.mktemp("stopped")
  with pytest.raises(loop.Stopped):
    loop.train(CONFIG, folder, stop=StopAfter(_looks_until(LAST)))
  assert status(folder)["step"] == LAST
  assert checkpoint.saved_steps(folder / "checkpoints") == [BEFORE, LAST]
  with (folder / "records.jsonl").open("a") as f:
    f.write((folder / "records.jsonl").read_text().splitlines()[-1] + '\n{"study": "ti\0\0')
  return folder


def _looks_until(step: int) -> int:
  """Returns how many dispatches take a run to a step: the first is of one step, none crosses what is due."""
  due = sorted({1, *(at for at in range(1, 61) if at % 20 == 0 or at % 25 == 0 or at in (16, 32))})
  ends = [0]
  while ends[-1] < step:
    ends.append(min(ends[-1] + 10, *(at for at in due if at > ends[-1])))
  return len(ends) - 1


def copied(folder: Path, to: Path) -> Path:
  shutil.copytree(folder, to)
  return to


def final(folder: Path, config: configs.Config = CONFIG) -> loop.state.TrainState:
  like = jax.eval_shape(lambda: programs.make([config])[1].start([config]))
  state, position = Checkpoints(folder / "checkpoints", 9).restore(config.train.num_steps, like)
  assert position["step"] == config.train.num_steps
  return jax.device_get(state)


def assert_same(folder: Path, undisturbed: Path, config: configs.Config = CONFIG) -> None:
  """The same records and bits, and nothing left behind."""
  assert status(folder)["state"] == rundir.DONE
  assert lasting_rows(folder) == lasting_rows(undisturbed)
  jax.tree.map(np.testing.assert_array_equal, final(folder, config), final(undisturbed, config))
  names = sorted(path.name for path in (folder / "checkpoints").iterdir())
  assert len(names) == config.runtime.keep_checkpoints, names
  assert all(name.isdecimal() for name in names), names


def files(step: Path) -> list[str]:
  return [str(path.relative_to(step)) for path in sorted(step.rglob("*")) if path.is_file()]


def truncate_to(share: float) -> Callable[[Path, random.Random], None]:
  def act(path: Path, _: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

  return act


def flip_a_bit(path: Path, rng: random.Random) -> None:
  data, at = bytearray(path.read_bytes()), rng.randrange(8 * path.stat().st_size)
  data[at // 8] ^= 1 << at % 8
  path.write_bytes(data)


DAMAGES = {
  "truncated to nothing": [truncate_to(0)],
  "truncated by half": [truncate_to(0.5)],
  "a bit flipped": [flip_a_bit] * 4,
  "removed": [lambda path, _: path.unlink()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_found_or_changes_nothing(stopped, tmp_path, damage):
  """What Orbax does not read, it may lose; but no state comes back that is not the one that was saved."""
  like = jax.eval_shape(lambda: programs.make([CONFIG])[1].start([CONFIG]))
  expected, position = Checkpoints(stopped / "checkpoints", 2).restore(LAST, like)
  rng, found = random.Random(damage), set()
  names = files(stopped / "checkpoints" / str(LAST))
  assert len(names) > 10
  for i, name in enumerate(names):
    for j, act in enumerate(DAMAGES[damage]):
      folder = tmp_path / f"{i}_{j}"
      target = copied(stopped / "checkpoints" / str(LAST), folder / str(LAST)) / name
      act(target, rng)
      try:
        state, at = Checkpoints(folder, 2).restore(LAST, like)
      except Damaged as error:
        assert "\n" not in str(error)
        found.add(name.split("/")[-2 if "/d/" in name else -1])
      else:
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(expected))
        assert at == position, name
  # The position, the arrays and how they are laid out are in these, and damage to them was found.
  assert {"metadata", "_METADATA", "manifest.ocdbt", "d"} <= found


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", ["position/metadata", "state/manifest.ocdbt", "state/_METADATA"])
def test_the_run_falls_back_to_the_checkpoint_before(stopped, undisturbed, tmp_path, capfd, part, damage):
  folder = copied(stopped, tmp_path / "w")
  target = folder / "checkpoints" / str(LAST) / part
  act, rng = DAMAGES[damage][0], random.Random(1)
  act(target, rng)
  loop.train(CONFIG, folder)
  told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("lm-jax: ")]
  assert len(told) == 1
  assert (
    f"{folder}: goes on from the checkpoint of step {BEFORE}, and cannot use that of step {LAST}" in told[0]
  )
  assert "(damaged: " in told[0]
  assert_same(folder, undisturbed)


def test_a_value_that_changed_is_found_where_the_format_does_not(stopped, undisturbed, tmp_path, capfd):
  """A whole checkpoint, as Orbax sees it, of which one bit of one parameter is another."""
  folder = copied(stopped, tmp_path / "w")
  checkpoints = Checkpoints(folder / "checkpoints", 2)
  like = jax.eval_shape(lambda: programs.make([CONFIG])[1].start([CONFIG]))
  state, _ = checkpoints.restore(LAST, like)
  leaves, tree = jax.tree.flatten(jax.device_get(state))
  largest = max(range(len(leaves)), key=lambda i: leaves[i].size)
  leaves[largest] = leaves[largest].copy()
  leaves[largest].view(np.uint32).flat[3] ^= 1
  saved = (folder / "checkpoints" / str(LAST) / "position" / "metadata").read_bytes()
  shutil.rmtree(folder / "checkpoints" / str(LAST))
  checkpoints.save(LAST, tree.unflatten(leaves), {})
  checkpoints.wait()
  checkpoints.close()
  (folder / "checkpoints" / str(LAST) / "position" / "metadata").write_bytes(saved)
  loop.train(CONFIG, folder)
  assert "changed since it was saved), " not in (told := capfd.readouterr().err)
  assert told.count("changed since it was saved") == 1
  assert_same(folder, undisturbed)


def test_an_emptied_folder(stopped, undisturbed, tmp_path, capfd):
  folder = copied(stopped, tmp_path / "w")
  shutil.rmtree(folder / "checkpoints" / str(LAST))
  (folder / "checkpoints" / str(LAST)).mkdir()
  loop.train(CONFIG, folder)
  assert f"goes on from the checkpoint of step {BEFORE}" in capfd.readouterr().err
  assert_same(folder, undisturbed)


def test_without_a_whole_checkpoint_it_starts_over(stopped, undisturbed, tmp_path, capfd):
  folder = copied(stopped, tmp_path / "w")
  for step in (BEFORE, LAST):
    (folder / "checkpoints" / str(step) / "state" / "manifest.ocdbt").write_bytes(b"")
  loop.train(CONFIG, folder)
  told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("lm-jax: ")]
  assert len(told) == 1
  assert f"{folder}: starts over, and cannot use that of step {LAST} (" in told[0]
  assert f") and that of step {BEFORE} (" in told[0]
  assert_same(folder, undisturbed)


def test_a_whole_one_is_gone_on_from_without_a_word(stopped, undisturbed, tmp_path, capfd):
  """And a line half written after it, with garbage, is cut off."""
  folder = copied(stopped, tmp_path / "w")
  assert (folder / "records.jsonl").read_bytes().endswith(b"\0\0")
  loop.train(CONFIG, folder)
  assert capfd.readouterr().err == ""
  assert_same(folder, undisturbed)


def test_one_from_before_there_were_checksums_is_gone_on_from(stopped, undisturbed, tmp_path, capfd):
  folder = copied(stopped, tmp_path / "w")
  file = folder / "checkpoints" / str(LAST) / "position" / "metadata"
  file.write_text(json.dumps(json.loads(file.read_text())["position"]))
  loop.train(CONFIG, folder)
  assert capfd.readouterr().err == ""
  assert_same(folder, undisturbed)


def test_damaged_ones_stay_until_there_is_a_later_one(stopped, undisturbed, tmp_path):
  folder = copied(stopped, tmp_path / "w")
  (folder / "checkpoints" / str(LAST) / "position" / "metadata").unlink()
  with pytest.raises(loop.Stopped):
    loop.train(CONFIG, folder, stop=StopAfter(2))
  names = {path.name for path in (folder / "checkpoints").iterdir()}
  assert names == {str(BEFORE), str(status(folder)["step"]), f"damaged-{LAST}"}
  loop.train(CONFIG, folder)
  assert_same(folder, undisturbed)


def test_a_whole_checkpoint_of_another_kind_of_state_is_not_taken_for_damaged(stopped, tmp_path):
  """Starting over would throw it away; it is said instead."""
  folder = copied(stopped, tmp_path / "w")
  other = dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, name="adafactor"))
  like = jax.eval_shape(lambda: programs.make([other])[1].start([other]))
  with pytest.raises(
    ConfigError, match=r"saved by another version of lm_jax: its state (has|lacks) opt_state/"
  ):
    Checkpoints(folder / "checkpoints", 2).restore(LAST, like)


# --- records --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lost", "goes_on"), [("a row", BEFORE), ("all but a row", 0), ("all", 0)])
def test_records_that_a_checkpoint_counts_on_are_gone(stopped, undisturbed, tmp_path, capfd, lost, goes_on):
  folder = copied(stopped, tmp_path / "w")
  path = folder / "records.jsonl"
  counted = json.loads((folder / "checkpoints" / str(LAST) / "position" / "metadata").read_text())["position"]
  lines = path.read_bytes()[: counted["records_bytes"]].splitlines(keepends=True)
  left = {"a row": lines[:-1], "all but a row": lines[:1], "all": None}[lost]
  path.unlink()
  if left is not None:
    path.write_bytes(b"".join(left))
  loop.train(CONFIG, folder)
  told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("lm-jax: ")]
  assert len(told) == 1
  where = f"goes on from the checkpoint of step {goes_on}" if goes_on else "starts over"
  assert f"{folder}: {where}, and cannot use that of step {LAST} (records.jsonl has " in told[0]
  assert f" bytes, and it counts on {counted['records_bytes']})" in told[0]
  assert_same(folder, undisturbed)


# --- a population ---------------------------------------------------------------------------------


def test_of_a_population_one_falls_back_and_the_others_do_not(tmp_path, capfd):
  members = [dataclasses.replace(CONFIG, seed=seed) for seed in range(3)]
  apart, folders = [tmp_path / f"apart{i}" for i in range(3)], [tmp_path / str(i) for i in range(3)]
  assert loop.train_population(members, apart) == [None] * 3
  errors = loop.train_population(members, folders, stop=StopAfter(_looks_until(LAST)))
  assert all(isinstance(error, loop.Stopped) for error in errors)
  flip = folders[1] / "checkpoints" / str(LAST) / "state" / "manifest.ocdbt"
  flip_a_bit(flip, random.Random(0))
  assert loop.train_population(members, folders) == [None] * 3
  told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("lm-jax: ")]
  assert len(told) == 1
  assert f"{folders[1]}: goes on from the checkpoint of step {BEFORE}, " in told[0]
  for config, folder, other in zip(members, folders, apart, strict=True):
    assert status(folder)["state"] == rundir.DONE
    rows, expected = lasting_rows(folder), lasting_rows(other)
    # Another program, of one member less: the same to float tolerance.
    assert len(rows) == len(expected) > 10
    for row, twin in zip(rows, expected, strict=True):
      assert row | {"value": 0, "stderr": 0} == twin | {"value": 0, "stderr": 0}
      assert row["value"] == pytest.approx(twin["value"], rel=1e-4, abs=1e-5)
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {str(LAST), str(config.train.num_steps)}


# --- readers --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_run(tmp_path_factory) -> Path:
  folder = tmp_path_factory.mktemp("text") / "w"
  loop.train(configs.from_mapping(merged(DECODER, runtime={"checkpoint_every": 2})), folder)
  return folder


def test_a_reader_refuses_a_damaged_checkpoint_and_names_the_other(text_run, tmp_path):
  whole = interop.load(text_run)
  assert whole.step == 4
  folder = copied(text_run, tmp_path / "w")
  (folder / "checkpoints" / "4" / "state" / "manifest.ocdbt").write_bytes(b"")
  for command in (("generate", "--prompt=x"), ("evaluate", "--tasks=association")):
    done = lm_jax(command[0], f"--model={folder}", *command[1:])
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("lm-jax: ")]
    assert f"--model={folder}: its checkpoint of step 4 cannot be used (damaged: " in line
    assert f"; give {folder}@2, or delete {folder / 'status.json'} and train it again" in line
  assert interop.load(f"{folder}@2").step == 2
  # What the line advises helps.
  (folder / "status.json").unlink()
  loop.train(configs.from_mapping(merged(DECODER, runtime={"checkpoint_every": 2})), folder)
  jax.tree.map(np.testing.assert_array_equal, interop.load(folder).params, whole.params)


def test_a_reader_finds_parameters_that_changed(text_run, tmp_path):
  folder = copied(text_run, tmp_path / "w")
  older, newer = (folder / "checkpoints" / step for step in "24")
  shutil.rmtree(newer / "state")
  shutil.copytree(older / "state", newer / "state")
  with pytest.raises(ConfigError, match=r"step 4 cannot be used \(damaged: params/\S+ and \d+ more changed"):
    interop.load(folder)
  # A whole checkpoint, under the name of another.
  shutil.rmtree(newer)
  shutil.copytree(older, newer)
  with pytest.raises(ConfigError, match=r"step 4 cannot be used \(damaged: the position is of step 2\)"):
    interop.load(folder)


# --- checksums ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (5,), (8, 4, 3), (2, 40_000)])
@pytest.mark.parametrize("dtype", ["float32", "int32", "bfloat16"])
def test_checksums_are_the_same_in_numpy_and_in_a_program_and_wherever_the_parts_lie(shape, dtype):
  values = np.random.default_rng(0).normal(0, 100, shape)
  x = np.asarray(jax.numpy.asarray(values).astype(dtype))
  expected = list(checksum._of_numpy(x))
  assert checksum._of_array(jax.numpy.asarray(x)).tolist() == expected
  if len(shape) > 1 and shape[0] % 4 == 0:
    mesh = jax.make_mesh((4, 2), ("a", "b"), (AxisType.Auto,) * 2)
    for where in (PartitionSpec("a", "b"), PartitionSpec("b"), PartitionSpec()):
      split = jax.device_put(x, NamedSharding(mesh, where))
      assert checksum._of_array(split).tolist() == expected
      assert checksum.checksums([split]) == checksum.checksums([x])


def test_any_bit_and_any_two_places_exchanged_change_a_checksum():
  x = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
  seen = {checksum._of_numpy(x)}
  words = x.view(np.uint32).reshape(-1)
  for at in range(words.size):
    for bit in range(32):
      words[at] ^= np.uint32(1 << bit)
      sums = checksum._of_numpy(x)
      words[at] ^= np.uint32(1 << bit)
      # Each of the two sums alone tells.
      assert all(a != b for a, b in zip(sums, checksum._of_numpy(x), strict=True))
      seen.add(sums)
  assert len(seen) == 1 + 32 * words.size
  for at in range(words.size - 1):
    swapped = words.copy()
    swapped[[at, at + 1]] = swapped[[at + 1, at]]
    seen.add(checksum._of_numpy(swapped))
  assert len(seen) == 33 * words.size


def test_checksums_are_by_path():
  tree = {"a": [np.zeros(0, np.float32)], "b": np.ones(2, np.float32)}
  assert list(checksum.checksums(tree)) == ["a/0", "b"]


def test_records_of_a_line_half_written(tmp_path):
  path = tmp_path / "records.jsonl"
  path.write_bytes(b'{"step": 1}\n{"step": 2\0\xff')
  records.truncate(path, 12)
  assert records.read(path) == [{"step": 1}]


def test_a_run_in_a_process_says_it_in_one_line(stopped, tmp_path):
  folder = copied(stopped, tmp_path / "w")
  (folder / "checkpoints" / str(LAST) / "position" / "metadata").unlink()
  file = write_config(tmp_path / "run.py", TREE)
  done = lm_jax("train", f"--config={file}", f"--workdir={folder}", "--quiet")
  assert done.returncode == 0, done.stderr
  assert done.stderr.count("\n") == 1
  assert done.stderr.startswith(
    f"lm-jax: {folder}: goes on from the checkpoint of step {BEFORE}, and cannot use"
  )
