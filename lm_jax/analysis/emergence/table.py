"""All statistics of all curves of a table, a row each; see the modules beside this one for what they are.

Scores of a metric that falls when better are turned for breakthroughness and the linearities: above 0 is an
improvement for every metric. x50 is a size, in the unit of `x`; widths are decades of it. Those of `past` are
of the share of runs that are past a threshold, where seeds fall into two groups.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lm_jax.analysis.emergence import fits, seeds, verdict
from lm_jax.analysis.emergence.breakthroughness import MIN_SIZES, breakthroughness, q_values
from lm_jax.analysis.emergence.curves import KEYS, Curve, of_rows
from lm_jax.analysis.emergence.fits import Fits, Points, fit
from lm_jax.analysis.emergence.resample import resample
from lm_jax.analysis.emergence.rise import above_p_value, rise_p_value
from lm_jax.analysis.emergence.shapes import CONSTANT, LOG_LINEAR, LOGISTIC, POWER_LAW, SHAPES, domain_of
from lm_jax.analysis.emergence.threshold import threshold
from lm_jax.analysis.emergence.verdict import Evidence
from lm_jax.analysis.json_values import clean
from lm_jax.analysis.known_metrics import CONTINUOUS
from lm_jax.strict import ConfigError, require

SIMPLER = (CONSTANT, LOG_LINEAR, POWER_LAW)
COLUMNS = (
  *KEYS, "x", "n_sizes", "n_seeds", "n_items", "chance", "verdict", "breakthroughness", "status",
  "breakthroughness_per_decade", "null_p95", "null_p99", "p_value", "q_value", "linearity_rms_step",
  "linearity_pearson", "rise_p_value", "rise_q_value", "above_chance_p_value", "criterion",
  *(f"criterion_{shape.name}" for shape in SHAPES), "best_model", "best_model_share", "margin",
  "smooth_margin", "residual_scale", "threshold_status", "x50", "x50_low", "x50_high", "width_decades",
  "width_low", "width_high", "width_limit", "paired_metric", "paired_verdict", "seeds_bimodal",
  "bimodal_sizes", "fraction_past", "fraction_past_low", "fraction_past_high", "past_threshold",
  "past_x50", "past_x50_low", "past_x50_high", "past_width_decades", "sizes", "means", "fit_a", "fit_b",
  "fit_parameters", "floor", "ceiling", "notes",
)  # fmt: skip


def analyze(rows: pd.DataFrame, *, x: str = "n_params", bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
  """Returns one row a (task, metric, shots, group, family), JSON-ready, missing is None; columns: COLUMNS.

  Args:
    rows: with the columns of `curve_table.CurveTable.rows`.
    x: the column of sizes.
    bootstrap: resamples of each curve.
    seed: of the resamples; those of a curve do not depend on which others are in the table.

  Raises:
    ConfigError: for options that make no sense, and where no row has a size and a value.
  """
  require(bootstrap >= 20, "bootstrap", bootstrap, "20 or more")
  require(seed >= 0, "seed", seed, "0 or more")
  curves = list(of_rows(rows, x))
  if not curves:
    raise ConfigError(f"x={x!r}: no row has both a size and a value")
  found = [_describe(curve, x, bootstrap, seed) for curve in curves]
  table = [row for row, _ in found]
  for name in ("", "rise_"):
    q = q_values([row.get(f"{name}p_value") for row in table])
    for row, value in zip(table, q, strict=True):
      row[f"{name}q_value"] = value
  for row, evidence in found:
    if evidence is not None:
      row["verdict"] = verdict.of_curve(Evidence(rise_q=row["rise_q_value"], **evidence))
      row |= _identified(row)
  _pair(table, curves)
  return pd.DataFrame([{name: clean(row.get(name)) for name in COLUMNS} for row in table], dtype=object)


def fitted(row: Mapping[str, Any], sizes: Sequence[float]) -> np.ndarray:
  """Returns the best model of a row of `analyze` at sizes, for a figure."""
  shape = next(shape for shape in SHAPES if shape.name == row["best_model"])
  own = np.array(row["fit_parameters"], np.float64)
  domain = domain_of(np.log10(row["sizes"]))
  return row["fit_a"] + row["fit_b"] * shape.feature(own, np.log10(sizes), domain)


def flat(table: pd.DataFrame) -> pd.DataFrame:
  """Returns the table for a file of text: what is a list becomes JSON."""
  return table.map(lambda v: json.dumps(v) if isinstance(v, list) else v)


# --- one curve --------------------------------------------------------------------------------------


def _describe(curve: Curve, x: str, bootstrap: int, seed: int) -> tuple[dict[str, Any], dict | None]:
  row: dict[str, Any] = dict.fromkeys(COLUMNS)
  B = breakthroughness(curve.x_S, curve.sign * curve.mean_S)
  row |= curve.key | {
    "x": x, "n_sizes": len(curve.x_S), "n_seeds": int(curve.runs_S.min()), "n_items": curve.n_items,
    "chance": curve.chance, "sizes": 10**curve.x_S, "means": curve.mean_S, "status": B.status,
    "verdict": "insufficient data", "threshold_status": "insufficient data", "breakthroughness": B.value,
    "breakthroughness_per_decade": B.per_decade, "notes": list(curve.notes),
  }  # fmt: skip
  same = ("null_p95", "null_p99", "p_value", "linearity_rms_step", "linearity_pearson")
  row |= {name: getattr(B, name) for name in same}
  if len(curve.x_S) < MIN_SIZES:
    return row, None
  points = curve.points()
  best = {shape.name: fit(shape, points, fine=True) for shape in SHAPES}
  score = _criteria(row, best, points, curve.runs_S)
  chosen = min(SHAPES, key=lambda shape: score[shape.name])
  df = points.n_runs - chosen.n_coefficients
  rss = best[chosen.name].rss_B[0]
  row["residual_scale"] = max(rss / df, 1.0) if points.noise_known and df > 0 else None
  residual_S = points.y_BS[0] - fits.predict(chosen, best[chosen.name], points.x_S, points.domain)[0]
  rng = np.random.default_rng([seed, zlib.crc32(json.dumps(curve.key).encode())])
  y_BSR = resample(
    curve, residual_S * np.sqrt(points.n_runs / max(df, 1)), row["residual_scale"] or 1.0, bootstrap, rng
  )
  resampled = {shape.name: fit(shape, curve.points(y_BSR)) for shape in SHAPES}
  if row["criterion"] == "aicc":
    scores = np.stack([fits.aicc(shape, resampled[shape.name], curve.points(y_BSR)) for shape in SHAPES])
    row["best_model_share"] = float(np.mean(np.argmin(scores, 0) == SHAPES.index(chosen)))
  sign = curve.sign
  row |= {
    "best_model": chosen.name, "fit_a": sign * best[chosen.name].a_B[0],
    "fit_b": sign * best[chosen.name].b_B[0], "fit_parameters": best[chosen.name].own_BP[0],
    "rise_p_value": rise_p_value(points),
  }  # fmt: skip
  if curve.chance is not None:
    row["above_chance_p_value"] = above_p_value(points, sign * curve.chance)
  evidence = _threshold(row, points, best, resampled[LOGISTIC.name])
  _seeds(row, curve, best[LOGISTIC.name])
  return row, evidence


def _criteria(
  row: dict[str, Any], best: Mapping[str, Fits], points: Points, runs_S: np.ndarray
) -> dict[str, float]:
  if fits.has_aicc(points.n_runs):
    row["criterion"] = "aicc"
    score = {shape.name: float(fits.aicc(shape, best[shape.name], points)[0]) for shape in SHAPES}
  else:
    row["criterion"] = "loo"
    score = {shape.name: float(fits.loo(shape, points, runs_S)[0]) for shape in SHAPES}
  row |= {f"criterion_{name}": value for name, value in score.items()}
  row["margin"] = min(score[shape.name] for shape in SIMPLER) - score[LOGISTIC.name]
  return score


def _threshold(row: dict[str, Any], points: Points, best: Mapping[str, Fits], resamples: Fits) -> dict:
  """Puts the threshold into the row and returns the evidence for a verdict."""
  limit = verdict.width_limit(points.domain)
  found = threshold(points, best[LOGISTIC.name], resamples, limit)
  least = points.least_scale()
  smooth = min(
    found.wide,
    *(float(fits.minus2_log_likelihood(best[s.name].rss_B, points.n_runs, least)[0]) for s in SIMPLER),
  )
  row |= {
    "x50": 10**found.x50.value, "x50_low": 10**found.x50.low, "x50_high": 10**found.x50.high,
    "width_decades": found.width.value, "width_low": found.width.low, "width_high": found.width.high,
    "width_limit": limit, "smooth_margin": found.narrow - smooth,
    "threshold_status": "ok" if found.inside else "outside the sizes",
  }  # fmt: skip
  return {
    "n_sizes": row["n_sizes"], "above_chance_p": row["above_chance_p_value"], "margin": row["margin"],
    "smooth_margin": row["smooth_margin"], "width_high": found.width.high, "x50_inside": found.inside,
    "limit": limit,
  }  # fmt: skip


def _identified(row: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the columns of thresholds that are not identified, as missing."""
  status = row["threshold_status"]
  names = ["x50", "x50_low", "x50_high", "width_decades", "width_low", "width_high"]
  if row["verdict"] in ("no rise resolved", "below chance resolution"):
    status = "no rise resolved"
    names += ["past_x50", "past_x50_low", "past_x50_high", "past_width_decades"]
  if status == "ok":
    return {}
  return dict.fromkeys(names) | {"threshold_status": status}


def _seeds(row: dict[str, Any], curve: Curve, best: Fits) -> None:
  bimodal = seeds.bimodal_sizes(curve)
  ends = curve.sign * best.a_B[0], curve.sign * (best.a_B[0] + best.b_B[0])
  row["floor"], row["ceiling"] = ends
  if bimodal is None:
    return
  row["seeds_bimodal"], row["bimodal_sizes"] = bool(bimodal), [10**x for x in bimodal]
  if bimodal:
    # A ceiling that no run comes near is an extrapolation.
    middle = float(np.mean(np.clip(ends, np.nanmin(curve.y_SR), np.nanmax(curve.y_SR))))
    past = seeds.fraction_past(curve, middle)
    row["past_threshold"] = middle
    row["fraction_past"] = [p.past / p.n_runs for p in past]
    row["fraction_past_low"], row["fraction_past_high"] = [p.low for p in past], [p.high for p in past]
    if half := seeds.half_past(past):
      sizes = {"": half.x, "_low": half.low, "_high": half.high}
      row |= {f"past_x50{end}": None if x is None else 10**x for end, x in sizes.items()}
      row["past_width_decades"] = half.width


# --- pairs ------------------------------------------------------------------------------------------


def _pair(table: Sequence[dict[str, Any]], curves: Sequence[Curve]) -> None:
  """Pairs each thresholded metric with the first continuous one of its task, shots, group and family."""
  groups: dict[tuple, list[int]] = {}
  for i, curve in enumerate(curves):
    groups.setdefault(tuple(curve.key[name] for name in KEYS if name != "metric"), []).append(i)
  single = [row["verdict"] for row in table]
  for members in groups.values():
    continuous = sorted(
      (i for i in members if curves[i].metric.kind == "continuous"),
      key=lambda i: CONTINUOUS.index(table[i]["metric"]),
    )
    thresholded = [i for i in members if curves[i].metric.kind == "thresholded"]
    if not continuous or not thresholded:
      continue
    partner = continuous[0]
    for i in thresholded:
      table[i]["verdict"], of_partner = verdict.of_pair(single[i], single[partner])
      table[i]["paired_metric"], table[i]["paired_verdict"] = table[partner]["metric"], single[partner]
      # Of several thresholded metrics beside it, the one that jumps with it speaks for the pair.
      if table[partner]["paired_metric"] is None or of_partner == "sharp under both":
        table[partner]["verdict"] = of_partner
        table[partner]["paired_metric"], table[partner]["paired_verdict"] = table[i]["metric"], single[i]
