"""Byte-level BPE and WordPiece, trained on texts by the `tokenizers` library.

Both know every byte, so that no text has an unknown token. BPE is GPT-2's (Radford et al. 2019, section
2.2); WordPiece's pieces are found by the same merges and applied longest first (arXiv:1609.08144).
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lm_jax.strict import ConfigError, choose
from lm_jax.tokenizers import byte
from lm_jax.tokenizers.base import TokenizerSpec, check_unicode
from lm_jax.tokenizers.library import UNUSED, LibraryTokenizer

if TYPE_CHECKING:
  import tokenizers

Progress = Callable[[int], None]

# In the order of their ids, from 0 on.
SPECIALS = {
  "bpe": {"end": "<|endoftext|>"},
  "wordpiece": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
}
CONTINUES = "##"
# GPT-2's words, but no longer than WordPiece takes (100 characters: 24 of 4 bytes, and a space), and "#"
# alone, so that what begins with ## always continues a word.
WORDS = r"'(?:[stmd]|re|ve|ll)| ?\p{L}{1,24}| ?\p{N}{1,24}|#| ?[^\s\p{L}\p{N}#]{1,24}|\s{1,24}(?!\S)|\s{1,24}"
CHUNK = 2**16  # characters; the library spreads chunks, not the words of one, over cores


def train(
  config: TokenizerSpec, texts: Iterable[str], *, on_progress: Progress | None = None
) -> LibraryTokenizer:
  """Trains kind bpe or wordpiece; the same texts give the same tokenizer.

  A corpus too small for `config.vocab_size` leaves ids unused at the end of the vocabulary.

  Args:
    on_progress: is told how many characters were read so far.

  Returns:
    the tokenizer, of exactly `config.vocab_size`.
  """
  specials = list(choose(SPECIALS, config.kind, "tokenizer.kind").values())
  alphabet = sorted(byte.characters())
  required = specials + ([CONTINUES + c for c in alphabet] if config.kind == "wordpiece" else [])
  least = len(required) + len(alphabet)
  if config.vocab_size is None or config.vocab_size < least:
    raise ConfigError(
      f"tokenizer.vocab_size={config.vocab_size!r}: must be at least {least} for kind={config.kind}"
    )
  build = {"bpe": _bpe, "wordpiece": _wordpiece}[config.kind]
  inner = build(config.vocab_size, required, alphabet, _chunks(texts, on_progress))
  inner.add_special_tokens(specials)
  return LibraryTokenizer(inner, {"tokenizer.json": inner.to_str(pretty=True).encode()})


def _bpe(size: int, required: list[str], alphabet: list[str], texts: Iterator[str]) -> "tokenizers.Tokenizer":
  from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

  inner = Tokenizer(models.BPE())
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  options: dict[str, Any] = {"vocab_size": size, "special_tokens": required, "initial_alphabet": alphabet}
  inner.train_from_iterator(texts, trainers.BpeTrainer(**options, show_progress=False))
  merges = [tuple(pair) for pair in json.loads(inner.to_str())["model"]["merges"]]
  filled = Tokenizer(models.BPE(vocab=_filled(inner.get_vocab(), size), merges=merges))
  filled.pre_tokenizer, filled.decoder = inner.pre_tokenizer, decoders.ByteLevel()
  return filled


def _wordpiece(
  size: int, required: list[str], alphabet: list[str], texts: Iterator[str]
) -> "tokenizers.Tokenizer":
  from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

  byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  words = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), byte_level])
  inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
  inner.pre_tokenizer = words
  # As special tokens, the continuing bytes are there whether seen or not, and their ids do not hang on the
  # order of a hash table, which would decide between merges that are equally frequent.
  options: dict[str, Any] = {"vocab_size": size, "special_tokens": required, "initial_alphabet": alphabet}
  trainer = trainers.WordPieceTrainer(**options, continuing_subword_prefix=CONTINUES, show_progress=False)
  inner.train_from_iterator(texts, trainer)
  vocab = _filled(inner.get_vocab(), size)
  filled = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", continuing_subword_prefix=CONTINUES))
  filled.pre_tokenizer = words
  filled.decoder = decoders.Sequence([decoders.Replace(Regex(f"^{CONTINUES}"), ""), decoders.ByteLevel()])
  return filled


def _filled(vocab: dict[str, int], size: int) -> dict[str, int]:
  return vocab | {UNUSED.format(i): i for i in range(len(vocab), size)}


def _chunks(texts: Iterable[str], on_progress: Progress | None) -> Iterator[str]:
  """Yields texts in parts, cut at the ends of lines where there are any."""
  read = 0
  for text in texts:
    check_unicode([text])
    start = 0
    while start < len(text):
      end = min(start + CHUNK, len(text))
      if end < len(text):
        end = text.rfind("\n", start, end) + 1 or end
      yield text[start:end]
      read, start = read + end - start, end
      if on_progress:
        on_progress(read)
