"""Few-shot prompting: what a model answers after k demonstrations, and what that is worth."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lm_jax import few_shot_scores
from lm_jax.config import Config
from lm_jax.few_shot_prompts import Asked, Labels, TooLong, neutral_contexts, plan, premise
from lm_jax.few_shot_scores import Result, means
from lm_jax.generation_config import GenerationConfig
from lm_jax.interop import runs
from lm_jax.pretrained import Pretrained
from lm_jax.prompt_tasks import FewShotTask, Item, association, expressions, make
from lm_jax.reader import ModelReader, Prompt, Reader
from lm_jax.sandbox import Outcome
from lm_jax.scorer import Likelihood
from lm_jax.scores import Score
from lm_jax.strict import ConfigError
from lm_jax.tasks.text import Text

__all__ = [
  "Asked", "FewShotTask", "Item", "Labels", "Result", "TooLong", "Writing", "ask", "association", "evaluate",
  "evaluate_params", "make", "means", "plan",
]  # fmt: skip

RunCode = Callable[[Sequence[str]], list[Outcome]]
Progress = Callable[[int], None]  # takes how many choices more are read, or answers written


@dataclasses.dataclass(frozen=True)
class Writing:
  """How answers are written.

  Attributes:
    samples: answers to each prompt.
    temperature: 0: the likeliest token, always; then one sample is all there is.
  """

  samples: int = 1
  temperature: float = 0.0
  top_p: float | None = None
  seed: int = 0


def ask(
  task: FewShotTask,
  reader: Reader,
  asked: Sequence[Asked],
  *,
  writing: Writing = Writing(),
  run_code: RunCode | None = None,
  calibrate: bool = False,
  progress: Progress | None = None,
) -> list[Result]:
  """Returns what a model makes of items, those left out that it has no room for.

  Args:
    calibrate: measure choices after what has no content too: a premise and, where a task has them, queries.
    run_code: what programs are run by; a task of code is an error without it.
  """
  asked = [one for one in asked if one.demonstrations is not None]
  if task.kind in ("generation", "code"):
    return _written(task, reader, asked, writing, run_code, progress)
  # Each item's choices, and then the same after what has no content: its queries, and a mere premise.
  without = [_without_content(task, one) if calibrate else [] for one in asked]
  requests = []
  for one, contexts in zip(asked, without, strict=True):
    requests += [(one.context(c), choice) for c, choice in enumerate(one.item.choices)]
    requests += [(context, choice) for context in contexts for choice in one.item.choices]
  found = iter(reader.loglikelihood(requests, progress))
  results = []
  for one, contexts in zip(asked, without, strict=True):
    likelihoods = [[next(found) for _ in one.item.choices] for _ in range(1 + len(contexts))]
    if any(likelihood.cut for of in likelihoods for likelihood in of):
      continue  # too long after all: the longest by characters was not the longest in tokens
    results.append(_scored(task, one, *likelihoods))
  return results


def _without_content(task: FewShotTask, asked: Asked) -> list[Prompt]:
  """Returns the contexts that calibration needs, as `few_shot_scores.of_choice` takes them."""
  if task.kind != "choice":
    return []
  bare = premise(asked)
  return [*([] if bare is None else [bare]), *neutral_contexts(task, asked)]


def num_without_content(task: FewShotTask, item: Item) -> int:
  """Returns how many contexts without content calibration reads an item's choices after."""
  return (item.contexts is None) + len(item.neutral) if task.kind == "choice" else 0


def _scored(
  task: FewShotTask, asked: Asked, found: Sequence[Likelihood], *without: Sequence[Likelihood]
) -> Result:
  if task.kind == "continuation":
    scores = few_shot_scores.of_continuation(found[0])
  else:
    scores = few_shot_scores.of_choice(asked.item, found, *without)
  log_p, num_tokens = (tuple(getattr(one, name) for one in found) for name in ("log_p", "num_tokens"))
  sure = few_shot_scores.choice_probabilities(np.array(log_p)).max() if task.kind == "choice" else None
  return Result(asked, scores, log_p, num_tokens, confidence=None if sure is None else float(sure))


def _written(
  task: FewShotTask,
  reader: Reader,
  asked: Sequence[Asked],
  writing: Writing,
  run_code: RunCode | None,
  progress: Progress | None,
) -> list[Result]:
  check_code(task, run_code is not None)
  if not asked:
    return []
  g = GenerationConfig(
    max_new_tokens=task.max_new_tokens, num_return_sequences=writing.samples, stop=task.stop,
    temperature=writing.temperature, top_p=writing.top_p, seed=writing.seed,
  )  # fmt: skip
  answers = reader.write([one.contexts[0] for one in asked], g, progress)
  if task.kind == "generation":
    sure = _confidence(reader, [(one.contexts[0], of[0]) for one, of in zip(asked, answers, strict=True)])
    return [
      Result(one, few_shot_scores.of_written(task, one.item, of), written=tuple(of), confidence=confidence)
      for one, of, confidence in zip(asked, answers, sure, strict=True)
    ]
  render = expressions.text(task.program, f"task {task.name!r}.program")
  programs = [
    render(one.item.id, {**one.item.fields, "completion": sample})
    for one, of in zip(asked, answers, strict=True)
    for sample in of
  ]
  outcomes = iter(run_code(programs))
  results = []
  for one, of in zip(asked, answers, strict=True):
    found = [next(outcomes) for _ in of]
    reasons = tuple(outcome.reason for outcome in found)
    results.append(Result(one, few_shot_scores.of_code(found), written=tuple(of), outcomes=reasons))
  return results


def _confidence(reader: Reader, written: Sequence[tuple[Prompt, str]]) -> list[float | None]:
  """Returns the log p of each (context, answer) for a token of it, see `few_shot_scores.Result`.

  Written answers are read again, so that any reader can tell, and the end of the answer is no part of it.
  """
  worded = [request for request in written if request[1].strip()]
  found = iter(_likelihoods(reader, worded))
  sure: list[float | None] = []
  for _, answer in written:
    one = next(found) if answer.strip() else None
    known = one is not None and not one.cut
    sure.append(-math.inf if not answer.strip() else one.log_p / one.num_tokens if known else None)
  return sure


def _likelihoods(reader: Reader, requests: Sequence[tuple[str, str]]) -> list[Likelihood | None]:
  """Returns the likelihoods of requests, None of those that cannot be read.

  What a model wrote may become one token with the end of the prompt, or be more tokens when it is read than
  when it was written. One such request is an error of all that are made together: they are halved until it is
  found.
  """
  if not requests:
    return []
  try:
    return list(reader.loglikelihood(requests, None))
  except ConfigError:
    if len(requests) == 1:
      return [None]
    middle = len(requests) // 2
    return _likelihoods(reader, requests[:middle]) + _likelihoods(reader, requests[middle:])


def check_code(task: FewShotTask, is_allowed: bool) -> None:
  """Raises ConfigError for a task of code where none may be run."""
  if task.kind == "code" and not is_allowed:
    raise ConfigError(
      f"task {task.name!r}: runs code that the model writes; say --allow_code_execution for it, in a sandbox"
    )


def evaluate(
  task: FewShotTask, reader: Reader, shots: Sequence[int], num_examples: int | None, seed: int
) -> list[Score]:
  """Returns the scores for each number of shots; see `few_shot_prompts.plan`."""
  results = ask(task, reader, plan(task, reader, shots, num_examples, seed))
  return [score for k in shots for score in means(task, [r for r in results if r.asked.shots == k], k)]


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
