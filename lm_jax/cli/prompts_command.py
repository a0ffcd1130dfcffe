"""`lm-jax prompts`: the best prompt of each task, chosen on dev and measured on test."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from lm_jax.cli.command_flags import FLAGS, Command
from lm_jax.cli.few_shot_flags import code_runner, integers, load, models, name_of, split

if TYPE_CHECKING:
  from rich.console import Console

  from lm_jax.few_shot_settings import Prompt
  from lm_jax.prompt_selection import Selection
  from lm_jax.uncertainty import Estimate

FLAGS |= {
  "metric": (flags.DEFINE_string, "score to choose by (default: the first of each task)", None),
  "dev_limit": (flags.DEFINE_integer, "dev items of a task at most, a fixed random choice", 100),
  "halving": (
    flags.DEFINE_boolean, "successive halving: only the better half of the prompts is asked twice as many "
    "dev items, and so on", False,
  ),
}  # fmt: skip


def prompts(values: flags.FlagValues, _: list[tuple[str, str]]) -> int:
  from lm_jax import prompt_selection
  from lm_jax.few_shot_settings import Settings

  settings = Settings(
    tasks=split(values.tasks), shots=integers(values, "shots"), seeds=integers(values, "seeds"),
    templates=split(values.templates), label_words=split(values.label_words),
    orders=integers(values, "orders"), limit=values.limit, too_long=values.too_long,
  )  # fmt: skip
  run_code = code_runner(values)
  prompt_selection.check(settings, values.metric, values.dev_limit, may_run_code=run_code is not None)
  report = None if values.quiet else lambda line: print(f"lm-jax: {line}", file=sys.stderr, flush=True)
  selections: list[Selection] = []
  for given in models(values.model):
    selections += prompt_selection.select(
      load(given, values, report).held, settings, name=name_of(given), metric=values.metric,
      dev_limit=values.dev_limit, halving=values.halving,
      folder=Path(values.workdir) if values.workdir else None, report=report, quiet=values.quiet,
      run_code=run_code,
    )  # fmt: skip
  if values.json:
    print(json.dumps([dataclasses.asdict(one) for one in selections], allow_nan=False))
  else:
    _print(selections, show_prompt=values.show_prompt)
  return 0


def _print(selections: list["Selection"], *, show_prompt: bool) -> None:
  from rich.console import Console

  console = Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False)
  for one in selections:
    _print_one(console, one)
    if show_prompt:
      console.print("-----")
      sys.stdout.write("no room for the first test item\n" if one.prompt is None else f"{one.prompt}\n")
      console.print("-----")


def _print_one(console: "Console", one: "Selection") -> None:
  from rich.table import Table

  table = Table(box=None, header_style="bold")
  for name in ("", "template", "words", "shots", "seed", "order"):
    table.add_column(name)
  for name in ("dev", "test", "± stderr", "items"):
    table.add_column(name, justify="right")
  dev_of = {candidate.prompt: candidate.dev_score for candidate in one.candidates}
  for what, prompt, test in (
    ("chosen", one.chosen, one.chosen_on_test), ("default", one.default, one.default_on_test)
  ):  # fmt: skip
    table.add_row(what, *_places(prompt), _text(dev_of.get(prompt)), *_estimate(test))
  spread, cost, difference = one.spread, one.cost, one.difference
  rows = "dev rows" if one.dev_rows == "dev" else "train rows, held out"
  console.print(f"{Path(one.model).name}, {one.task}: {one.metric}", style="bold")
  console.print(table)
  interval = difference.interval
  inside = "" if interval is None else f" [{interval.low:+.4f}, {interval.high:+.4f}]"
  lines = [
    f"chosen - default on test: {_text(difference.value, '+.4f')}{inside}, {difference.n_items} items",
    f"optimism, chosen on dev less on test: {_text(one.optimism, '+.4f')}; the best of {cost.candidates} "
    "candidates looks too good on dev",
    f"dev scores of all candidates: mean {spread.mean:.4f}, sd {_text(spread.sd)}, min {spread.min:.4f}, max "
    f"{spread.max:.4f}, on {spread.n_items} items",
    f"cost of choosing: {cost.labeled_examples} labeled examples ({rows}), {cost.prompts_read} prompts of "
    f"{cost.prompts_in_full}, {cost.tokens_read} tokens, {cost.seconds:.1f} s",
  ]
  console.print("\n".join(lines) + "\n")


def _places(prompt: "Prompt") -> list[str]:
  seed = "" if prompt.seed is None else str(prompt.seed)
  return [prompt.template, prompt.label_words, str(prompt.shots), seed, str(prompt.order)]


def _estimate(of: "Estimate") -> list[str]:
  return [_text(of.value), _text(of.stderr), str(of.n_items)]


def _text(value: float | None, form: str = ".4f") -> str:
  return "missing" if value is None else format(value, form)


COMMANDS = {
  "prompts": Command(
    prompts, "the best prompt of each task (template, words, shots, order), chosen on dev, measured on test",
    (
      "model", "tasks", "shots", "templates", "label_words", "orders", "seeds", "metric", "dev_limit",
      "halving", "limit", "too_long", "allow_code_execution", "without_isolation", "show_prompt", "workdir",
      "weights", "json", "quiet",
    ), ("model", "tasks"), resumes=True,
  ),
}  # fmt: skip
