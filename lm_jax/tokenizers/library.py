"""A tokenizer of the `tokenizers` library: trained here, GPT-2's, BERT's, or any tokenizer.json."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_jax.tokenizers import base, byte, sentence_piece

if TYPE_CHECKING:
  import tokenizers

# Names of special tokens, where no tokenizer_config.json tells. A beginning of text has no name here.
SPELLINGS = {
  "pad": ("[PAD]", "<pad>", "<|padding|>"), "unk": ("[UNK]", "<unk>"), "cls": ("[CLS]",), "sep": ("[SEP]",),
  "mask": ("[MASK]", "<mask>"), "end": ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>"),
}  # fmt: skip
UNUSED = "[unused {}]"  # the library's byte alphabets have no space, so no text becomes one


class LibraryTokenizer:
  """Adapts `tokenizers.Tokenizer`.

  Round trips of byte-level vocabularies are exact; BERT's are not, since its normalizer drops accents and
  its decoder guesses spaces. Words of a byte-level BPE begin with whitespace, of WordPiece without "##",
  of SentencePiece with "▁".
  """

  def __init__(
    self, inner: "tokenizers.Tokenizer", files: Mapping[str, bytes], named: Mapping[str, str] | None = None
  ):
    """Takes an open tokenizer, the files that it was made of, and {"cls": "<s>", ...} where known."""
    inner.no_padding()
    inner.no_truncation()
    inner.encode_special_tokens = True  # as plain text, so that no text can spell a special token
    self._inner, self._files = inner, dict(files)
    self.digest = base.digest(files)
    ids = inner.get_vocab(with_added_tokens=True)
    self.vocab_size = max(ids.values()) + 1
    self._tokens: list[str | None] = [None] * self.vocab_size
    for token, i in ids.items():
      self._tokens[i] = token
    self._describe(json.loads(inner.to_str()))
    self.specials = _special_ids(ids, named or {})
    self._silent |= set(self.specials.values())

  def _describe(self, spec: dict[str, Any]) -> None:
    added = self._inner.get_added_tokens_decoder()
    self._added = {i: token.content for i, token in added.items()}
    self.controls = {token.content: i for i, token in added.items() if token.special}
    self._silent = set(self.controls.values())
    self._silent |= {i for i, token in enumerate(self._tokens) if token is None or _is_unused(token)}
    self._byte_level = _mentions(spec["pre_tokenizer"], "ByteLevel")
    is_wordpiece = spec["model"]["type"] == "WordPiece"
    self._prefix = spec["model"]["continuing_subword_prefix"] if is_wordpiece else None
    self._bytes = [self._spelled(i) for i in range(self.vocab_size)] if self._byte_level else None

  def _spelled(self, i: int) -> bytes:
    if i in self._silent:
      return b""
    if i in self._added:
      return self._added[i].encode()
    token = self._tokens[i]
    return byte.spelled(token.removeprefix(self._prefix) if self._prefix else token)

  def encode(self, text: str) -> list[int]:
    try:
      return self._inner.encode(text, add_special_tokens=False).ids
    except TypeError:
      base.check_unicode([text])
      raise

  def encode_marked(self, text: str) -> list[int]:
    """Returns the ids of a text that special tokens are spelled out in, as a chat template does."""
    self._inner.encode_special_tokens = False
    try:
      return self.encode(text)
    finally:
      self._inner.encode_special_tokens = True

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    try:
      encodings = self._inner.encode_batch_fast(texts, add_special_tokens=False)
    except TypeError:
      base.check_unicode(texts)
      raise
    return [encoding.ids for encoding in encodings]

  def decode(self, ids: Iterable[int]) -> str:
    spoken = [int(i) for i in ids if 0 <= i < self.vocab_size and i not in self._silent]
    if self._bytes is not None:
      return b"".join(self._bytes[i] for i in spoken).decode(errors="replace")
    return self._inner.decode(spoken, skip_special_tokens=False)

  def pieces(self) -> list[str]:
    if self._bytes is not None:
      return [byte.text(content) for content in self._bytes]
    return ["" if i in self._silent else self._piece(token) for i, token in enumerate(self._tokens)]

  def _piece(self, token: str) -> str:
    if self._prefix is None:
      return sentence_piece.piece(token)
    return token.removeprefix(self._prefix) if token.startswith(self._prefix) else f" {token}"

  def word_starts(self) -> np.ndarray:
    return np.array([i in self._silent or self._begins_word(i) for i in range(self.vocab_size)])

  def _begins_word(self, i: int) -> bool:
    if self._prefix is not None:
      return not self._tokens[i].startswith(self._prefix)
    if self._bytes is not None:
      return byte.begins_word(self._bytes[i])
    return sentence_piece.begins_word(self._tokens[i])

  def to_json(self) -> str:
    return self._inner.to_str()

  def save(self, folder: str | Path) -> None:
    base.write(self._files, folder)


def _special_ids(ids: Mapping[str, int], named: Mapping[str, str]) -> dict[str, int]:
  found = {}
  for name, spellings in SPELLINGS.items():
    there = [token for token in (named.get(name), *spellings) if token in ids]
    if there:
      found[name] = ids[there[0]]
  return found


def _is_unused(token: str) -> bool:
  head, tail = UNUSED.split("{}")
  return token.startswith(head) and token.endswith(tail)


def _mentions(spec: Any, kind: str) -> bool:
  """Whether a part of a tokenizer.json, maybe a sequence of parts, has one of a type."""
  if isinstance(spec, dict):
    return spec.get("type") == kind or any(_mentions(value, kind) for value in spec.values())
  return isinstance(spec, list) and any(_mentions(value, kind) for value in spec)
