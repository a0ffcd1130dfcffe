"""Weights in safetensors files, one or several: names and shapes at once, numbers one tensor at a time."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  numpy knows bfloat16 by it
import numpy as np

from lm_jax.interop.folders import read_json
from lm_jax.strict import ConfigError

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Formats that hold Python objects, which may run anything when they are opened.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
PICKLED = (
  f"is pickled, and a pickle can run any code when it is opened; convert it to {FILE} where you trust it "
  "(transformers: model.save_pretrained(folder))"
)
PICKLE_STARTS = (b"PK\x03\x04", b"\x80")  # torch's zip archive, and a bare pickle
LFS_POINTER = b"version https://git-lfs"
FLOATS = ("F32", "F16", "BF16")


@dataclasses.dataclass(frozen=True)
class TensorFiles:
  """Tensors by name.

  Attributes:
    shapes: of every tensor.
    files: what they lie in.
  """

  shapes: dict[str, tuple[int, ...]]
  files: tuple[Path, ...]
  _dtypes: dict[str, str]
  _owners: dict[str, Any]
  _where: str

  def read(self, name: str) -> np.ndarray:
    """Returns one tensor as float32; raises ConfigError for a dtype that is no float of 16 or 32 bits."""
    dtype = self._dtypes[name]
    if dtype not in FLOATS:
      raise ConfigError(f"{self._where}: {name} is {dtype}; must be one of {', '.join(FLOATS)}")
    return np.asarray(self._owners[name].get_tensor(name), np.float32)


def open_folder(folder: Path, where: str) -> TensorFiles:
  """Opens the weights of a folder: model.safetensors, or the shards that its index names.

  Raises:
    ConfigError: no weights, pickled ones, or files that are no safetensors.
  """
  if (folder / INDEX).is_file():
    return open_files(_shards(folder, where), where)
  if (folder / FILE).is_file():
    return open_files([folder / FILE], where)
  pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
  if pickles:
    raise ConfigError(f"{where}: {pickles[0]} {PICKLED}")
  raise ConfigError(f"{where}: has no weights; must have {FILE} or {INDEX}")


def _shards(folder: Path, where: str) -> list[Path]:
  weight_map = read_json(folder / INDEX, where).get("weight_map")
  if not isinstance(weight_map, dict) or not weight_map:
    raise ConfigError(f"{where}: its {INDEX} has no weight_map of tensors and their files")
  names = list(dict.fromkeys(weight_map.values()))
  for name in names:
    # Only names: in a cache of the hub, what lies in the folder are links out of it.
    if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
      raise ConfigError(
        f"{where}: its {INDEX} names {name!r}; must be the name of a .safetensors file in the folder"
      )
    if not (folder / name).is_file():
      raise ConfigError(f"{where}: has no {name}, which its {INDEX} names")
  return [folder / name for name in names]


def open_files(files: Iterable[Path], where: str) -> TensorFiles:
  """Opens safetensors files; their headers are checked against their sizes, and nothing else is read."""
  from safetensors import SafetensorError, safe_open

  shapes, dtypes, owners = {}, {}, {}
  for path in files:
    _check_start(path, where)
    try:
      # Not mapped, so that pages of the file do not count beside the copy that is made of them.
      opened = safe_open(path, framework="np", backend="pread")
      slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
      reason = str(error).splitlines()[0]
      raise ConfigError(f"{where}: {path.name} is no whole safetensors file ({reason})") from None
    twice = next((name for name in slices if name in owners), None)
    if twice is not None:
      raise ConfigError(f"{where}: {twice} is in two files, {path.name} the second")
    shapes |= {name: tuple(s.get_shape()) for name, s in slices.items()}
    dtypes |= {name: s.get_dtype() for name, s in slices.items()}
    owners |= dict.fromkeys(slices, opened)
  return TensorFiles(shapes, tuple(files), dtypes, owners, where)


def is_pickled(path: Path) -> bool:
  """Whether a file begins like a pickle of torch."""
  with path.open("rb") as file:
    return file.read(4).startswith(PICKLE_STARTS)


def _check_start(path: Path, where: str) -> None:
  with path.open("rb") as file:
    if file.read(len(LFS_POINTER)) == LFS_POINTER:
      raise ConfigError(f"{where}: {path.name} is a pointer of Git LFS, and not the weights: git lfs pull")


def save(tensors: Mapping[str, Any], path: Path) -> None:
  """Writes one safetensors file."""
  from safetensors.numpy import save_file

  arrays = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
  save_file(arrays, path, metadata={"format": "pt"})
  # The library lets nobody else read it, whatever the umask.
  umask = os.umask(0)
  os.umask(umask)
  path.chmod(0o666 & ~umask)


def shard_name(i: int, count: int) -> str:
  """Returns the name of file i of `count`."""
  return FILE if count == 1 else f"model-{i + 1:05d}-of-{count:05d}.safetensors"


def save_index(folder: Path, names: Sequence[Sequence[str]], total_bytes: int) -> None:
  """Writes which tensors are in which file, given the names in each."""
  owners = {name: shard_name(i, len(names)) for i, shard in enumerate(names) for name in shard}
  index = {"metadata": {"total_size": total_bytes}, "weight_map": owners}
  (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
