"""A conversation as tokens for a model to go on from, and how its answer ends."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from lm_jax import chat_template
from lm_jax.pretrained import Pretrained
from lm_jax.strict import ConfigError
from lm_jax.tokenizers import Tokenizer
from lm_jax.tokenizers.library import LibraryTokenizer

Message = Mapping[str, str]  # {"role": "system" | "user" | "assistant", "content": TEXT}

ANSWER_TOKENS = 512  # of an answer, at most, where nothing else is asked for
# How a model talks that has no chat template, such as one that was trained on text alone.
PLAIN_NAMES = {"system": "", "user": "User: ", "assistant": "Assistant: "}
PLAIN_STOP = ("\nUser:",)
_ANSWER = "ANSWER"  # stands for one, to see what a template writes after it
_STAND_INS = range(0xF0000, 0xFFFFE)  # characters of private use


@dataclasses.dataclass(frozen=True)
class Turn:
  """What is asked of a model.

  Attributes:
    tokens: the conversation up to where the answer begins.
    end: the token that ends an answer; None: the answer is as long as asked.
    stop: texts that end it.
  """

  tokens: list[int]
  end: int | None
  stop: tuple[str, ...] = ()


def turn(p: Pretrained, messages: Sequence[Message]) -> Turn:
  """Returns the model's turn after some messages, by its chat template or, without one, as plain text.

  Special tokens are those that the template writes; in messages, their names are text as any other.

  Raises:
    ConfigError: no messages, messages without role or content, what the template refuses, no tokenizer.
  """
  tokenizer, messages = p.require_tokenizer("chat"), _all_checked(messages)
  if p.chat_template is None:
    return Turn([*p.begin, *tokenizer.encode(_plain(messages))], p.specials.get("end"), PLAIN_STOP)
  text, spelled = _rendered(p, tokenizer, messages)
  return Turn(_encode(tokenizer, text, spelled), _end(p, tokenizer))


def text(p: Pretrained, messages: Sequence[Message]) -> str:
  """Returns what the model reads at `turn`, with special tokens by their names; without p.begin."""
  tokenizer, messages = p.require_tokenizer("chat"), _all_checked(messages)
  if p.chat_template is None:
    return _plain(messages)
  rendered, spelled = _rendered(p, tokenizer, messages)
  return "".join(spelled.get(c, c) for c in rendered)


def answer_tokens(p: Pretrained, text: str) -> list[int]:
  """Returns the ids of an answer, as they would stand after those of `turn`."""
  tokenizer = p.require_tokenizer("chat")
  return _inside(tokenizer, f" {text}" if p.chat_template is None else text)


def shortened(p: Pretrained, messages: Sequence[Message], length: int) -> list[Message]:
  """Returns messages whose turn has at most `length` tokens: without the oldest ones, system's excepted.

  The last message stays, and so do the tokens of what is too long alone.
  """
  messages = list(messages)
  first = 1 if messages and messages[0]["role"] == "system" else 0
  while len(messages) - first > 2 and len(turn(p, messages).tokens) > length:
    del messages[first : first + 2]  # a question and its answer
  return messages


def _all_checked(messages: Sequence[Message]) -> list[dict[str, str]]:
  if not messages:
    raise ConfigError("chat: no messages; must be one at least, {'role': 'user', 'content': TEXT}")
  return [_checked(message, i) for i, message in enumerate(messages)]


def _checked(message: Message, i: int) -> dict[str, str]:
  there = isinstance(message, Mapping) and all(isinstance(message.get(k), str) for k in ("role", "content"))
  if not there:
    raise ConfigError(f"chat: messages[{i}]={message!r}: must be {{'role': 'user', 'content': TEXT}}")
  return dict(message)


def _plain(messages: Sequence[Message]) -> str:
  for message in messages:
    if message["role"] not in PLAIN_NAMES:
      raise ConfigError(f"chat: role={message['role']!r}: must be one of {', '.join(PLAIN_NAMES)}")
  lines = [f"{PLAIN_NAMES[message['role']]}{message['content'].strip()}\n" for message in messages]
  return "".join(lines) + PLAIN_NAMES["assistant"].rstrip()


def _rendered(p: Pretrained, tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[str, dict[str, str]]:
  """Returns the template's text, where stand-ins hide special tokens of messages, and {stand-in: name}."""
  spelling = _spelling(tokenizer)
  contents = "".join(message["content"] for message in messages)
  there = sorted(set(spelling.findall(contents))) if spelling else []
  free = (c for c in map(chr, _STAND_INS) if c not in contents and c not in p.chat_template)
  stand_ins = dict(zip(there, free, strict=False))
  hidden = [
    {**m, "content": spelling.sub(lambda found: stand_ins[found[0]], m["content"])} if stand_ins else m
    for m in messages
  ]
  text = chat_template.render(p.chat_template, hidden, specials=_names(p, tokenizer))
  return text, {c: name for name, c in stand_ins.items()}


def _spelling(tokenizer: Tokenizer) -> re.Pattern | None:
  """Returns what finds names of special tokens, the longest one where several begin."""
  names = sorted(tokenizer.controls, key=len, reverse=True)
  return re.compile("|".join(map(re.escape, names))) if names else None


def _names(p: Pretrained, tokenizer: Tokenizer) -> dict[str, str]:
  """Returns {"bos_token": "<s>", ...}, the variables of templates."""
  names = {i: name for name, i in tokenizer.controls.items()}
  ids = dict(zip(("bos",), p.begin, strict=False)) | p.specials
  hugging_face = {"end": "eos"}
  return {f"{hugging_face.get(name, name)}_token": names[i] for name, i in ids.items() if i in names}


def _encode(tokenizer: Tokenizer, text: str, spelled: Mapping[str, str]) -> list[int]:
  if not spelled and isinstance(tokenizer, LibraryTokenizer):
    return tokenizer.encode_marked(text)
  spelling = _spelling(tokenizer)
  ids: list[int] = []
  for part in re.split(f"({spelling.pattern})", text) if spelling else [text]:
    if part in tokenizer.controls:
      ids.append(tokenizer.controls[part])
    elif part:
      plain = "".join(spelled.get(c, c) for c in part)
      ids += _inside(tokenizer, plain) if ids else tokenizer.encode(plain)
  return ids


def _inside(tokenizer: Tokenizer, text: str) -> list[int]:
  """Returns the ids of text that is not a text's beginning, where some tokenizers would add a space."""
  line, both = tokenizer.encode("\n"), tokenizer.encode(f"\n{text}")
  return both[len(line) :] if both[: len(line)] == line else tokenizer.encode(text)


def _end(p: Pretrained, tokenizer: Tokenizer) -> int | None:
  """Returns the first special token that the template writes after an answer, else the end of text."""
  spelling = _spelling(tokenizer)
  messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
  text = chat_template.render(
    p.chat_template, messages, add_generation_prompt=False, specials=_names(p, tokenizer)
  )
  found = spelling.search(text, text.rindex(_ANSWER)) if spelling and _ANSWER in text else None
  return tokenizer.controls[found[0]] if found else p.specials.get("end")
