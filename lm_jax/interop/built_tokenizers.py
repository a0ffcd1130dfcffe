"""Tokenizers of the `tokenizers` library, built from what single-file formats hold of one.

Two kinds: byte-level BPE, of tokens and merges (GPT-2's), and SentencePiece's BPE (arXiv:1808.06226), of
pieces and scores, which merges the pair whose piece has the highest score.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_jax.strict import ConfigError, nearest
from lm_jax.tokenizers.files import JSON, SETTINGS
from lm_jax.tokenizers.library import LibraryTokenizer
from lm_jax.tokenizers.sentence_piece import SPACE

if TYPE_CHECKING:
  import tokenizers

# How text is split before byte-level BPE, by the names of llama.cpp (tokenizer.ggml.pre).
GPT2_WORDS, DIGITS_APART, LLAMA3_WORDS, QWEN2_WORDS = "gpt2", "digits", "llama3", "qwen2"
SPLITS = {
  "gpt-2": GPT2_WORDS, "mpt": GPT2_WORDS, "olmo": GPT2_WORDS, "phi-2": GPT2_WORDS,
  "smollm": DIGITS_APART, "starcoder": DIGITS_APART, "refact": DIGITS_APART, "command-r": DIGITS_APART,
  "llama-bpe": LLAMA3_WORDS, "qwen2": QWEN2_WORDS,
}  # fmt: skip
# Published with Llama 3 and Qwen2; they differ in how many digits go together.
_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
  r"|\s+(?!\S)|\s+"
)


def byte_level(
  vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], split: str, where: str
) -> "tokenizers.Tokenizer":
  """Returns a byte-level BPE; raises ConfigError for an unknown way to split text, or impossible merges."""
  from tokenizers import Tokenizer, decoders, models, normalizers

  if split not in SPLITS:
    raise ConfigError(f"{where}: pre-tokenizer {split!r}: is not supported{nearest(split, SPLITS)}")
  unknown = next((a + b for a, b in merges if not {a, b, a + b} <= vocab.keys()), None)
  if unknown is not None:
    raise ConfigError(f"{where}: merges to {unknown!r} what is not in the vocabulary")
  kind = SPLITS[split]
  inner = Tokenizer(models.BPE(dict(vocab), list(merges), ignore_merges=kind == LLAMA3_WORDS))
  inner.pre_tokenizer, inner.decoder = _splitter(kind), decoders.ByteLevel()
  if kind == QWEN2_WORDS:
    inner.normalizer = normalizers.NFC()
  return inner


def _splitter(kind: str) -> Any:
  from tokenizers import Regex, pre_tokenizers

  words = pre_tokenizers.ByteLevel(add_prefix_space=False)
  if kind == GPT2_WORDS:
    return words
  if kind == DIGITS_APART:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
  pattern = Regex(_WORDS % ("{1,3}" if kind == LLAMA3_WORDS else ""))
  apart = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  return pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), apart])


def scored(
  pieces: Sequence[str], scores: Sequence[float], whole: Collection[int], unknown: int, *, add_space: bool
) -> "tokenizers.Tokenizer":
  """Returns SentencePiece's BPE, in which bytes stand for characters that are no piece.

  Args:
    pieces: with SPACE for a space, and "<0x0A>" for a byte.
    whole: ids that no merge makes: bytes and special tokens.
    unknown: the id of the unknown piece.
    add_space: whether a space is put before a text.
  """
  from tokenizers import Tokenizer, decoders, models, normalizers

  merges = _merges(pieces, scores, set(whole))
  vocab = {piece: i for i, piece in enumerate(pieces)}
  inner = Tokenizer(models.BPE(vocab, merges, unk_token=pieces[unknown], fuse_unk=True, byte_fallback=True))
  prepend = [normalizers.Prepend(SPACE)] if add_space else []
  inner.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", SPACE)])
  strip = [decoders.Strip(" ", 1, 0)] if add_space else []
  inner.decoder = decoders.Sequence(
    [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
  )
  return inner


def _merges(pieces: Sequence[str], scores: Sequence[float], whole: set[int]) -> list[tuple[str, str]]:
  """Returns the pairs that make a piece, those of the highest score first."""
  ids = {piece: i for i, piece in enumerate(pieces) if i not in whole}
  found = []
  for piece, i in ids.items():
    for cut in range(1, len(piece)):
      first, second = piece[:cut], piece[cut:]
      if first in ids and second in ids:
        found.append((-scores[i], ids[first], ids[second], first, second))
  return [(first, second) for *_, first, second in sorted(found)]


def finish(
  inner: "tokenizers.Tokenizer", specials: Sequence[str], named: Mapping[str, str],
  begin: Sequence[tuple[str, int]],
) -> LibraryTokenizer:  # fmt: skip
  """Returns the tokenizer, with files of its own that say the same.

  Args:
    specials: tokens that no text spells.
    named: {"eos_token": "</s>", ...}, as tokenizer_config.json has them.
    begin: tokens before every text, and their ids, where transformers is to put them.
  """
  from tokenizers import processors

  inner.add_special_tokens(list(specials))
  if begin:
    inner.post_processor = processors.TemplateProcessing(
      single=[*(token for token, _ in begin), "$A"], special_tokens=list(begin),
      pair=[*(token for token, _ in begin), "$A", *(f"{token}:1" for token, _ in begin), "$B:1"],
    )  # fmt: skip
  settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
  files = {JSON: inner.to_str().encode(), SETTINGS: json.dumps(settings, ensure_ascii=False).encode()}
  keys = {"pad": "pad_token", "unk": "unk_token", "end": "eos_token"}
  return LibraryTokenizer(inner, files, {name: named[key] for name, key in keys.items() if key in named})
