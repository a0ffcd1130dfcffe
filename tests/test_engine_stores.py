"""Sweeps in an object store whose cells are trained by a real Slurm and by a real Ray."""

import pytest
from engine_sweeps import TREE, cells
from engine_sweeps import undisturbed as undisturbed
from object_store import BUCKET, SECRET, download
from object_store import s3 as s3
from processes import lasting_rows, lm_jax, write_config
from ray_cluster import ray_cluster as ray_cluster
from slurm_cluster import slurm as slurm

URL = f"s3://{BUCKET}/studies/tiny"


@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_an_engine_trains_what_is_in_a_bucket(engine, s3, request, tmp_path, undisturbed):
  # After the store, which its workers find by its environment.
  cluster = request.getfixturevalue("slurm" if engine == "slurm" else "ray_cluster")
  words = ("--workers=2",) if engine == "slurm" else (f"--ray_address={cluster.address}",)
  config = f"--config={write_config(tmp_path / 'sweep.py', TREE)}"
  done = lm_jax("sweep", config, f"--workdir={URL}", f"--launcher={engine}", *words)
  assert done.returncode == 0, done.stderr
  assert "Traceback" not in done.stderr and SECRET not in done.stdout + done.stderr
  # What is in the bucket is all of it.
  copy = download("studies/tiny", tmp_path / "copy")
  assert {cell.name: lasting_rows(cell) for cell in cells(copy)} == undisturbed
  assert not (copy / "launches").exists()
