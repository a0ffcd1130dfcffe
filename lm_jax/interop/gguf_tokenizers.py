"""The tokenizer in the metadata of a GGUF file."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lm_jax import strict
from lm_jax.interop import built_tokenizers
from lm_jax.interop.hf_tokenizers import TextSide
from lm_jax.strict import ConfigError, require

PREFIX = "tokenizer.ggml"
# Kinds of tokens, as llama.cpp numbers them.
UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 2, 3, 4, 5, 6
# What tokenizer_config.json calls special tokens, and where GGUF has their ids.
NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def read(facts: Any, where: str) -> TextSide:
  """Returns the tokenizer, without one where the file has none; raises ConfigError for other kinds.

  Args:
    facts: gguf_files.Facts.
  """
  if not facts.has(f"{PREFIX}.model"):
    return TextSide(None, {}, (), None)
  kind = facts.get(f"{PREFIX}.model", str)
  build = strict.choose({"gpt2": _byte_level, "llama": _scored}, kind, f"{where}: {PREFIX}.model")
  tokens = [str(token) for token in facts.get(f"{PREFIX}.tokens", list)]
  kinds = np.array(facts.get(f"{PREFIX}.token_type", list, [1] * len(tokens)))
  require(len(tokens) == len(kinds), f"{where}: {PREFIX}.token_type", len(kinds), f"of {len(tokens)} tokens")
  require(len(set(tokens)) == len(tokens), f"{where}: {PREFIX}.tokens", len(set(tokens)), "all different")
  named = _named(facts, tokens, where)
  # llama.cpp's defaults: SentencePiece models begin with BOS.
  begins = facts.get(f"{PREFIX}.add_bos_token", bool, kind == "llama") and "bos_token" in named
  begin = [(named["bos_token"], tokens.index(named["bos_token"]))] if begins else []
  inner = build(facts, tokens, kinds, where)
  inner.add_tokens([token for token, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED])
  specials = [token for token, kind in zip(tokens, kinds, strict=True) if kind in (UNKNOWN, CONTROL)]
  tokenizer = built_tokenizers.finish(inner, specials, named, begin)
  template = facts.get("tokenizer.chat_template", str, "") or None
  bos = {"bos": tokens.index(named["bos_token"])} if "bos_token" in named else {}
  return TextSide(tokenizer, tokenizer.specials | bos, tuple(i for _, i in begin), template)


def _named(facts: Any, tokens: Sequence[str], where: str) -> dict[str, str]:
  named = {}
  for setting, name in NAMED.items():
    key = f"{PREFIX}.{name}_token_id"
    if facts.has(key):
      i = facts.get(key, int)
      require(0 <= i < len(tokens), f"{where}: {key}", i, f"an id below {len(tokens)}")
      named[setting] = tokens[i]
  return named


def _byte_level(facts: Any, tokens: Sequence[str], kinds: np.ndarray, where: str) -> Any:
  del kinds
  merges = [tuple(str(merge).split(" ")) for merge in facts.get(f"{PREFIX}.merges", list)]
  if not all(len(merge) == 2 for merge in merges):
    raise ConfigError(f"{where}: {PREFIX}.merges: must be two tokens each")
  split = facts.get(f"{PREFIX}.pre", str)
  return built_tokenizers.byte_level({token: i for i, token in enumerate(tokens)}, merges, split, where)


def _scored(facts: Any, tokens: Sequence[str], kinds: np.ndarray, where: str) -> Any:
  scores = facts.get(f"{PREFIX}.scores", list)
  require(len(scores) == len(tokens), f"{where}: {PREFIX}.scores", len(scores), f"of {len(tokens)} tokens")
  whole = np.flatnonzero(np.isin(kinds, (UNKNOWN, CONTROL, UNUSED, BYTE)))
  unknown = facts.get(f"{PREFIX}.unknown_token_id", int, 0)
  require(0 <= unknown < len(tokens), f"{where}: unknown_token_id", unknown, f"an id below {len(tokens)}")
  add_space = facts.get(f"{PREFIX}.add_space_prefix", bool, True)
  return built_tokenizers.scored(tokens, scores, whole.tolist(), unknown, add_space=add_space)
