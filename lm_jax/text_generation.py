"""Text by a causal language model: settings and prompts in, continuations out, streamed where asked for."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_jax import conversation, generation_config, strict
from lm_jax import generate as generation
from lm_jax.continuation_text import ContinuationText
from lm_jax.conversation import ANSWER_TOKENS, Message
from lm_jax.generate import Continuation, Finish
from lm_jax.generation_config import GenerationConfig
from lm_jax.pretrained import Pretrained
from lm_jax.strict import ConfigError, require

Stream = Callable[[str], None]  # takes each new piece of text
Progress = Callable[[int], None]  # takes the number of finished continuations


@dataclasses.dataclass(frozen=True)
class Generated:
  """A continuation of a prompt; `str(generated)` is its text.

  Attributes:
    text: without the prompt; up to a stop string.
    tokens: without the end of text, with what a stop string is in.
    log_p: of each token, nats, by the model itself: before temperature, filters and penalties.
    finish: why it ends: "end" of text, a "stop" string, or the "length" that was asked for.
  """

  text: str
  tokens: tuple[int, ...]
  log_p: tuple[float, ...]
  finish: Finish

  def __str__(self) -> str:
    return self.text


def generate(
  p: Pretrained,
  rows: Sequence[Sequence[int]],
  g: GenerationConfig,
  *,
  end: int | None = None,
  stream: Stream | None = None,
  progress: Progress | None = None,
  is_stopped: Callable[[], bool] | None = None,
) -> list[list[Generated]]:
  """Returns `g.num_return_sequences` continuations of every prompt of token ids.

  Args:
    p: with its parameters on the device.
    end: the token that ends a text; default: the tokenizer's own.
    stream: of one continuation of one prompt.
    is_stopped: asked every tenth of a second or so.

  Raises:
    KeyboardInterrupt: where `is_stopped`.
    ConfigError: an encoder, a prompt that does not fit, or what needs a tokenizer where there is none.
  """
  one = len(rows) == g.num_return_sequences == g.num_beams == 1
  require(
    stream is None or one, "stream", "given", "left out but for one continuation of one prompt, no beams"
  )
  needs_text = bool(g.stop) or stream is not None
  tokenizer = p.require_tokenizer("generate") if needs_text else p.tokenizer
  text = ContinuationText(tokenizer, g.stop) if tokenizer else None
  opens = [tokenizer is not None and not tokenizer.decode(row) for row in rows]
  end = p.specials.get("end") if end is None else end
  watched = stream or progress or is_stopped
  watch = _Watch(text, opens, stream, progress, is_stopped) if watched else None
  found = generation.generate(p.model, p.params, rows, g, end=end, decode=text and text.decode, watch=watch)
  return [[_generated(c, text, o) for c in of] for of, o in zip(found, opens, strict=True)]


def _generated(c: Continuation, text: ContinuationText | None, opens: bool) -> Generated:
  return Generated(text(c.tokens, opens=opens) if text else "", c.tokens, c.log_p, c.finish)


def answer(
  p: Pretrained,
  messages: Sequence[Message],
  settings: Mapping[str, Any],
  *,
  stream: Stream | None = None,
  is_stopped: Callable[[], bool] | None = None,
) -> Generated:
  """Returns a model's answer in a conversation; see LanguageModel.chat and `generate`."""
  g, most = settings_of(settings, "chat"), p.model.context_length
  require(g.num_return_sequences == 1, "chat.num_return_sequences", g.num_return_sequences, "1")
  asked = "max_new_tokens" in settings
  wanted = g.max_new_tokens if asked else min(ANSWER_TOKENS, most // 2)
  if g.truncate:
    messages = conversation.shortened(p, messages, most - wanted)
  turn = conversation.turn(p, messages)
  if not g.truncate:
    wanted = _fitting(len(turn.tokens), wanted, most, asked)
  g = dataclasses.replace(g, max_new_tokens=wanted, stop=(*g.stop, *turn.stop))
  stream = None if stream is None else _without_first_space(stream)
  ((found,),) = generate(p, [turn.tokens], g, end=turn.end, stream=stream, is_stopped=is_stopped)
  return dataclasses.replace(found, text=found.text.lstrip())


def _fitting(length: int, wanted: int, most: int, asked: bool) -> int:
  """Returns the tokens of an answer: what is asked for, or else as many as there is room for."""
  room = most - length
  if room < (wanted if asked else 1):
    why = f"which with max_new_tokens={wanted} do not fit" if asked else "which do not fit"
    raise ConfigError(
      f"the conversation has {length} tokens, {why} the model's context of {most}; begin a new one, or ask "
      "for truncate"
    )
  return min(wanted, room)


def _without_first_space(stream: Stream) -> Stream:
  begun = False

  def show(text: str) -> None:
    nonlocal begun
    if text := text if begun else text.lstrip():
      begun = True
      stream(text)

  return show


class _Watch:
  """Shows what is new of a continuation, and counts those that are finished."""

  def __init__(
    self,
    text: ContinuationText | None,
    opens: Sequence[bool],
    stream: Stream | None,
    progress: Progress | None,
    is_stopped: Callable[[], bool] | None,
  ):
    self._text, self._opens, self._stream, self._progress = text, opens, stream, progress
    self._is_stopped, self._shown, self._finished = is_stopped, 0, 0

  def __call__(self, prompt: int, _: int, tokens: Sequence[int], finish: Finish | None) -> None:
    if self._is_stopped is not None and self._is_stopped():
      raise KeyboardInterrupt
    if self._stream is not None:
      text = (self._text if finish else self._text.settled)(tokens, opens=self._opens[prompt])
      if new := text[self._shown :]:
        self._stream(new)
        self._shown = len(text)
    if finish and self._progress is not None:
      self._finished += 1
      self._progress(self._finished)


def settings_of(settings: Mapping[str, Any], path: str = "generate") -> GenerationConfig:
  """Returns GenerationConfig fields, checked; raises ConfigError that names the nearest field."""
  if isinstance(settings.get("stop"), str):
    settings = {**settings, "stop": (settings["stop"],)}
  g = strict.from_mapping(GenerationConfig, settings, path)
  generation_config.check(g, f"{path}." if path.isidentifier() else path)
  return g
