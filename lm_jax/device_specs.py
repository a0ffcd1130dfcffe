"""What devices can do at most, by their makers, to price a run before it is trained.

Peaks are of dense matrix products (no sparsity), in FLOP/s. "float32" is of products of float32 arrays as
JAX computes them by default: in TF32 on NVIDIA's tensor cores from Ampere on, in one pass of bfloat16 on
TPUs, and in true float32 on the rest. Memory is what the maker calls it, GB of 10^9 bytes.

No training reaches the peak. The share that its products do is the model FLOP utilization of a large model:
21 % for GPT-3, 30 % for Megatron-Turing NLG, 33 % for Gopher, 46 % for PaLM (arXiv:2204.02311, table 3). The
default is between them. What small models reach less is not in it: `scaling.seconds_per_step` counts their
elementwise work beside the products.
"""

import dataclasses

from lm_jax import strict
from lm_jax.scaling import CORE_FLOPS_PER_SECOND

_TERA, _GIGA = 1e12, 10**9
MFU = 0.4


@dataclasses.dataclass(frozen=True)
class Device:
  """One accelerator, or core.

  Attributes:
    flops_per_second: peak of dense matrix products by the dtype of a model's activations.
    memory_bytes: of the device; None where it depends on the machine.
    mfu: share of the peak that the products of a large model reach, where nothing better is known.
  """

  name: str
  flops_per_second: dict[str, float]
  memory_bytes: int | None
  mfu: float = MFU


def _device(name: str, float32: float, bfloat16: float, gigabytes: int) -> Device:
  """Returns a device by its peaks in TFLOP/s."""
  return Device(name, {"float32": float32 * _TERA, "bfloat16": bfloat16 * _TERA}, gigabytes * _GIGA)


_TABLE = (
  # NVIDIA A100 datasheet (2021): TF32 156, bfloat16 312, dense.
  _device("a100-40", 156, 312, 40),
  _device("a100-80", 156, 312, 80),
  # NVIDIA H100 datasheet (2023), whose figures with sparsity are halved: SXM TF32 989, bfloat16 1,979;
  # PCIe 756 and 1,513.
  _device("h100-sxm", 494.5, 989.5, 80),
  _device("h100-pcie", 378, 756.5, 80),
  # NVIDIA H200 datasheet (2024), SXM: the products of an H100 SXM, with 141 GB.
  _device("h200", 494.5, 989.5, 141),
  # NVIDIA L4 datasheet (2023), with sparsity halved: TF32 120, bfloat16 242.
  _device("l4", 60, 121, 24),
  # NVIDIA L40S datasheet (2023): TF32 183, bfloat16 362, dense.
  _device("l40s", 183, 362.05, 48),
  # NVIDIA V100 datasheet (2018), SXM2: float32 15.7. It has no bfloat16, which runs as float32.
  _device("v100", 15.7, 15.7, 16),
  # NVIDIA T4 datasheet (2018): float32 8.1. It has no bfloat16 either.
  _device("t4", 8.1, 8.1, 16),
  # NVIDIA Ada GPU architecture whitepaper (2022), table of the RTX 4090: TF32 82.6, bfloat16 with float32
  # sums 165.2, dense.
  _device("rtx-4090", 82.6, 165.2, 24),
  # Google Cloud TPU documentation, "System architecture" of each version; a chip, of v4 its two cores.
  _device("tpu-v4", 275, 275, 32),
  _device("tpu-v5e", 197, 197, 16),
  _device("tpu-v5p", 459, 459, 95),
  _device("tpu-v6e", 918, 918, 32),
  # What `lm-jax plan` assumes without a device: fitted to the speed of training on one AVX-512 core, so that
  # all of it is reached. bfloat16 is no faster there.
  Device("cpu-core", dict.fromkeys(("float32", "bfloat16"), CORE_FLOPS_PER_SECOND), None, mfu=1.0),
)
DEVICES = {device.name: device for device in _TABLE}


def find(name: str, path: str = "--device") -> Device:
  """Returns the device of a name, in any case; raises ConfigError with the nearest one."""
  return strict.choose(DEVICES, name.lower(), path)
