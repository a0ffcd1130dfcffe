"""The commands that use a trained language model: generate, chat, convert."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from lm_jax import environment, generation_config, strict
from lm_jax.cli import prompt_texts
from lm_jax.cli.command_flags import GENERATION, Command
from lm_jax.generation_config import GenerationConfig
from lm_jax.strict import ConfigError

if TYPE_CHECKING:
  from lm_jax.language_model import LanguageModel
  from lm_jax.text_generation import Generated


def generate(values: flags.FlagValues, _: list[tuple[str, str]]) -> int:
  settings = _settings(values)
  prompts = prompt_texts.given(values.prompt, values.prompts)
  g = dataclasses.replace(GenerationConfig(), **settings)
  model = load(values)
  if len(prompts) == 1 and g.num_return_sequences == g.num_beams == 1 and not values.json and _is_terminal():
    _stream(model, prompts[0], settings)
    return 0
  results = _all(model, prompts, settings, values.quiet)
  if values.json:
    print(json.dumps(_as_json(values.model, g, prompts, results)))
  else:
    print(prompt_texts.table(prompts, results, for_terminal=_is_terminal()))
  return 0


def chat(values: flags.FlagValues, _: list[tuple[str, str]]) -> int:
  settings = _settings(values)
  from lm_jax.cli import talk

  return talk.talk(load(values), values.system, settings)


def convert(values: flags.FlagValues, _: list[tuple[str, str]]) -> int:
  from lm_jax import interop

  print(interop.convert(values.source, values.target, values.to, values.quiet))
  return 0


def _settings(values: flags.FlagValues) -> dict[str, Any]:
  """Returns the fields of GenerationConfig that are given, checked before a model is opened."""
  given = {name: getattr(values, name) for name in GENERATION if getattr(values, name) is not None}
  if "stop" in given:
    given["stop"] = tuple(stop.replace("\\n", "\n") for stop in given["stop"])
  generation_config.check(strict.from_mapping(GenerationConfig, given, "generation"), "--")
  return given


def load(values: flags.FlagValues) -> "LanguageModel":
  from lm_jax.language_model import LanguageModel

  environment.enable_compilation_cache()
  report = None if values.quiet else lambda line: print(f"lm-jax: {line}", file=sys.stderr, flush=True)
  model = LanguageModel.load(values.model, weights=values.weights, report=report, name="--model")
  if not model.config.causal:
    raise ConfigError(f"--model={values.model}: is an encoder, which continues no text; must be a causal LM")
  model.held.require_tokenizer(f"--model={values.model}")
  return model


def _is_terminal() -> bool:
  return sys.stdout.isatty()


def _stream(model: "LanguageModel", prompt: str, settings: dict[str, Any]) -> None:
  from rich.console import Console

  waiting = Console(stderr=True).status("waiting for the first token; programs are compiled once")
  shown = [prompt]  # until there is something to go on with

  def show(text: str) -> None:
    waiting.stop()
    print("".join(map(prompt_texts.printable, (*shown, text))), end="", flush=True)
    shown.clear()

  waiting.start()
  try:
    model.generate(prompt, stream=show, **settings)
  finally:
    show("")
    print()


def _all(
  model: "LanguageModel", prompts: Sequence[str], settings: dict[str, Any], quiet: bool
) -> list[list["Generated"]]:
  from lm_jax.data.progress import Progress

  total = len(prompts) * settings.get("num_return_sequences", GenerationConfig.num_return_sequences)
  with Progress("generating", total, quiet=quiet or total == 1, unit="continuations") as bar:
    return model.generate(prompts, progress=lambda _: bar.advance(1), **settings)


def _as_json(
  model: str, g: GenerationConfig, prompts: Sequence[str], results: Sequence[Sequence["Generated"]]
) -> dict[str, Any]:
  pairs = zip(prompts, results, strict=True)
  return {
    "model": model,
    "settings": strict.to_dict(g),
    "prompts": [
      {"prompt": prompt, "continuations": [dataclasses.asdict(one) for one in found]}
      for prompt, found in pairs
    ],
  }


COMMANDS = {
  "generate": Command(
    generate, "go on from prompts: by default 50 tokens drawn from the model's own distribution",
    ("model", "prompt", "prompts", *GENERATION, "weights", "json", "quiet"), ("model",),
  ),
  "chat": Command(
    chat, "talk with a model at the terminal, or with questions from stdin, one a line",
    ("model", "system", *GENERATION, "weights", "quiet"), ("model",),
  ),
  "convert": Command(
    convert, "write a model as a folder of Hugging Face transformers, or as lm_jax's own",
    ("source", "target", "to", "quiet"), ("source", "target"),
  ),
}  # fmt: skip
