"""What a study shows beyond its curves: verdicts on them, scaling laws, and how frozen forecasts did."""

import dataclasses
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from lm_jax.analysis import curve_table, loss_points, stop_rules
from lm_jax.analysis.curve_table import CurveTable
from lm_jax.analysis.emergence import table as emergence
from lm_jax.analysis.forecasts import freeze, scores
from lm_jax.analysis.forecasts.extrapolation import MIN_SIZES
from lm_jax.analysis.frame import SUMMARIES, Study, summaries
from lm_jax.analysis.known_metrics import ABILITIES, LOSSES, METRICS
from lm_jax.analysis.loss_points import LossPoints
from lm_jax.analysis.scaling_laws import isoflop, summary
from lm_jax.analysis.scaling_laws.summary import Summary
from lm_jax.strict import ConfigError

# Resamples behind the report's intervals; the commands take more.
RESAMPLES = 200
LAW_RESAMPLES = 400
# A law in N and D needs both to vary, and not together.
MIN_SPREAD, MAX_CORRELATION = 1.5, 0.98
MIN_POINTS = 6
SAME_TOKENS = 1.05


@dataclasses.dataclass(frozen=True)
class Law:
  """A law fitted to the losses of one family on one task; `fitted` is None where `reason` says why.

  That of the family with most sizes is the task's main one, which has a figure and is looked at closely.
  """

  task: str
  family: str | None
  fitted: Summary | None
  reason: str = ""
  main: bool = True


@dataclasses.dataclass(frozen=True)
class Findings:
  """What the report says of a study.

  Attributes:
    verdicts: rows of `emergence.table.analyze`.
    laws: one or more a (task, family) with losses.
    forecasts: rows of `forecasts.scores.score_card`.
  """

  verdicts: pd.DataFrame
  laws: tuple[Law, ...]
  forecasts: pd.DataFrame
  notes: tuple[str, ...] = ()


def of_study(study: Study, *, scored: bool = True) -> Findings:
  """Returns the findings.

  Args:
    scored: whether the forecasts in the workdir are of this study. They are not of one that was merged from
      several, whose runs have other names.
  """
  table = curve_table.of_study(study)
  card = forecasts(table, study.workdir) if scored else pd.DataFrame(columns=list(scores.COLUMNS))
  mixed = sizes_of_several_budgets(table)
  notes = stop_rules.sentences(study.stop_rules)
  if mixed:
    note = (
      f"No verdicts on curves: the runs of a size differ in training tokens, up to {mixed:.3g} times; a "
      "mean over them is no curve over size."
    )
    return Findings(_no_verdicts(), laws(table, study.tasks), card, (note, *notes))
  return Findings(verdicts(table), laws(table, study.tasks), card, notes)


def sizes_of_several_budgets(table: CurveTable) -> float | None:
  """Returns the largest factor by which runs of one size differ in tokens, None where they do not."""
  groups = table.rows.groupby(["task", "family", "n_params"], dropna=False)["n_tokens"]
  factor = float((groups.max() / groups.min()).max())
  return factor if factor > SAME_TOKENS else None


def verdicts(table: CurveTable) -> pd.DataFrame:
  """Returns the statistics of every curve of a metric that is known; no rows where nothing is finished."""
  rows = table.rows[table.rows["metric"].isin(METRICS) & table.rows["value"].notna()]
  if rows.empty:
    return _no_verdicts()
  return emergence.analyze(rows, x=curve_table.size_axis(table), bootstrap=RESAMPLES)


def _no_verdicts() -> pd.DataFrame:
  return pd.DataFrame(columns=list(emergence.COLUMNS))


def laws(table: CurveTable, trained: Collection[str]) -> tuple[Law, ...]:
  """Returns the laws of the losses of tasks that were trained on."""
  rows = table.rows[table.rows["metric"].isin(LOSSES) & table.rows["value"].notna()]
  # Scores of prompted tasks have losses too, and so have parts of a task (tasks/base.py).
  rows = rows[rows["shots"].isin(SUMMARIES) & rows["task"].isin(trained)]
  sizes = rows.groupby(["task", "family"], dropna=False, sort=False)["n_params"].nunique()
  found: list[Law] = []
  for (task, family), _ in rows.groupby(["task", "family"], dropna=False, sort=False):
    name = None if pd.isna(family) else str(family)
    try:
      points = loss_points.of_table(table, task=str(task), family=name)
    except ConfigError as error:
      found.append(Law(str(task), name, None, str(error)))
      continue
    main = (task, family) == sizes[sizes.index.get_level_values(0) == task].idxmax()
    found += _laws_of(points, str(task), name, main=main)
  return tuple(found)


def _laws_of(points: LossPoints, task: str, family: str | None, *, main: bool) -> list[Law]:
  sizes = len(np.unique(points.n_params))
  if sizes < MIN_SIZES:
    return [Law(task, family, None, f"{sizes} sizes, fewer than {MIN_SIZES}")]
  common = {"bootstrap": LAW_RESAMPLES, "refitted": main}
  options = [summary.Options(law="power", x=_variable(points), **common)]
  if _varies_in_both(points):
    options = [summary.Options(law="chinchilla", **common)]
    if _has_profiles(points):
      options.append(summary.Options(law="isoflop", **common))
  return [dataclasses.replace(_law(points, one, task, family), main=main) for one in options]


def _law(points: LossPoints, options: summary.Options, task: str, family: str | None) -> Law:
  try:
    return Law(task, family, summary.summarize({("total", "6nd"): points}, options))
  except ConfigError as error:
    return Law(task, family, None, f"{options.law}: {error}")


def _variable(points: LossPoints) -> str:
  """Returns what a law of one variable is of: N where all runs read as much, else C."""
  return "N" if np.ptp(np.log(points.n_tokens)) < np.log(MIN_SPREAD) else "C"


def _varies_in_both(points: LossPoints) -> bool:
  N, D = np.log(points.n_params), np.log(points.n_tokens)
  if len(np.unique(np.stack([N, D]), axis=1).T) < MIN_POINTS or min(np.ptp(N), np.ptp(D)) < np.log(
    MIN_SPREAD
  ):
    return False
  return abs(float(np.corrcoef(N, D)[0, 1])) < MAX_CORRELATION


def _has_profiles(points: LossPoints) -> bool:
  try:
    return len(isoflop.profiles(points)) > 1
  except ConfigError:
    return False


def forecasts(table: CurveTable, workdir: Path) -> pd.DataFrame:
  return scores.score_card(table, workdir / freeze.FOLDER)


def main_verdicts(found: pd.DataFrame) -> pd.DataFrame:
  """Returns the rows that speak for a task: abilities and losses, at the summary of shots if there is one."""
  own = summaries(found)
  return own[own["metric"].isin([*ABILITIES, *LOSSES])]
