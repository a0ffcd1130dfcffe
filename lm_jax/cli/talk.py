"""`lm-jax chat`: a conversation at the terminal, or with questions on stdin."""

import contextlib
import importlib.util
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from lm_jax import text_generation
from lm_jax.cli.prompt_texts import printable
from lm_jax.generation_config import GenerationConfig
from lm_jax.language_model import LanguageModel
from lm_jax.strict import ConfigError, nearest

COMMANDS = {"/reset": "begins a new conversation", "/exit": "ends, as Ctrl-D does"}
NO_TEMPLATE = (
  'the model has no chat template: it reads plain text, "User: ..." and "Assistant: ...", and may not have '
  "learnt to answer"
)


def talk(model: LanguageModel, system: str | None, settings: dict[str, Any]) -> int:
  """Answers until the end of the input; returns the exit code.

  At a terminal, what goes wrong with a question is told, and the next one is asked for.
  """
  interactive = sys.stdin.isatty()
  if model.held.chat_template is None:
    _tell(NO_TEMPLATE)
  if interactive:
    _tell(", ".join(f"{name} {what}" for name, what in COMMANDS.items()) + ", Ctrl-C stops an answer")
  chat = _Chat(model, system, settings)
  for line in _typed() if interactive else _piped():
    if line.startswith("/") and line[1:].isalpha():
      if line == "/exit":
        break
      try:
        chat.command(line)
      except ConfigError as error:
        _tell(str(error))
    elif line:
      try:
        chat.answer(line)
      except ConfigError as error:
        if not interactive:
          raise
        _tell(str(error))
  return 0


class _Chat:
  """A conversation so far."""

  def __init__(self, model: LanguageModel, system: str | None, settings: dict[str, Any]):
    self._model, self._settings = model, settings
    self._start = [] if system is None else [{"role": "system", "content": system}]
    self._messages = list(self._start)
    # Each answer has a seed of its own, the next one: with the same, answers would begin alike.
    self._seed = settings.get("seed", GenerationConfig.seed)

  def command(self, name: str) -> None:
    if name not in COMMANDS:
      raise ConfigError(f"{name}: no such command{nearest(name, COMMANDS)}")
    self._messages = list(self._start)

  def answer(self, question: str) -> None:
    """Prints the answer as it grows; one that Ctrl-C stopped is kept as far as it came."""
    asked, said = [*self._messages, {"role": "user", "content": question}], []

    def show(text: str) -> None:
      said.append(text)
      print(printable(text) if sys.stdout.isatty() else text, end="", flush=True)

    with _Interrupt() as interrupt, contextlib.suppress(KeyboardInterrupt):
      settings = self._settings | {"seed": self._seed}
      text_generation.answer(self._model.held, asked, settings, stream=show, is_stopped=interrupt.is_set)
    if interrupt.is_set():
      _tell("stopped")
    print(flush=True)
    self._seed = (self._seed + 1) % 2**32
    self._messages = [*asked, {"role": "assistant", "content": "".join(said)}]


class _Interrupt(threading.Event):
  """Is set by Ctrl-C within a `with`.

  Python's own KeyboardInterrupt may come while jax is called back by the garbage collector, and is lost then.
  """

  def __enter__(self) -> "_Interrupt":
    self._before = signal.signal(signal.SIGINT, lambda *_: self.set())
    return self

  def __exit__(self, *_) -> None:
    signal.signal(signal.SIGINT, self._before)


def _typed() -> Iterator[str]:
  """Yields what is typed at the terminal."""
  if importlib.util.find_spec("readline"):  # lines can be edited, and called back
    import readline  # noqa: F401
  while True:
    try:
      yield input("> ").strip()
    except EOFError:
      print()
      return
    except KeyboardInterrupt:
      print()
      _tell("/exit or Ctrl-D ends")


def _piped() -> Iterator[str]:
  for line in sys.stdin:
    yield line.strip()


def _tell(line: str) -> None:
  print(f"lm-jax: {line}", file=sys.stderr, flush=True)
