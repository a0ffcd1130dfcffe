"""The tokenizer of a folder of transformers: its ids, what it puts before every text, its chat template."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_jax import tokenizers
from lm_jax.interop.folders import read_json
from lm_jax.strict import ConfigError
from lm_jax.tokenizers import Tokenizer
from lm_jax.tokenizers.files import BERT, GPT2, JSON, SETTINGS

TEMPLATE, GENERATION = "chat_template.jinja", "generation_config.json"


@dataclasses.dataclass(frozen=True)
class TextSide:
  """What of a Pretrained concerns text; see there."""

  tokenizer: Tokenizer | None
  specials: dict[str, int]
  begin: tuple[int, ...]
  chat_template: str | None


def load(folder: Path, config: Mapping[str, Any], *, causal: bool) -> TextSide:
  """Reads what is there of a tokenizer; raises ConfigError if it is broken.

  Args:
    config: config.json, which knows the ids of some special tokens too.
    causal: encoders bracket texts themselves, and nothing is put before them.
  """
  where = f"tokenizer {folder}"
  settings = read_json(folder / SETTINGS, where) if (folder / SETTINGS).is_file() else {}
  tokenizer = tokenizers.load(folder) if _is_there(folder) else None
  specials = _ids_of_config(folder, config) | (tokenizer.specials if tokenizer else {})
  begin = _begin(folder, settings, config, where) if tokenizer and causal else ()
  return TextSide(tokenizer, specials, begin, _chat_template(folder, settings))


def _is_there(folder: Path) -> bool:
  gpt2 = all((folder / name).is_file() for name in GPT2)
  return gpt2 or (folder / JSON).is_file() or (folder / BERT).is_file() or any(folder.glob("*.model"))


def _ids_of_config(folder: Path, config: Mapping[str, Any]) -> dict[str, int]:
  generation = {}
  if (folder / GENERATION).is_file():
    generation = read_json(folder / GENERATION, f"model {folder}")
  found = {}
  for name, key in (("bos", "bos_token_id"), ("end", "eos_token_id"), ("pad", "pad_token_id")):
    value = generation.get(key, config.get(key))
    value = value[0] if isinstance(value, list) and value else value
    if type(value) is int and value >= 0:
      found[name] = value
  return found


def _begin(
  folder: Path, settings: Mapping[str, Any], config: Mapping[str, Any], where: str
) -> tuple[int, ...]:
  """Returns the ids that transformers puts before a text.

  The post-processor of tokenizer.json decides. Settings speak of it where there is no such file: then a
  SentencePiece model, which is Llama's, begins with BOS unless it is told otherwise.
  """
  if (folder / JSON).is_file():
    return _template_ids(read_json(folder / JSON, where).get("post_processor"))
  bos = config.get("bos_token_id")
  begins = settings.get("add_bos_token", any(folder.glob("*.model")))
  return (bos,) if begins and type(bos) is int else ()


def _template_ids(processor: Any) -> tuple[int, ...]:
  """Returns the ids before the text in a post-processor of tokenizer.json, or one among several."""
  if not isinstance(processor, dict):
    return ()
  if processor.get("type") == "Sequence":
    parts = [_template_ids(part) for part in processor.get("processors") or ()]
    return next(filter(None, parts), ())
  if processor.get("type") in ("BertProcessing", "RobertaProcessing"):
    return (processor["cls"][1],)
  ids: list[int] = []
  for piece in processor.get("single") or ():
    if "SpecialToken" not in piece:
      break
    ids += processor["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
  return tuple(ids)


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
  if (folder / TEMPLATE).is_file():
    try:
      return (folder / TEMPLATE).read_text(encoding="utf-8")
    except UnicodeDecodeError:
      raise ConfigError(f"model {folder}: its {TEMPLATE} is no text in UTF-8") from None
  template = settings.get("chat_template")
  if isinstance(template, list):  # several, by name
    named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
    template = named.get("default")
  return template if isinstance(template, str) else None


# --- export -------------------------------------------------------------------------------------

# How special tokens are spelled that a task added after its tokenizer's vocabulary.
SPELLED = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]",
           "end": "<|endoftext|>"}  # fmt: skip
SETTING = {"pad": "pad_token", "unk": "unk_token", "cls": "cls_token", "sep": "sep_token",
           "mask": "mask_token", "end": "eos_token", "bos": "bos_token"}  # fmt: skip


def save(
  folder: Path, tokenizer: Tokenizer, specials: Mapping[str, int], begin: tuple[int, ...],
  chat_template: str | None, max_length: int, *, causal: bool,
) -> None:  # fmt: skip
  """Writes what AutoTokenizer opens: tokenizer.json, tokenizer_config.json, and the chat template.

  Raises:
    ConfigError: a kind of tokenizer that tokenizer.json cannot express.
  """
  spec = json.loads(tokenizer.to_json())
  names = _add_specials(spec, specials)
  spec["post_processor"] = _post_processor(spec, specials, begin, names, causal)
  settings = {
    "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length,
    "clean_up_tokenization_spaces": False,
    **{SETTING[name]: names[i] for name, i in specials.items() if name in SETTING and i in names},
  }  # fmt: skip
  if begin:
    settings.setdefault("bos_token", names[begin[0]])
  write_json(folder / JSON, spec)
  write_json(folder / SETTINGS, settings)
  if chat_template is not None:
    (folder / TEMPLATE).write_text(chat_template, encoding="utf-8")


def _add_specials(spec: dict[str, Any], specials: Mapping[str, int]) -> dict[int, str]:
  """Adds the special tokens that a tokenizer lacks, in place; returns {id: token} of all that it knows."""
  vocab = spec["model"]["vocab"]
  pairs = vocab.items() if isinstance(vocab, dict) else ((piece, i) for i, (piece, _) in enumerate(vocab))
  names = {i: token for token, i in pairs}
  names |= {entry["id"]: entry["content"] for entry in spec["added_tokens"]}
  for name, i in sorted(specials.items(), key=lambda item: item[1]):
    if i in names:
      continue
    names[i] = SPELLED.get(name, f"<|{name}|>")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spec["added_tokens"].append({"id": i, "content": names[i], **flags})
  return names


def _post_processor(
  spec: Mapping[str, Any], specials: Mapping[str, int], begin: tuple[int, ...], names: Mapping[int, str],
  causal: bool,
) -> Any:  # fmt: skip
  """Returns the tokenizer's own post-processor where it does what the model expects, else a new one."""
  own = spec.get("post_processor")
  brackets = not causal and not begin and "cls" in specials and "sep" in specials
  if (_template_ids(own) == begin and not brackets) or (brackets and _template_ids(own)):
    return own
  before = (specials["cls"],) if brackets else begin
  after = (specials["sep"],) if brackets else ()
  tokens = {names[i]: {"id": names[i], "ids": [i], "tokens": [names[i]]} for i in before + after}

  def special(ids: tuple[int, ...], kind: int) -> list[dict]:
    return [{"SpecialToken": {"id": names[i], "type_id": kind}} for i in ids]

  def text(name: str, kind: int) -> dict:
    return {"Sequence": {"id": name, "type_id": kind}}

  single = [*special(before, 0), text("A", 0), *special(after, 0)]
  second = [*special(() if brackets else before, 1), text("B", 1), *special(after, 1)]
  return {
    "type": "TemplateProcessing", "single": single, "pair": single + second, "special_tokens": tokens,
  }  # fmt: skip


def write_json(path: Path, value: Any) -> None:
  """Writes JSON, text as it is."""
  path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
