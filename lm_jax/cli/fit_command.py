"""`lm-jax fit`: a scaling law of a table or a workdir, with all that a fit must state."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from lm_jax.cli.command_flags import Command
from lm_jax.cli.table_flags import TABLE_FLAGS, table_of
from lm_jax.strict import ConfigError, require

if TYPE_CHECKING:
  from lm_jax.analysis.curve_table import CurveTable
  from lm_jax.analysis.loss_points import LossPoints
  from lm_jax.analysis.scaling_laws.summary import Options

_FLAGS = TABLE_FLAGS | {
  "law": (
    flags.DEFINE_string, "chinchilla (the default), kaplan, power, bnsl, data_constrained, isoflop, envelope",
    "chinchilla",
  ),
  "loss": (flags.DEFINE_string, "of log residuals: huber (the default), lad or mse", "huber"),
  "delta": (flags.DEFINE_float, "where huber turns from squares to absolute values (default: 1e-3)", None),
  "drop_highest": (flags.DEFINE_integer, "leave out so many of the highest losses", 0),
  "edges": (
    flags.DEFINE_string,
    "points whose best learning rate is at the edge of its sweep: keep (the default) or drop", "keep",
  ),
  "n": (flags.DEFINE_string, "which parameters are N: total (the default) or nonembedding", "total"),
  "c": (flags.DEFINE_string, "what compute is: 6nd (the default, 6 N D) or exact (the table's)", "6nd"),
  "x": (flags.DEFINE_string, "variable of --law=power and bnsl: N (the default), D or C", "N"),
  "breaks": (flags.DEFINE_integer, "breaks of --law=bnsl", 1),
  "bootstrap": (flags.DEFINE_integer, "resamples for the intervals; 0: no intervals", 4000),
  "cluster": (
    flags.DEFINE_string, "what a resample draws: point (the default) or run, whose checkpoints go together",
    "point",
  ),
  "budgets": (flags.DEFINE_string, "training FLOPs to allocate, with commas (default: decades)", None),
  "cutoffs": (
    flags.DEFINE_string, "training FLOPs, with commas: fit below, predict above (default: quantiles)", None,
  ),
  "seed": (flags.DEFINE_integer, "of the resamples: the same seed, the same intervals", 42),
  "figure": (flags.DEFINE_string, "file for a figure: .png, .svg or .pdf", None),
}  # fmt: skip


def fit(values: flags.FlagValues, _: list[tuple[str, str]]) -> int:
  from lm_jax.analysis.scaling_laws import figure, summary, summary_text

  options = _options(values)
  ending = _ending(values.figure)
  table = table_of(values, quiet=True)  # the text and the JSON say the same
  result = summary.summarize(_conventions(values, table), options)
  tree = result.tree | {"columns": dict(table.columns)}
  if values.figure:
    Path(values.figure).write_bytes(figure.encoded(result, ending))
  if values.json:
    print(json.dumps(_plain(tree), allow_nan=False))
  else:
    print(summary_text.text(tree))
    print("\n".join(["", *summary_text.wrapped(f"columns of {table.told()}")]))
  return 0


def _plain(value: Any) -> Any:
  """Returns JSON-ready data with every digit, in which what is not a finite number is null."""
  if isinstance(value, dict):
    return {key: _plain(v) for key, v in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(v) for v in value]
  if isinstance(value, np.generic):
    value = value.item()
  return None if isinstance(value, float) and not math.isfinite(value) else value


def _options(values: flags.FlagValues) -> "Options":
  from lm_jax.analysis.scaling_laws.estimators import Estimator
  from lm_jax.analysis.scaling_laws.summary import LAWS, Options
  from lm_jax.strict import choose

  choose(dict.fromkeys(LAWS), values.law, "--law")
  require(values.edges in ("keep", "drop"), "--edges", values.edges, "keep or drop")
  require(values.bootstrap == 0 or values.bootstrap > 1, "--bootstrap", values.bootstrap, "0, or 2 and more")
  if values.law in ("isoflop", "envelope"):
    require(values.bootstrap > 1, "--bootstrap", values.bootstrap, f"2 or more for --law={values.law}")
  return Options(
    values.law, Estimator(values.loss, values.delta), values.x, values.breaks, values.drop_highest,
    values.edges, values.bootstrap, values.cluster, values.seed, _numbers(values, "budgets"),
    _numbers(values, "cutoffs"),
  )  # fmt: skip


def _numbers(values: flags.FlagValues, name: str) -> tuple[float, ...]:
  text = getattr(values, name)
  try:
    numbers = tuple(float(part) for part in (text or "").split(",") if part.strip())
  except ValueError:
    raise ConfigError(f"--{name}={text}: must be numbers with commas between, e.g. 1e20,1e21") from None
  for number in numbers:
    if not (number > 0 and math.isfinite(number)):
      raise ConfigError(f"--{name}={number:g}: must be a finite number greater than 0")
  return numbers


def _conventions(values: flags.FlagValues, table: "CurveTable") -> dict[tuple[str, str], "LossPoints"]:
  """Returns the points by what is called N and C, those asked for first and others that the table has."""
  from lm_jax.analysis.loss_points import of_table

  for name, allowed in (("n", ("total", "nonembedding")), ("c", ("6nd", "exact"))):
    given = getattr(values, name)
    require(given in allowed, f"--{name}", given, " or ".join(allowed))
  which = {"task": values.task, "metric": values.metric, "family": values.family}
  found = {(values.n, values.c): of_table(table, **which, n=values.n, c=values.c)}
  has = {name: table.rows[column].notna().any() for name, column in (
    ("total", "n_params"), ("nonembedding", "n_params_nonembedding"), ("exact", "flops"))}  # fmt: skip
  # Where tokens are derived from compute both conventions of C are one.
  counted = has["exact"] and table.rows["n_tokens"].notna().any()
  for n in ("total", "nonembedding"):
    for c in ("6nd", "exact") if counted else ("6nd",):
      if has[n] and (n, c) not in found and found[values.n, values.c].unique_tokens is None:
        found[n, c] = of_table(table, **which, n=n, c=c)
  return found


def _ending(path: str | None) -> str | None:
  from lm_jax.analysis.figures.style import FORMATS

  if path is None:
    return None
  ending = Path(path).suffix.lower().removeprefix(".")
  if ending not in FORMATS:
    raise ConfigError(f"--figure={path}: must end in {', '.join('.' + f for f in FORMATS)}")
  if not Path(path).resolve().parent.is_dir():
    raise ConfigError(f"--figure={path}: no such folder {str(Path(path).parent)!r}")
  return ending


COMMANDS = {
  "fit": Command(
    fit, "a scaling law fitted to a table or a workdir, with intervals and all that moves the result",
    (
      "table", "workdir", "law", "loss", "delta", "drop_highest", "edges", "n", "c", "x", "breaks",
      "bootstrap", "cluster", "seed", "budgets", "cutoffs", "columns", "task", "metric",
      "family", "figure", "json",
    ), takes_url=True, own=_FLAGS,
  ),
}  # fmt: skip
