"""Tokenizers from files. Nothing in them is executed: JSON, plain text, or a SentencePiece model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_jax.strict import ConfigError, did_you_mean
from lm_jax.tokenizers import byte, sentence_piece
from lm_jax.tokenizers.base import Tokenizer
from lm_jax.tokenizers.library import LibraryTokenizer

JSON, SETTINGS = "tokenizer.json", "tokenizer_config.json"
GPT2, BERT = ("vocab.json", "merges.txt"), "vocab.txt"
ALLOWED = (
  f"a {JSON}, a SentencePiece .model, or a folder with {JSON}, {' and '.join(GPT2)} (GPT-2), or {BERT} (BERT)"
)


def load(path: str | Path) -> Tokenizer:
  """Opens a tokenizer: one of ALLOWED, or a folder that a tokenizer was saved to.

  A folder's tokenizer_config.json names special tokens, and says whether a vocab.txt is cased.
  """
  path = Path(path).expanduser()
  if path.is_dir():
    return _load_folder(path)
  if not path.exists():
    near = path.parent.iterdir() if path.parent.is_dir() else ()
    hint = did_you_mean(path.name, [entry.name for entry in near])
    raise ConfigError(f"tokenizer {path}: no such file or folder{hint or f'; must be {ALLOWED}'}")
  if path.name == BERT:
    return _load_bert(path.parent)
  if path.name in GPT2:
    return _load_folder(path.parent)
  if path.suffix == ".json":
    return _load_json(path)
  if path.suffix == ".model":
    return sentence_piece.SentencePiece(path.read_bytes(), str(path))
  raise ConfigError(f"tokenizer {path}: must be {ALLOWED}")


def _load_folder(folder: Path) -> Tokenizer:
  models = sorted(folder.glob("*.model"))
  if (folder / JSON).exists():
    return _load_json(folder / JSON)
  if all((folder / name).exists() for name in GPT2):
    return _load_gpt2(folder)
  if (folder / BERT).exists():
    return _load_bert(folder)
  if len(models) == 1:
    return sentence_piece.SentencePiece(models[0].read_bytes(), str(models[0]))
  if (folder / byte.FILE).exists():
    return byte.Bytes()
  several = f" ({len(models)} .model files: name one)" if models else ""
  raise ConfigError(f"tokenizer {folder}: no tokenizer in this folder{several}; must be {ALLOWED}")


def _load_json(path: Path) -> Tokenizer:
  from tokenizers import Tokenizer as Library

  text = _text(path)
  spec = _json(path, text)
  if not isinstance(spec, dict) or "model" not in spec:
    raise ConfigError(f'tokenizer {path}: is JSON but no {JSON}, which has a "model"')
  files = {JSON: text.encode()}
  settings = _settings(path.parent, files) if path.name == JSON else {}
  return LibraryTokenizer(_build(path, lambda: Library.from_str(text)), files, _named(settings))


def _load_gpt2(folder: Path) -> Tokenizer:
  from tokenizers import Tokenizer as Library
  from tokenizers import decoders, models, pre_tokenizers

  files = {name: _text(folder / name).encode() for name in GPT2}
  vocab_path, merges_path = (folder / name for name in GPT2)
  vocab = _json(vocab_path, files[vocab_path.name].decode())
  lines = [line for line in files[merges_path.name].decode().split("\n") if line]
  merges = [tuple(line.split(" ")) for line in lines if not line.startswith("#version")]
  if not isinstance(vocab, dict) or not all(isinstance(i, int) for i in vocab.values()):
    raise ConfigError(f"tokenizer {vocab_path}: must be a JSON object of tokens and their ids")
  if not all(len(merge) == 2 for merge in merges):
    raise ConfigError(f"tokenizer {merges_path}: must have two tokens a line")
  unknown = next((a + b for a, b in merges if a + b not in vocab), None)
  if unknown is not None:
    raise ConfigError(f"tokenizer {merges_path}: makes {unknown!r}, which is not in {vocab_path.name}")
  settings = _settings(folder, files)
  inner = Library(_build(folder, lambda: models.BPE(vocab=vocab, merges=merges)))
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  inner.decoder = decoders.ByteLevel()
  inner.add_special_tokens([token for token in ("<|endoftext|>",) if token in vocab])
  return LibraryTokenizer(inner, files, _named(settings))


def _load_bert(folder: Path) -> Tokenizer:
  from tokenizers import Tokenizer as Library
  from tokenizers import decoders, models, normalizers, pre_tokenizers

  files = {BERT: _text(folder / BERT).encode()}
  vocab = {token: i for i, token in enumerate(files[BERT].decode().removesuffix("\n").split("\n"))}
  if "[UNK]" not in vocab:
    raise ConfigError(f"tokenizer {folder / BERT}: must have a token a line, [UNK] among them")
  settings = _settings(folder, files)
  inner = Library(models.WordPiece(vocab, unk_token="[UNK]"))
  inner.normalizer = normalizers.BertNormalizer(
    lowercase=settings.get("do_lower_case", True),
    strip_accents=settings.get("strip_accents"),
    handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
  )
  inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  inner.decoder = decoders.WordPiece()
  specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
  inner.add_special_tokens([token for token in specials if token in vocab])
  return LibraryTokenizer(inner, files, _named(settings))


def _settings(folder: Path, files: dict[str, bytes]) -> dict[str, Any]:
  """Returns a folder's tokenizer_config.json, if there is one, and adds it to the tokenizer's files."""
  path = folder / SETTINGS
  if not path.exists():
    return {}
  files[SETTINGS] = _text(path).encode()
  settings = _json(path, files[SETTINGS].decode())
  if not isinstance(settings, dict):
    raise ConfigError(f"tokenizer {path}: must be a JSON object")
  return settings


def _named(settings: dict[str, Any]) -> dict[str, str]:
  """Returns {"pad": "<pad>", ...} of what tokenizer_config.json calls pad_token, eos_token and so on."""
  names = {"pad": "pad", "unk": "unk", "cls": "cls", "sep": "sep", "mask": "mask", "end": "eos"}
  tokens = {name: settings.get(f"{key}_token") for name, key in names.items()}
  tokens = {
    name: token.get("content") if isinstance(token, dict) else token for name, token in tokens.items()
  }
  # GPT-2's unknown token is its end of text, of which there is one.
  return {name: t for name, t in tokens.items() if t and not (name == "unk" and t == tokens["end"])}


def _text(path: Path) -> str:
  try:
    # Not read_text: it would change the ends of lines, and so the digest.
    return path.read_bytes().decode()
  except UnicodeDecodeError:
    raise ConfigError(f"tokenizer {path}: is binary (a pickle?); must be {ALLOWED}") from None
  except OSError as error:
    raise ConfigError(f"tokenizer {path}: {error.strerror}") from None


def _json(path: Path, text: str) -> Any:
  try:
    return json.loads(text)
  except ValueError as error:
    raise ConfigError(f"tokenizer {path}: is not JSON ({error})") from None


def _build(path: Path, build: Callable[[], Any]) -> Any:
  try:
    return build()
  except BaseException as error:
    # The library raises nothing narrower than Exception, and where its Rust code panics, not even that.
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
      raise
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise ConfigError(f"tokenizer {path}: {reason}") from None
