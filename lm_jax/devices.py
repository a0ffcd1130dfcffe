"""What accelerators can do at most: the denominators of model FLOP utilization.

Peaks are the makers' figures for dense matrix products, without structured sparsity (which doubles most
figures of NVIDIA's datasheets, so those are halved here). They are of one jax device: of one of the two
cores of a chip for TPU v2, v3 and v7, of a whole chip or GPU otherwise.

A device that is not listed has no entry, and nobody guesses one for it: a name that merely resembles a
listed one may be a slower variant (RTX 4090 Laptop, H20) or a slice of a GPU (MIG). Nor has a CPU one:
its peak depends on its clock, its cores and who else is on it, so `bench` measures it.
"""

import dataclasses

from lm_jax import strict

_TERA, _GIB = 1e12, 2**30


@dataclasses.dataclass(frozen=True)
class Device:
  """One kind of jax device.

  Attributes:
    flops_16bit: peak FLOP/s of products of `format_16bit` numbers, accumulated in float32.
    flops_float32: peak FLOP/s of float32 products as jax computes them by default (`precision_float32`).
    memory_bytes: as sold; what programs can use is a few per cent less.
    format_16bit: "bfloat16", or "float16" for GPUs whose tensor cores know no bfloat16.
    precision_float32: what jax.lax.Precision.DEFAULT makes of float32 factors: "tf32" on NVIDIA GPUs from
      Ampere on, "bfloat16" on TPUs (one pass, accumulated in float32), "float32" on older GPUs.
    source: where the figures stand.
  """

  flops_16bit: float
  flops_float32: float
  memory_bytes: int
  source: str
  format_16bit: str = "bfloat16"
  precision_float32: str = "tf32"

  def peak(self, dtype: str) -> tuple[float, str]:
    """Returns (peak FLOP/s, the arithmetic it is of) for a model of `config.model.dtype`."""
    if dtype == "float32":
      return self.flops_float32, self.precision_float32
    return self.flops_16bit, self.format_16bit


def _gpu(tensor: float, float32: float, gib: float, source: str, **fields: str) -> Device:
  return Device(tensor * _TERA, float32 * _TERA, int(gib * _GIB), source, **fields)


def _tpu(bfloat16: float, gib: float, source: str) -> Device:
  return Device(bfloat16 * _TERA, bfloat16 * _TERA, int(gib * _GIB), source, precision_float32="bfloat16")


_A100 = "NVIDIA A100 Tensor Core GPU datasheet"
_H100 = "NVIDIA H100 Tensor Core GPU Architecture whitepaper, table 2"
_H100_NVL = "NVIDIA H100 Tensor Core GPU datasheet, halved"
_H200 = "NVIDIA H200 Tensor Core GPU datasheet, halved"
_V100 = "NVIDIA V100 Tensor Core GPU datasheet"
_CLOUD = "Google Cloud TPU documentation, system architecture"
_VOLTA = {"format_16bit": "float16", "precision_float32": "float32"}

# By jax.Device.device_kind, without the words that `_name` drops. Teraflop/s and GiB.
DEVICES = {
  "B200": _gpu(2250, 1100, 180, "NVIDIA DGX B200 and Blackwell datasheets, HGX B200, halved"),
  "GH200 480GB": _gpu(989.4, 494.7, 96, "NVIDIA GH200 Grace Hopper Superchip datasheet, halved"),
  "H200": _gpu(989.4, 494.7, 141, _H200),
  "H200 NVL": _gpu(835.5, 417.5, 141, _H200),
  "H100 80GB HBM3": _gpu(989.4, 494.7, 80, _H100),  # SXM
  "H100 PCIe": _gpu(756, 378, 80, _H100),
  "H100 NVL": _gpu(835.5, 417.5, 94, _H100_NVL),
  "A100-SXM4-40GB": _gpu(312, 156, 40, _A100),
  "A100-SXM4-80GB": _gpu(312, 156, 80, _A100),
  "A100-SXM-80GB": _gpu(312, 156, 80, _A100),
  "A100-PCIE-40GB": _gpu(312, 156, 40, _A100),
  "A100 80GB PCIe": _gpu(312, 156, 80, _A100),
  "A10G": _gpu(70, 35, 24, "NVIDIA A10G datasheet"),
  "L40S": _gpu(362, 183, 48, "NVIDIA L40S datasheet"),
  "L4": _gpu(121, 60, 24, "NVIDIA L4 datasheet, halved"),
  "RTX 4090": _gpu(165.2, 82.6, 24, "NVIDIA Ada GPU Architecture whitepaper, appendix A"),
  "RTX 3090": _gpu(71, 35.6, 24, "NVIDIA Ampere GA102 GPU Architecture whitepaper, appendix A"),
  "T4": _gpu(65, 8.1, 16, "NVIDIA T4 datasheet", **_VOLTA),
  "V100-SXM2-16GB": _gpu(125, 15.7, 16, _V100, **_VOLTA),
  "V100-SXM2-32GB": _gpu(125, 15.7, 32, _V100, **_VOLTA),
  "V100-PCIE-16GB": _gpu(112, 14, 16, _V100, **_VOLTA),
  "V100-PCIE-32GB": _gpu(112, 14, 32, _V100, **_VOLTA),
  "TPU v2": _tpu(45 / 2, 16 / 2, _CLOUD),
  "TPU v3": _tpu(123 / 2, 32 / 2, _CLOUD),
  "TPU v4": _tpu(275, 32, _CLOUD),
  "TPU v5 lite": _tpu(197, 16, _CLOUD),  # v5e
  "TPU v5e": _tpu(197, 16, _CLOUD),
  "TPU v5": _tpu(459, 95, _CLOUD),  # v5p
  "TPU v5p": _tpu(459, 95, _CLOUD),
  "TPU v6 lite": _tpu(918, 32, _CLOUD),  # v6e
  "TPU v6e": _tpu(918, 32, _CLOUD),
  "TPU7x": _tpu(2307 / 2, 192 / 2, _CLOUD),
}


# What people call them; `lm-jax plan --device` takes these.
SHORT_NAMES = {
  "a100-40": "A100-SXM4-40GB", "a100-80": "A100-SXM4-80GB", "a10g": "A10G", "b200": "B200",
  "gh200": "GH200 480GB", "h100-sxm": "H100 80GB HBM3", "h100-pcie": "H100 PCIe", "h100-nvl": "H100 NVL",
  "h200": "H200", "l4": "L4", "l40s": "L40S", "rtx-3090": "RTX 3090", "rtx-4090": "RTX 4090", "t4": "T4",
  "v100": "V100-SXM2-16GB", "v100-32": "V100-SXM2-32GB", "tpu-v2": "TPU v2", "tpu-v3": "TPU v3",
  "tpu-v4": "TPU v4", "tpu-v5e": "TPU v5e", "tpu-v5p": "TPU v5p", "tpu-v6e": "TPU v6e", "tpu-v7": "TPU7x",
}  # fmt: skip


def named(short_name: str, path: str = "--device") -> Device:
  """Returns the device of a short name, in any case; raises ConfigError with the nearest one."""
  return DEVICES[strict.choose(SHORT_NAMES, short_name.lower(), path)]


def _name(device_kind: str) -> str:
  """Returns a device's name without its makers' and series' names, which drivers write or leave out."""
  return " ".join(word for word in device_kind.split() if word not in ("NVIDIA", "Tesla", "GeForce"))


def find(device_kind: str) -> Device | None:
  """Returns what is known of `jax.Device.device_kind`; None for any other than the listed devices."""
  return DEVICES.get(_name(device_kind))
