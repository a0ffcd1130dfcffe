"""What weights in fewer bits cost a language model: nats a token on a text that is on every machine."""

import dataclasses
import functools
import json
import math
from typing import Any

import jax
import numpy as np

from lm_jax import __version__, environment, quantize, rundir, strict
from lm_jax.model import Transformer
from lm_jax.model_config import ModelConfig
from lm_jax.pretrained import Pretrained

SOURCE = "Python's documentation"
TOPICS = ("execmodel", "objects")
TEXT_BYTES, WINDOW = 4096, 512  # bytes of the text, tokens of a window


@dataclasses.dataclass(frozen=True)
class Cost:
  """NLL of one text under two sets of weights.

  Attributes:
    full, narrow: nats a token, of the float32 weights and of those held in fewer bits.
    stderr: of their difference, over tokens as if these were independent.
    num_tokens: tokens predicted.
    num_bytes: bytes of their text.
  """

  full: float
  narrow: float
  stderr: float
  num_tokens: int
  num_bytes: int

  @property
  def nats(self) -> float:
    """Nats a token that are lost."""
    return self.narrow - self.full

  @property
  def bits_per_byte(self) -> float:
    return self.nats * self.num_tokens / math.log(2) / self.num_bytes


def text() -> str:
  """Returns English prose about Python, out of the standard library's own help, 4 KiB."""
  from pydoc_data import topics  # half a megabyte, seldom wanted

  found = "\n".join(topics.topics[name] for name in TOPICS)
  return found.encode()[:TEXT_BYTES].decode(errors="ignore")


def cost(p: Pretrained, narrow: Any, passage: str | None = None) -> Cost:
  """Returns what the parameters `narrow`, made of `p.params` by `quantize.quantized`, cost a causal LM.

  Args:
    passage: `text()` by default.
  """
  passage = text() if passage is None else passage
  ids = p.require_tokenizer().encode(passage)
  rows = _windows(p, ids)
  full, fewer = (_nll(p.model, params, rows) for params in (p.params, narrow))
  difference = fewer - full
  # What begins the first window is not predicted where the model has no token to begin it with.
  unpredicted = "" if p.begin else p.tokenizer.decode(ids[:1])
  return Cost(
    float(full.mean()), float(fewer.mean()), float(difference.std() / math.sqrt(len(difference))),
    len(difference), len(passage.encode()) - len(unpredicted.encode()),
  )  # fmt: skip


def _windows(p: Pretrained, ids: list[int]) -> list[tuple[list[int], int]]:
  """Returns (tokens, how many of the first are context) such that every token is predicted once."""
  size = min(WINDOW, p.model.context_length + 1)
  begin = list(p.begin) or ids[:1]
  ids = ids if p.begin else ids[1:]
  step = size - len(begin)
  rows = []
  for start in range(0, len(ids), step):
    # The last token of a window begins the next one where nothing else does.
    before = list(p.begin) or ([ids[start - 1]] if start else begin)
    rows.append((before + ids[start : start + step], len(before)))
  return rows


def _nll(model: ModelConfig, params: Any, rows: list[tuple[list[int], int]]) -> np.ndarray:
  """Returns -log p of every predicted token, nats."""
  size = max(len(tokens) for tokens, _ in rows)
  found = []
  for tokens, context in rows:
    padded = np.zeros((1, size), np.int32)
    padded[0, : len(tokens)] = tokens  # on the right, where no token sees the padding
    nll_T = np.asarray(_apply(model, params, padded))[0]
    found.append(nll_T[context - 1 : len(tokens) - 1])
  return np.concatenate(found).astype(np.float64)


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: ModelConfig, params: Any, tokens_BT: jax.Array) -> jax.Array:
  return Transformer(model).apply({"params": params}, tokens_BT[:, :-1], targets_BP=tokens_BT[:, 1:])


def remembered_report(p: Pretrained, narrow: Any) -> str:
  """Returns `weights_report`, measured once for a model: later it is read from lm_jax's cache."""
  key = strict.digest({"model": p.identity, "weights": quantize.kind(narrow), "version": __version__})
  path = environment.cache_dir() / "weights" / f"{key}.json"
  if path.is_file():
    return json.loads(path.read_text(encoding="utf-8"))["report"]
  line = weights_report(p, narrow)
  if p.identity:
    path.parent.mkdir(parents=True, exist_ok=True)
    rundir.write_json(path, {"report": line})
  return line


def weights_report(p: Pretrained, narrow: Any) -> str:
  """Returns one line: the memory of weights held in fewer bits, and what they cost, where that can be known.

  An encoder, and a model without a tokenizer, have no cost in nats.
  """
  before, after = quantize.num_bytes(p.params), quantize.num_bytes(narrow)
  line = f"weights {quantize.kind(narrow)}: {after / 1e9:.3f} GB instead of {before / 1e9:.3f}"
  if not p.model.causal or not p.model.lm_head or p.tokenizer is None:
    return line
  c = cost(p, narrow)
  return (
    f"{line}; {c.nats:+.4f} ± {c.stderr:.4f} nats a token, {c.bits_per_byte:+.4f} bits a byte, on "
    f"{c.num_tokens} tokens of {SOURCE} ({c.full:.3f} nats a token before)"
  )
