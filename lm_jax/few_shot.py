"""Few-shot prompting: what a model answers after k demonstrations, and what that is worth.

A prompt that is too long for a model loses whole demonstrations, the first ones first; how many are left is
part of an item's result. An item that is too long without any is not asked, and missing in the means.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from lm_jax import few_shot_scores
from lm_jax.config import Config
from lm_jax.generation_config import GenerationConfig
from lm_jax.interop import runs
from lm_jax.pretrained import Pretrained
from lm_jax.prompt_tasks import FewShotTask, Item, association, make
from lm_jax.reader import ModelReader, Reader
from lm_jax.scorer import Likelihood
from lm_jax.scores import Score
from lm_jax.strict import ConfigError, require
from lm_jax.tasks.text import Text

__all__ = [
  "Asked",
  "FewShotTask",
  "Item",
  "Result",
  "ask",
  "association",
  "evaluate",
  "evaluate_params",
  "make",
]

TooLong = Literal["drop", "refuse"]


@dataclasses.dataclass(frozen=True)
class Asked:
  """An item as it is asked.

  Attributes:
    shots: demonstrations that are asked for.
    demonstrations: those that there is room for, the last ones; None where there is none for the query.
    contexts: what is read before each choice, where these differ; else the one prompt.
  """

  item: Item
  shots: int
  demonstrations: tuple[Item, ...] | None
  contexts: tuple[str, ...]

  def context(self, choice: int) -> str:
    return self.contexts[choice if len(self.contexts) > 1 else 0]

  @property
  def digest(self) -> str:
    """A hash of what is read and of the choices."""
    text = "\0".join([*self.contexts, "", *self.item.choices])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Result:
  """What a model made of an item.

  Attributes:
    scores: {metric: value}.
    log_p: of each choice, nats.
    num_tokens: of each choice.
    written: answers, where the model writes.
  """

  asked: Asked
  scores: dict[str, float]
  log_p: tuple[float, ...] = ()
  num_tokens: tuple[int, ...] = ()
  written: tuple[str, ...] = ()


# --- prompts ----------------------------------------------------------------------------------------


def plan(
  task: FewShotTask,
  reader: Reader,
  shots: Sequence[int],
  num_examples: int | None,
  seed: int,
  too_long: TooLong = "drop",
) -> list[Asked]:
  """Returns the items with their prompts, for each number of shots in turn.

  Args:
    num_examples: at most so many items, the same for any `shots` and `seed`; None: all.
    seed: of the demonstrations.
    too_long: "refuse": a prompt that does not fit is an error.
  """
  for k in shots:
    require(k >= 0, "shots", k, "0 or greater")
  require(num_examples is None or num_examples > 0, "num_examples", num_examples, "greater than 0")
  items = task.sample(num_examples)
  asked = [_asked(task, item, k, tuple(task.demonstrations(item, k, seed))) for k in shots for item in items]
  pending = list(range(len(asked)))
  while pending:
    excess = reader.excess([_longest(task, asked[i]) for i in pending])
    pending = [i for i, over in zip(pending, excess, strict=True) if over > 0]
    if pending and too_long == "refuse":
      one = asked[pending[0]]
      raise ConfigError(
        f"task {task.name!r}: {len(pending)} prompts are too long for the model's context, e.g. one of "
        f"{one.shots} shots; ask for fewer, or let demonstrations be dropped"
      )
    for i in pending:
      one = asked[i]
      left = one.demonstrations[1:] if one.demonstrations else None
      asked[i] = _asked(task, one.item, one.shots, left)
    pending = [i for i in pending if asked[i].demonstrations is not None]
  return asked


def _asked(task: FewShotTask, item: Item, shots: int, demonstrations: tuple[Item, ...] | None) -> Asked:
  if demonstrations is None:
    return Asked(item, shots, None, ())
  differing = range(len(item.contexts)) if item.contexts else range(1)
  return Asked(item, shots, demonstrations, tuple(task.context(item, demonstrations, c) for c in differing))


def _longest(task: FewShotTask, asked: Asked) -> tuple[str, str | int]:
  """Returns the longest of what is read and comes after it, by characters."""
  if not asked.item.choices:
    return asked.contexts[0], task.max_new_tokens
  pairs = [(asked.context(c), choice) for c, choice in enumerate(asked.item.choices)]
  return max(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))


# --- answers ----------------------------------------------------------------------------------------


def ask(task: FewShotTask, reader: Reader, asked: Sequence[Asked]) -> list[Result]:
  """Returns what a model makes of items, those left out that it has no room for."""
  asked = [one for one in asked if one.demonstrations is not None]
  if task.kind in ("generation", "code"):
    return _written(task, reader, asked)
  requests = [(one.context(c), choice) for one in asked for c, choice in enumerate(one.item.choices)]
  found = iter(reader.loglikelihood(requests))
  return [_scored(task, one, [next(found) for _ in one.item.choices]) for one in asked]


def _scored(task: FewShotTask, asked: Asked, found: Sequence[Likelihood]) -> Result:
  if task.kind == "continuation":
    scores = few_shot_scores.of_continuation(found[0])
  else:
    scores = few_shot_scores.of_choice(asked.item, found)
  return Result(asked, scores, tuple(one.log_p for one in found), tuple(one.num_tokens for one in found))


def _written(task: FewShotTask, reader: Reader, asked: Sequence[Asked]) -> list[Result]:
  g = GenerationConfig(max_new_tokens=task.max_new_tokens, temperature=0, stop=task.stop)
  answers = reader.write([one.contexts[0] for one in asked], g, None)
  return [Result(one, {}, written=tuple(of)) for one, of in zip(asked, answers, strict=True)]


def evaluate(
  task: FewShotTask, reader: Reader, shots: Sequence[int], num_examples: int | None, seed: int
) -> list[Score]:
  """Returns the scores for each number of shots; see `plan`."""
  results = ask(task, reader, plan(task, reader, shots, num_examples, seed))
  return [score for k in shots for score in means(task, [r for r in results if r.asked.shots == k], k)]


def means(task: FewShotTask, results: Sequence[Result], shots: int) -> list[Score]:
  """Returns the scores of one number of shots."""
  items = [result.asked.item for result in results]
  return few_shot_scores.means([r.scores for r in results], items, task.name, shots, task.template)


def evaluate_params(config: Config, task: Text, params: Any) -> list[Score]:
  """Returns the scores of a text model on all tasks that `config.eval` asks for."""
  e, prepared = config.eval, task.prepared
  begin = runs.begin(config, prepared.ids)
  reader = ModelReader(Pretrained(config.model, params, prepared.tokenizer, prepared.ids, begin))
  return [
    score
    for name in e.few_shot
    for score in evaluate(make(name), reader, e.shots, e.few_shot_examples, e.seed)
  ]
