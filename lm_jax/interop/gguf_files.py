"""GGUF, llama.cpp's single-file format: metadata, tokenizer and quantized weights, which become float32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lm_jax import strict
from lm_jax.interop import folders, gguf_tokenizers
from lm_jax.interop.gguf_architectures import ARCHITECTURES
from lm_jax.param_paths import nested
from lm_jax.pretrained import Pretrained, block_shapes, check_tokenizer, listed, mismatches
from lm_jax.strict import ConfigError

SUFFIX = ".gguf"
_BROKEN = (ValueError, KeyError, IndexError, OverflowError, TypeError, OSError, AttributeError)


def is_model(path: Path) -> bool:
  """Whether a path is a GGUF file, or a folder with any."""
  return path.suffix == SUFFIX if path.is_file() else any(path.glob(f"*{SUFFIX}"))


def load(path: Path, *, name: str = "--model") -> Pretrained:
  """Opens a file, or the only one of a folder.

  Raises:
    ConfigError: no `gguf` package, a broken file, another architecture or kind of tokenizer, or tensors
      that do not fit the metadata.
  """
  path = find(path, name)
  where = f"{name}={path}"
  reader = _open(path, where)
  facts = Facts(reader, where)
  named = facts.get("general.architecture", str)
  architecture = strict.choose(ARCHITECTURES, named, f"{where}: general.architecture")
  tensors = {tensor.name: tensor for tensor in reader.tensors}
  shapes = {key: tuple(int(n) for n in reversed(tensor.shape)) for key, tensor in tensors.items()}
  read = _reader_of(tensors, where)
  try:
    model, ignored = architecture.model(facts, shapes, read)
  except ConfigError as error:
    raise ConfigError(_prefixed(str(error), where)) from None
  if model.num_layers > len(tensors):  # before as many names are made
    raise ConfigError(f"{where}: has {model.num_layers} layers, and {len(tensors)} tensors")
  own = {key: shape for key, shape in shapes.items() if key not in ignored}
  params = _read_params(architecture, model, own, read, where)
  text = gguf_tokenizers.read(facts, where)
  check_tokenizer(model, text.tokenizer, where)
  return Pretrained(
    model, nested(params), text.tokenizer, text.specials, text.begin, text.chat_template,
    architecture.family, folders.identity([path], text.tokenizer),
  )  # fmt: skip


def _prefixed(message: str, where: str) -> str:
  return message if message.startswith(where) else f"{where}: {message.removeprefix('config.model.')}"


def find(path: Path, name: str) -> Path:
  """Returns the GGUF file that a path names, itself or the only one in it."""
  if path.is_file():
    return path
  found = sorted(path.glob(f"*{SUFFIX}"))
  if len(found) != 1:
    raise ConfigError(f"{name}={path}: has {len(found)} {SUFFIX} files; name one of them")
  return found[0]


def _open(path: Path, where: str) -> Any:
  try:
    import gguf
  except ImportError:
    raise ConfigError(f"{where}: needs the gguf package: pip install 'lm_jax[gguf]'") from None

  class Reader(gguf.GGUFReader):
    """Stops at the end of the file, where the library would read nothing as often as a header says.

    Views are of a plain array: those of a memmap, one for every token, take most of the time.
    """

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> np.ndarray:
      start, end = int(offset), int(offset) + np.dtype(dtype).itemsize * int(count)
      if end > len(self.data):
        raise ValueError("it ends before what its header says")
      if not hasattr(self, "plain"):
        self.plain = np.asarray(self.data)
      found, order = self.plain[start:end].view(dtype), override_order or self.byte_order
      return found if order == "I" else found.view(found.dtype.newbyteorder(order))

  try:
    return Reader(path)
  except _BROKEN as error:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise ConfigError(f"{where}: is no whole GGUF file ({reason})") from None


def _reader_of(tensors: dict[str, Any], where: str) -> Callable[[str], np.ndarray]:
  import gguf

  def read(name: str) -> np.ndarray:
    """Returns one tensor, float32."""
    tensor = tensors[name]
    try:
      return np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
    except (NotImplementedError, *_BROKEN):
      kind = tensor.tensor_type.name
      raise ConfigError(f"{where}: {name} is {kind}, which the gguf package cannot read") from None

  return read


def _read_params(architecture: Any, model: Any, shapes: Any, read: Any, where: str) -> dict[str, np.ndarray]:
  own, rows = block_shapes(model), architecture.rows(model)
  want = {row.theirs: row.transform.shape([own[path] for path in row.ours]) for row in rows}
  differences = mismatches(shapes, want)
  if differences:
    raise ConfigError(f"{where}: its tensors do not fit its metadata: {listed(differences)}")
  params = {}
  for row in rows:
    parts = row.transform.load(read(row.theirs), model.num_heads)
    params |= {path: np.ascontiguousarray(x) for path, x in zip(row.ours, parts, strict=True)}
  return params


class Facts:
  """The metadata of a file, by key, checked."""

  def __init__(self, reader: Any, where: str):
    self._reader, self._where = reader, where

  def get(self, key: str, kind: Any, default: Any = None) -> Any:
    """Returns a value in the type `kind`, or the default; ConfigError if there is neither."""
    field = self._reader.get_field(key)
    if field is None:
      if default is None:
        raise ConfigError(f"{self._where}: its metadata lack {key}")
      return default
    try:
      value = field.contents()
    except _BROKEN:
      raise ConfigError(f"{self._where}: its metadata have no readable {key}") from None
    if kind is list:
      strict.require(isinstance(value, list), f"{self._where}: {key}", type(value).__name__, "a list")
      return value
    value = value.item() if isinstance(value, np.generic) else value
    return strict.convert(kind, value, f"{self._where}: {key}")

  def has(self, key: str) -> bool:
    return self._reader.get_field(key) is not None
