"""Models of llama2.c: weights in one .bin ("version 0"), the tokenizer in another, tok*.bin.

The .bin is 7 numbers, int32: d_model, d_ff, layers, heads, kv-heads, vocabulary (negative: an output matrix
of its own follows), context; then float32 tensors, each for all layers. The tokenizer is the length of its
longest piece, then score, length and bytes of every piece.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lm_jax.interop import built_tokenizers, folders
from lm_jax.model_config import ModelConfig, resolve
from lm_jax.param_paths import nested
from lm_jax.pretrained import Pretrained
from lm_jax.strict import ConfigError
from lm_jax.tokenizers.library import LibraryTokenizer
from lm_jax.tokenizers.sentence_piece import SPACE

HEADER = 7  # numbers
UNKNOWN, BOS, EOS = 0, 1, 2
FIRST_BYTE = 3  # 256 pieces <0x00>, <0x01>, ... from here on
MAX_PIECE = 1024  # bytes; the longest pieces of known vocabularies have tens
Tensors = list[tuple[str, tuple[int, ...]]]


def is_model(path: Path) -> bool:
  """Whether a path is a .bin with its tokenizer beside it, or a folder with one of each."""
  weights, tokens = _files(path)
  return len(weights) == 1 and len(tokens) == 1


def _files(path: Path) -> tuple[list[Path], list[Path]]:
  folder = path if path.is_dir() else path.parent
  tokens = sorted(folder.glob("tok*.bin"))
  found = [path] if path.is_file() else sorted(folder.glob("*.bin"))
  return [file for file in found if file.suffix == ".bin" and file not in tokens], tokens


def load(path: Path, *, name: str = "--model") -> Pretrained:
  """Opens a model of which `is_model` holds; raises ConfigError if its sizes are not those of its file."""
  (weights,), (tokens,) = _files(path)
  where = f"{name}={weights}"
  model = _read_header(weights, where)
  tokenizer = read_tokenizer(tokens, model.vocab_size)
  return Pretrained(
    model, nested(_read_params(weights, model)), tokenizer, {**tokenizer.specials, "bos": BOS}, (BOS,),
    family="llama", identity=folders.identity([weights], tokenizer),
  )  # fmt: skip


# --- weights ------------------------------------------------------------------------------------


def _read_header(path: Path, where: str) -> ModelConfig:
  with path.open("rb") as file:
    start = file.read(4 * HEADER)
  size = path.stat().st_size
  if len(start) < 4 * HEADER:
    raise ConfigError(f"{where}: is no llama2.c model: it has {size} bytes")
  d_model, d_ff, layers, heads, kv_heads, vocab, context = struct.unpack(f"<{HEADER}i", start)
  sizes = {"d_model": d_model, "d_ff": d_ff, "layers": layers, "heads": heads, "kv-heads": kv_heads,
           "vocabulary": abs(vocab), "context": context}  # fmt: skip
  wrong = next((key for key, value in sizes.items() if value <= 0), None)
  if wrong is not None or d_model % heads or heads % kv_heads:
    shown = ", ".join(f"{key} {value}" for key, value in sizes.items())
    raise ConfigError(f"{where}: is no llama2.c model of version 0: its header says {shown}")
  head_dim, kv = d_model // heads, kv_heads * (d_model // heads)
  a_layer = d_model * (2 + 2 * d_model + 2 * kv + 3 * d_ff)
  count = (
    (1 + (vocab < 0)) * abs(vocab) * d_model + layers * a_layer + d_model + context * 2 * (head_dim // 2)
  )
  if size != 4 * (HEADER + count):
    raise ConfigError(f"{where}: has {size} bytes, and its header speaks of {4 * (HEADER + count)}")
  return resolve(
    ModelConfig(
      d_model=d_model, d_ff=d_ff, num_layers=layers, num_heads=heads, num_kv_heads=kv_heads,
      positions="rope", norm="rmsnorm", activation="swiglu", tie_embeddings=vocab > 0, initializer="normal",
    ),
    abs(vocab), context,
  )  # fmt: skip


def _tensors(m: ModelConfig) -> Tensors:
  """Returns the tensors before the rotary angles in their order, by our names, with the shapes of theirs."""
  L, D, F, kv = m.num_layers, m.d_model, m.d_ff, m.num_kv_heads * m.head_dim
  return [
    ("embedding/table", (m.vocab_size, D)), ("attention_norm/scale", (L, D)),
    ("attention/query/kernel", (L, D, D)), ("attention/key/kernel", (L, kv, D)),
    ("attention/value/kernel", (L, kv, D)), ("attention/out/kernel", (L, D, D)), ("mlp_norm/scale", (L, D)),
    ("mlp/gate/kernel", (L, F, D)), ("mlp/down/kernel", (L, D, F)), ("mlp/up/kernel", (L, F, D)),
    ("final_norm/scale", (D,)),
  ]  # fmt: skip


def _read_params(path: Path, m: ModelConfig) -> dict[str, np.ndarray]:
  params = {}
  with path.open("rb") as file:
    file.seek(4 * HEADER)
    for name, shape in _tensors(m):
      x = np.fromfile(file, "<f4", int(np.prod(shape))).reshape(shape)
      params |= {name: x} if _is_single(name) else dict(_layers(name, x, m))
    if not m.tie_embeddings:
      file.seek(4 * m.context_length * 2 * (m.head_dim // 2), 1)  # rotary angles, which we compute
      x = np.fromfile(file, "<f4", m.vocab_size * m.d_model).reshape(m.vocab_size, m.d_model)
      params["output/kernel"] = np.ascontiguousarray(x.T)
  return params


def _is_single(name: str) -> bool:
  return name.startswith(("embedding", "final_norm"))


def _layers(name: str, x_L: np.ndarray, m: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
  for i, x in enumerate(x_L):
    if name.split("/")[1] in ("query", "key"):
      x = pairs_apart(x, m.head_dim)
    yield f"block_{i}/{name}", np.ascontiguousarray(x.T)


def pairs_apart(x: np.ndarray, head_dim: int) -> np.ndarray:
  """Returns rows [N H, D] of queries or keys, whose rotary pairs are (2 i, 2 i + 1), with (i, i + H/2)."""
  return x.reshape(-1, head_dim // 2, 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape)


# --- tokenizer ----------------------------------------------------------------------------------


def read_tokenizer(path: Path, vocab_size: int) -> LibraryTokenizer:
  """Opens a tok*.bin; raises ConfigError if it has not exactly `vocab_size` pieces."""
  where = f"tokenizer {path}"
  content = path.read_bytes()
  pieces, scores = [], []
  offset = 4
  for _ in range(vocab_size):
    if offset + 8 > len(content):
      raise ConfigError(f"{where}: has {len(pieces)} pieces, and the model's vocabulary {vocab_size}")
    score, length = struct.unpack_from("<fi", content, offset)
    offset += 8
    if not 0 <= length <= MAX_PIECE or offset + length > len(content):
      raise ConfigError(f"{where}: is no tokenizer of llama2.c: piece {len(pieces)} has {length} bytes")
    pieces.append(content[offset : offset + length].decode(errors="replace"))
    scores.append(score)
    offset += length
  if offset != len(content):
    raise ConfigError(f"{where}: has more pieces than the model's vocabulary of {vocab_size}")
  return _build(pieces, scores, where)


def _build(pieces: list[str], scores: list[float], where: str) -> LibraryTokenizer:
  # Written as SentencePiece shows them to people: spaces, and line feeds around BOS and EOS.
  specials = ["<unk>", "<s>", "</s>"]
  tokens = [*specials, *(f"<0x{byte:02X}>" for byte in range(256))]
  tokens += [piece.replace(" ", SPACE) for piece in pieces[len(tokens) :]]
  if len(tokens) != len(pieces) or len(set(tokens)) != len(tokens):
    raise ConfigError(f"{where}: is no tokenizer of llama2.c: its pieces are too few, or the same")
  whole = range(FIRST_BYTE + 256)
  inner = built_tokenizers.scored(tokens, scores, whole, UNKNOWN, add_space=True)
  named = {"unk_token": specials[UNKNOWN], "bos_token": specials[BOS], "eos_token": specials[EOS]}
  return built_tokenizers.finish(inner, specials, named, [(specials[BOS], BOS)])
