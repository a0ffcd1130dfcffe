"""`lm-jax evaluate`: models on few-shot tasks."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from lm_jax.cli.command_flags import FLAGS, Command
from lm_jax.cli.few_shot_flags import code_runner, integers, load, models, name_of, split

if TYPE_CHECKING:
  from lm_jax.few_shot_settings import Settings
  from lm_jax.language_model import LanguageModel

FLAGS |= {
  "split": (flags.DEFINE_string, "test (the default), or dev to choose by", "test"),
  "labels": (
    flags.DEFINE_string, "of demonstrations: gold (the default), or as a control random or flipped", "gold",
  ),
  "samples": (flags.DEFINE_integer, "written answers to each prompt; several need a --temperature", 1),
  "calibrate": (
    flags.DEFINE_boolean, "measure choices without their question too: adds accuracy_mutual_info and, where "
    "a task names its content, accuracy_calibrated (arXiv:2102.09690)", False,
  ),
}  # fmt: skip


def evaluate(values: flags.FlagValues, _: list[tuple[str, str]]) -> int:
  from lm_jax import few_shot, few_shot_runs, few_shot_settings

  settings = _settings(values)
  few_shot_settings.check(settings)
  run_code = code_runner(values)
  for _, task in few_shot_settings.tasks(settings):  # what is wrong is said before a model is opened
    few_shot.check_code(task, run_code is not None or values.show_prompt)
  report = None if values.quiet else lambda line: print(f"lm-jax: {line}", file=sys.stderr, flush=True)
  rows: list[dict[str, Any]] = []
  for given in models(values.model):
    model = load(given, values, report)
    if values.show_prompt:
      _show(model, settings)
      continue
    folder = Path(values.workdir) if values.workdir else None
    rows += few_shot_runs.run(
      model.held, settings, name=name_of(given), folder=folder, report=report, quiet=values.quiet,
      run_code=run_code,
    )  # fmt: skip
  if values.show_prompt:
    return 0
  if values.json:
    print(json.dumps(rows, allow_nan=False))
  else:
    _print_table(rows)
  return 0


def _settings(values: flags.FlagValues) -> "Settings":
  from lm_jax.few_shot import Writing
  from lm_jax.few_shot_settings import Settings

  return Settings(
    tasks=split(values.tasks), shots=integers(values, "shots"), seeds=integers(values, "seeds"),
    templates=split(values.templates), label_words=split(values.label_words),
    orders=integers(values, "orders"), labels=values.labels, limit=values.limit, split=values.split,
    too_long=values.too_long, chat=values.chat, max_new_tokens=values.max_new_tokens,
    writing=Writing(values.samples, values.temperature or 0.0, values.top_p), calibrate=values.calibrate,
  )  # fmt: skip


def _show(model: "LanguageModel", settings: "Settings") -> None:
  """Prints the first item of every task as it is asked, with what may come after it."""
  from lm_jax import few_shot, few_shot_settings
  from lm_jax.reader import ModelReader

  reader = ModelReader(model.held)
  for template, task in few_shot_settings.tasks(settings):
    for prompt in few_shot_settings.prompts(settings, template, task):
      seed = prompt.seed or 0
      (one,) = few_shot.plan(
        task,
        reader,
        (prompt.shots,),
        1,
        seed,
        settings.too_long,
        settings.labels,
        prompt.order,
        settings.chat,
      )
      left = "too long" if one.demonstrations is None else f"{len(one.demonstrations)} in it"
      which = f"template {template}, label words {task.label_words}, seed {seed}, order {prompt.order}"
      print(f"----- {task.name}, {which}, {prompt.shots} shots ({left})")
      for context in one.contexts:
        print(reader.shown(context))
      print("-----", json.dumps(one.item.choices or one.item.references, ensure_ascii=False))


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
  from rich.console import Console
  from rich.table import Table

  table = Table(box=None, header_style="bold")
  steps = len({(row["model"], row["step"]) for row in rows}) > len({row["model"] for row in rows})
  for name in ("model", "task", "template", "words", "shots", "seed", "order", "metric"):
    table.add_column(name)
  for name in ("value", "± stderr", "chance", "items"):
    table.add_column(name, justify="right")
  for row in rows:
    table.add_row(
      _model(row, steps), row["task"], row["prompt_id"], row["label_words"], _shots(row), _seed(row),
      str(row["order"]), row["metric"], _text(row["value"]), _text(row["stderr"]), _text(row["chance"]),
      str(row["n_items"]),
    )  # fmt: skip
  console = Console(width=None if sys.stdout.isatty() else 140)
  console.print(table)
  if any("n_seeds" in row for row in rows):
    console.print(
      "seed *: over all seeds and templates; its error is for other items, seeds and templates", style="dim"
    )


def _model(row: dict[str, Any], steps: bool) -> str:
  name = Path(row["model"]).name
  return f"{name}@{row['step']}" if steps else name


def _seed(row: dict[str, Any]) -> str:
  return "*" if "n_seeds" in row else _text(row["seed"], "d")


def _shots(row: dict[str, Any]) -> str:
  """Returns how many were asked for, and how many there was room for, on average, if fewer."""
  asked, used = row["n_shots"], row["mean_shots"]
  return str(asked) if used in (None, asked) else f"{asked} ({used:.1f} fit)"


def _text(value: float | None, form: str = ".4f") -> str:
  return "" if value is None else format(value, form)


COMMANDS = {
  "evaluate": Command(
    evaluate, "models on few-shot tasks: description, demonstrations, query; accuracy beside likelihoods",
    (
      "model", "tasks", "shots", "seeds", "templates", "label_words", "orders", "labels", "limit", "split",
      "chat", "too_long", "calibrate", "samples", "max_new_tokens", "temperature", "top_p",
      "allow_code_execution", "without_isolation", "show_prompt", "workdir", "weights", "json", "quiet",
    ), ("model", "tasks"), resumes=True,
  ),
}  # fmt: skip
