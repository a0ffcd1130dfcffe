"""Plans for a device that is named: hours, money, and what its memory does not hold."""

import json

import pytest
from processes import lm_jax, merged, sweep_tree, write_config

from lm_jax import config as configs
from lm_jax import config_file, devices, plan, scaling, sweep

SWEEP = sweep.from_tree(sweep_tree(widths=(8, 16, 32)))
LARGE = {
  "task": {"name": "python_stdlib", "context_length": 1024},
  "model": {"preset": "gpt2", "d_model": 1024, "num_layers": 24, "num_heads": 16},
  "train": {"num_steps": 1000, "batch_size": 16},
}


def test_a_device_is_its_peak_times_the_share_that_is_reached():
  result = plan.plan(SWEEP, 2, None, device="a100-80", mfu=0.25, usd_per_hour=3.0)
  same = plan.plan(SWEEP, 2, 0.25 * 156e12)
  assert [row["seconds"] for row in result["cells"]] == [row["seconds"] for row in same["cells"]]
  assert result["hours"] == result["seconds"] / 3600 == same["seconds"] / 3600
  assert result["device_hours"] == sum(row["hours"] for row in result["cells"])
  assert result["hours"] < result["device_hours"] <= 2 * result["hours"]
  assert result["usd"] == pytest.approx(sum(row["usd"] for row in result["cells"]))
  assert result["usd"] == pytest.approx(3 * result["device_hours"])
  assert (result["device"], result["mfu"], result["usd_per_hour"]) == ("a100-80", 0.25, 3.0)
  assert result["device_memory_bytes"] == 80 * 2**30
  assert all(row["fits"] for row in result["cells"])


def test_a_cell_runs_at_the_peak_of_its_dtype():
  base = merged(sweep_tree()["base"], model={"num_layers": 1, "num_heads": 1})
  tree = {"study": "s", "base": base, "cells": sweep.axis("model.dtype", ["float32", "bfloat16"])}
  result = plan.plan(sweep.from_tree(tree), 1, None, device="h100-sxm")
  speeds = [row["flops_per_second"] for row in result["cells"]]
  assert speeds == [0.4 * 494.7e12, 0.4 * 989.4e12]
  assert result["flops_per_second"] is None
  assert result["mfu"] == plan.MFU
  assert "at 197,880 or 395,760 GFLOP/s each" in plan.table(result)


def test_bfloat16_is_no_faster_where_there_is_none():
  base = merged(sweep_tree()["base"], model={"num_layers": 1, "num_heads": 1})
  tree = {"study": "s", "base": base, "cells": sweep.axis("model.dtype", ["float32", "bfloat16"])}
  speeds = [
    row["flops_per_second"] for row in plan.plan(sweep.from_tree(tree), 1, None, device="v100")["cells"]
  ]
  assert speeds == [0.4 * 15.7e12] * 2


def test_what_is_not_known_is_missing():
  result = plan.plan(SWEEP, 2, 1e9)
  for name in ("device", "mfu", "device_memory_bytes", "usd_per_hour", "usd"):
    assert result[name] is None
  for row in result["cells"]:
    assert (row["fits"], row["would_fit"], row["usd"]) == (None, None, None)
  assert "USD" not in plan.table(result)
  assert "hours" not in plan.table(result)


def test_what_does_not_fit_is_named_with_what_would_help():
  config = configs.from_mapping(LARGE)
  t4 = devices.named("t4")
  result = plan.plan(config, 1, None, device="t4")
  (row,) = result["cells"]
  assert row["memory_bytes"] > t4.memory_bytes
  assert row["fits"] is False
  line = plan.table(result).splitlines()[-1]
  assert line.startswith(f"{row['cell_id']} {row['label']}: does not fit, ")
  assert line.endswith(f" GiB of 16; what would help: {' or '.join(row['would_fit'])}")
  assert row["would_fit"]
  # Each of them alone helps.
  for flag in row["would_fit"]:
    field, value = flag.removeprefix("--config.").split("=")
    group, name = field.split(".")
    changed = configs.from_mapping(merged(LARGE, **{group: {name: int(value) if value.isdigit() else value}}))
    assert scaling.memory_bytes(changed) <= t4.memory_bytes
  roomy = plan.plan(config, 1, None, device="h200")
  assert roomy["cells"][0]["fits"] is True
  assert "does not fit" not in plan.table(roomy)


def test_where_nothing_helps_alone_more_devices_do():
  huge = configs.from_mapping(merged(LARGE, model={"d_model": 8192, "num_heads": 64}))
  result = plan.plan(huge, 1, None, device="a100-40")
  assert result["cells"][0]["would_fit"] == []
  assert plan.table(result).endswith("a smaller batch and config.parallel.fsdp over more devices")


def test_short_names_are_of_devices_that_are_known():
  assert set(devices.SHORT_NAMES.values()) <= set(devices.DEVICES)
  for name in devices.SHORT_NAMES:
    assert name == name.lower()
    assert devices.named(name.upper()) is devices.DEVICES[devices.SHORT_NAMES[name]]


@pytest.mark.parametrize(
  ("words", "said"),
  [
    ("--device=a100-81", "--device='a100-81': unknown; did you mean 'a100-80'?"),
    ("--device=abacus", "--device='abacus': unknown; allowed: a100-40, "),
    ("--device=l4 --flops_per_second=1e12", "--device=l4, --flops_per_second=1e+12: give one of them"),
    ("--mfu=0.3", "--mfu=0.3: is a share of a device's peak; needs --device=..."),
    ("--device=l4 --mfu=40", "--mfu=40.0: must be in (0, 1]"),
    ("--device=l4 --mfu=0", "--mfu=0.0: must be greater than 0"),
    ("--usd_per_hour=0", "--usd_per_hour=0.0: must be greater than 0"),
  ],
)
def test_bad_flags_are_one_line(tmp_path, words, said):
  file = write_config(tmp_path / "sweep.py", sweep_tree())
  done = lm_jax("plan", f"--config={file}", *words.split())
  assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
  assert said in done.stderr


def test_the_command_prices_a_sweep(tmp_path):
  file = write_config(tmp_path / "sweep.py", sweep_tree())
  words = ("plan", f"--config={file}", "--device=A100-80", "--usd_per_hour=2", "--workers=4")
  shown, as_json = lm_jax(*words), lm_jax(*words, "--json")
  result = json.loads(as_json.stdout)
  expected = plan.plan(config_file.load(file), 4, None, device="a100-80", usd_per_hour=2.0)
  assert result["usd"] == pytest.approx(expected["usd"])
  assert result["device_hours"] == pytest.approx(expected["device_hours"])
  assert "on 4 x a100-80, 40% of the peak reached: about " in shown.stdout
  assert " USD: " in shown.stdout
  header = shown.stdout.splitlines()[0].split()
  assert header[-3:] == ["time", "hours", "USD"]
  # Without --workers, one: the cores of this machine are no GPUs.
  assert json.loads(lm_jax("plan", f"--config={file}", "--device=l4", "--json").stdout)["workers"] == 1
