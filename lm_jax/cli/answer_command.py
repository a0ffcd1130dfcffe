"""`lm-jax answer`: answers to questions, read in passages of a person's own documents, and their sources."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from lm_jax import generation_config, strict
from lm_jax.cli import command_flags, model_commands, prompt_texts
from lm_jax.cli.command_flags import FLAGS, Command
from lm_jax.generation_config import GenerationConfig
from lm_jax.strict import ConfigError, require

if TYPE_CHECKING:
  from lm_jax.conversation import Turn
  from lm_jax.pretrained import Pretrained
  from lm_jax.prompt_tasks.retrieval import Found, KnowledgeBase
  from lm_jax.text_generation import Generated

FLAGS |= {
  "documents": (
    flags.DEFINE_string,
    "folder of .txt, .md and .jsonl (fields id, text, title), or a file",
    None,
  ),
  "question": (flags.DEFINE_multi_string, "may be repeated (default: stdin's lines)", None),
  "passages": (flags.DEFINE_integer, "of the documents that are read for an answer, at most", 3),
}
DRAWS = ("top_k", "top_p", "min_p")
WRITING = ("max_new_tokens", "temperature", *DRAWS, "repetition_penalty", "stop", "seed")
# Without a chat template a model goes on with text, and its answer is a line.
PLAIN, PLAIN_STOP = "Question: {}\nAnswer:", ("\n",)
CHAT = "Answer this question from the text above: {}"


@dataclasses.dataclass(frozen=True)
class Asked:
  """A question as it is asked.

  Attributes:
    found: passages that are read, the best first; of none there is no answer.
    left_out: passages that there was no room for.
    turn: None where nothing was found.
  """

  question: str
  found: tuple["Found", ...]
  left_out: int = 0
  turn: "Turn | None" = None


def answer(values: flags.FlagValues, _: list[tuple[str, str]]) -> int:
  from lm_jax.prompt_tasks import retrieval

  command_flags.positive(values, "passages")
  given = _settings(values)
  questions = _questions(values.question)
  path = Path(values.documents).expanduser()
  base, others = retrieval.load(path), retrieval.files(path)[1]
  _tell(values, f"{len(base.ids)} documents, {len(base.passages)} passages{_not_read(others)}")
  p = model_commands.load(values).held
  g = dataclasses.replace(GenerationConfig(temperature=0.0, stop=_stop(p)), **given)
  asked = [_asked(p, g, base, question, values.passages) for question in questions]
  found = _answers(p, g, asked, values.quiet)
  for i, it in enumerate(found, 1):
    if it is not None and it.finish == "length":
      _tell(values, f"question {i}: the answer may be cut, it has the --max_new_tokens={g.max_new_tokens}")
  if values.json:
    print(json.dumps(_as_json(values, g, asked, found)))
  else:
    text = "\n\n".join(_shown(*pair) for pair in zip(asked, found, strict=True))
    print(prompt_texts.printable(text) if sys.stdout.isatty() else text)
  return 0


def _settings(values: flags.FlagValues) -> dict[str, Any]:
  """Returns the fields of GenerationConfig that are given, checked before anything is opened."""
  given = {name: getattr(values, name) for name in WRITING if getattr(values, name) is not None}
  if "stop" in given:
    given["stop"] = tuple(stop.replace("\\n", "\n") for stop in given["stop"])
  g = dataclasses.replace(GenerationConfig(temperature=0.0), **given)
  generation_config.check(strict.convert(GenerationConfig, strict.to_dict(g), "generation"), "--")
  for name in DRAWS:
    drawn = name not in given or not g.is_greedy
    require(drawn, f"--{name}", given.get(name), "left out, or --temperature given: at 0, nothing is drawn")
  return given


def _questions(given: Sequence[str] | None) -> list[str]:
  if given is None and sys.stdin.isatty():
    raise ConfigError("--question=... must be given, or questions on stdin, one a line")
  try:
    lines = [line.strip() for line in (sys.stdin if given is None else given)]
  except UnicodeDecodeError as error:
    raise ConfigError(f"stdin: is not UTF-8 ({error.reason})") from None
  if not any(lines):
    where = "stdin" if given is None else "--question="
    raise ConfigError(f"{where}: has no questions; must be one or more")
  return [line for line in lines if line]


def _not_read(others: Sequence[Path]) -> str:
  if not others:
    return ""
  kinds = ", ".join(sorted({file.suffix or file.name for file in others}))
  return f"; {len(others)} other files are not read ({kinds})"


def _stop(p: "Pretrained") -> tuple[str, ...]:
  return PLAIN_STOP if p.chat_template is None else ()


def _asked(p: "Pretrained", g: GenerationConfig, base: "KnowledgeBase", question: str, count: int) -> Asked:
  """Returns a question with the passages that there is room for beside its answer, the best ones.

  Raises:
    ConfigError: there is none for a single one.
  """
  found = base.search(question, count)
  for kept in range(len(found), 0, -1):
    turn = _turn(p, found[:kept], question)
    if len(turn.tokens) + g.max_new_tokens <= p.model.context_length:
      return Asked(question, tuple(found[:kept]), len(found) - kept, turn)
  if found:
    raise ConfigError(
      f"question {question!r}: has {len(turn.tokens)} tokens with a single passage, which with "
      f"max_new_tokens={g.max_new_tokens} do not fit the model's context of {p.model.context_length}"
    )
  return Asked(question, ())


def _turn(p: "Pretrained", found: Sequence["Found"], question: str) -> "Turn":
  from lm_jax import conversation

  read = [f"{one.passage.title}\n{one.passage.text}".strip() for one in found]
  if p.chat_template is not None:
    content = "\n\n".join([*read, CHAT.format(question)])
    return conversation.turn(p, [{"role": "user", "content": content}])
  tokens = p.require_tokenizer("answer").encode("\n\n".join([*read, PLAIN.format(question)]))
  return conversation.Turn([*p.begin, *tokens], p.specials.get("end"))


def _answers(
  p: "Pretrained", g: GenerationConfig, asked: Sequence[Asked], quiet: bool
) -> list["Generated | None"]:
  """Returns the answers; None where nothing was found to answer from."""
  from lm_jax import text_generation
  from lm_jax.data.progress import Progress

  turns = [one.turn for one in asked if one.turn is not None]
  if not turns:
    return [None] * len(asked)
  with Progress("answering", len(turns), quiet=quiet, unit="answers") as bar:
    rows = [turn.tokens for turn in turns]
    found = text_generation.generate(p, rows, g, end=turns[0].end, progress=lambda _: bar.advance(1))
  answers = iter(found)
  return [None if one.turn is None else next(answers)[0] for one in asked]


def _shown(asked: Asked, found: "Generated | None") -> str:
  lines = [f"question: {asked.question}"]
  if found is None:
    return "\n".join([*lines, "no answer: no passage of the documents has a word of it"])
  lines.append(f"answer: {found.text.strip()}")
  lines += [f"  {one.score:.2f}  {one.passage.id}" for one in asked.found]
  if asked.left_out:
    lines.append(
      f"  {asked.left_out} more of {asked.left_out + len(asked.found)} found: the context has no room"
    )
  return "\n".join(lines)


def _as_json(
  values: flags.FlagValues,
  g: GenerationConfig,
  asked: Sequence[Asked],
  found: Sequence["Generated | None"],
) -> dict[str, Any]:
  return {
    "model": values.model, "documents": values.documents, "settings": strict.to_dict(g),
    "answers": [
      {
        "question": one.question, "answer": it and it.text.strip(), "finish": it and it.finish,
        "sources": [{**of.passage._asdict(), "score": of.score} for of in one.found],
        "passages_left_out": one.left_out,
      }
      for one, it in zip(asked, found, strict=True)
    ],
  }  # fmt: skip


def _tell(values: flags.FlagValues, line: str) -> None:
  if not values.quiet:
    print(f"lm-jax: {line}", file=sys.stderr, flush=True)


COMMANDS = {
  "answer": Command(
    answer, "answers to questions from documents, and their sources: the likeliest text (--temperature=0)",
    ("model", "documents", "question", "passages", *WRITING, "weights", "json", "quiet"),
    ("model", "documents"),
  ),
}  # fmt: skip
