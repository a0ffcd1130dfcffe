"""Peaks: those of the device at hand or none, never a relative's."""

import pytest

from lm_jax import devices


@pytest.mark.parametrize(
  ("kind", "bfloat16", "float32"),
  [
    # as jax reports them
    ("NVIDIA H100 80GB HBM3", (989.4e12, "bfloat16"), (494.7e12, "tf32")),
    ("NVIDIA A100-SXM4-40GB", (312e12, "bfloat16"), (156e12, "tf32")),
    ("NVIDIA GeForce RTX 3090", (71e12, "bfloat16"), (35.6e12, "tf32")),
    ("Tesla T4", (65e12, "float16"), (8.1e12, "float32")),
    ("NVIDIA Tesla T4", (65e12, "float16"), (8.1e12, "float32")),
    ("Tesla V100-SXM2-16GB", (125e12, "float16"), (15.7e12, "float32")),
    ("TPU v4", (275e12, "bfloat16"), (275e12, "bfloat16")),
    ("TPU v5 lite", (197e12, "bfloat16"), (197e12, "bfloat16")),
    ("TPU v5", (459e12, "bfloat16"), (459e12, "bfloat16")),
  ],
)
def test_peak_of_a_known_device(kind, bfloat16, float32):
  device = devices.find(kind)
  assert device.peak("bfloat16") == bfloat16
  assert device.peak("float32") == float32


@pytest.mark.parametrize(
  "kind",
  [
    "cpu", "", "NVIDIA", "NVIDIA H100", "NVIDIA H20", "NVIDIA L40", "NVIDIA A10",
    "NVIDIA GeForce RTX 3090 Ti",
    "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
    "NVIDIA H100 80GB HBM3 MIG 3g.40gb", "TPU v4 lite", "TPU v9", "H200 Plus",
  ],
)  # fmt: skip
def test_a_relative_of_a_known_device_is_unknown(kind):
  assert devices.find(kind) is None


def test_every_entry_is_found_and_says_where_it_is_from():
  for name, device in devices.DEVICES.items():
    assert devices.find(name) is devices.find(f"NVIDIA {name}") is device
    assert device.source
    # Sixteen bits are never slower, and no figure with sparsity slipped in: TF32 is half of bfloat16.
    assert device.flops_16bit >= device.flops_float32 > 1e12
    if device.precision_float32 == "tf32":
      assert device.flops_16bit == pytest.approx(2 * device.flops_float32, rel=0.03)
    assert device.memory_bytes >= 8 * 2**30
