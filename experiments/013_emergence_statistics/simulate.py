"""Simulated curves whose truth is known, and what the emergence statistics say of them.

python experiments/013_emergence_statistics/simulate.py FOLDER [CURVES]  writes simulation.csv into it, one
row a family, number of sizes and number of seeds, and pairs.csv and bootstrap_of_breakthroughness.csv
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from lm_jax.analysis.emergence import table
from lm_jax.analysis.emergence.breakthroughness import plain

CURVES = 300  # of each family: 900 smooth ones of each number of sizes and seeds
BOOTSTRAP = 200
FIRST, LAST = 6.5, 11.0  # log10 parameters
CHANCE = 0.25
BIMODAL_WIDTH = np.log(9)  # decades from a tenth of the seeds to nine tenths: 2.2
COLUMNS = ("task", "metric", "shots", "group", "family", "model", "run", "step", "seed", "n_params", "value",
           "stderr", "n_items", "chance")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Truth:
  """A curve's expected score of each seed at each size [S, R], and its threshold where it has one."""

  p_SR: np.ndarray
  x50: float | None = None
  width: float | None = None


def logistic(x, x50, width):
  return 1 / (1 + np.exp(-2 * np.log(9) * (x - x50) / width))


def constant(x_S, seeds, rng):
  return Truth(np.full((len(x_S), seeds), CHANCE))


def log_linear(x_S, seeds, rng):
  p_S = CHANCE + rng.uniform(0.2, 0.65) * (x_S - FIRST) / (LAST - FIRST)
  return Truth(np.tile(p_S[:, None], seeds))


def power_law(x_S, seeds, rng):
  p_S = CHANCE + rng.uniform(0.3, 0.7) * (1 - 10 ** (-rng.uniform(0.1, 0.6) * (x_S - FIRST)))
  return Truth(np.tile(p_S[:, None], seeds))


def _sigmoid(x_S, seeds, rng, width):
  x50 = rng.uniform(FIRST + 1.25, LAST - 1.25)
  p_S = CHANCE + rng.uniform(0.35, 0.7) * logistic(x_S, x50, width)
  return Truth(np.tile(p_S[:, None], seeds), x50, width)


def wide_logistic(x_S, seeds, rng):
  return _sigmoid(x_S, seeds, rng, rng.uniform(2.5, 5))


def sharp_logistic(x_S, seeds, rng):
  return _sigmoid(x_S, seeds, rng, rng.uniform(0.1, 0.6))


def bimodal_seeds(x_S, seeds, rng):
  """Each seed jumps at a size of its own: 10 to 90 % of them within 2.2 decades."""
  x50 = (FIRST + LAST) / 2
  x50_R = rng.logistic(x50, BIMODAL_WIDTH / (2 * np.log(9)), seeds)
  return Truth(CHANCE + 0.6 * logistic(x_S[:, None], x50_R, 0.1), x50)


def bimodal_runs(x_S, seeds, rng):
  """Each run has it or not, whatever its seed did at other sizes: 10 to 90 % of them within 2.2 decades."""
  x50 = rng.uniform(FIRST + 1.25, LAST - 1.25)
  has_SR = rng.random((len(x_S), seeds)) < logistic(x_S[:, None], x50, BIMODAL_WIDTH)
  return Truth(CHANCE + 0.6 * has_SR, x50)


FAMILIES = {
  f.__name__: f
  for f in (constant, log_linear, power_law, wide_logistic, sharp_logistic, bimodal_seeds, bimodal_runs)
}
SMOOTH = ("log_linear", "power_law", "wide_logistic")


def rows(name, truth, x_S, n_items, rng, metric="accuracy", chance=CHANCE):
  """Returns the rows of one curve, with the noise of its items."""
  S, R = truth.p_SR.shape
  return pd.DataFrame({
    "task": name, "metric": metric, "seed": np.tile(np.arange(R), S).astype(float),
    "n_params": np.repeat(10**x_S, R), "value": (rng.binomial(n_items, truth.p_SR) / n_items).reshape(-1),
    "n_items": float(n_items), "chance": chance,
  })  # fmt: skip


def analyze(parts, seed):
  frame = pd.concat(parts, ignore_index=True)
  return table.analyze(frame.reindex(columns=list(COLUMNS)), bootstrap=BOOTSTRAP, seed=seed)


def simulate(n_sizes, seeds, curves, seed=0):
  """Yields a row a family: shares of each verdict, and coverage where the truth is a logistic."""
  rng = np.random.default_rng([seed, n_sizes, seeds])
  truths, parts = {}, []
  x_S = np.linspace(FIRST, LAST, n_sizes) + rng.uniform(-0.1, 0.1, n_sizes)  # sizes are never quite even
  for family, draw in FAMILIES.items():
    for i in range(curves):
      truths[f"{family}/{i}"] = draw(x_S, seeds, rng)
      items = int(np.exp(rng.uniform(np.log(200), np.log(2000))))
      parts.append(rows(f"{family}/{i}", truths[f"{family}/{i}"], x_S, items, rng))
  found = analyze(parts, seed)
  found["simulated"] = found["task"].str.split("/").str[0]
  for family, own in found.groupby("simulated"):
    row = {"family": family, "n_sizes": n_sizes, "n_seeds": seeds, "curves": len(own)}
    row |= own["verdict"].value_counts(normalize=True).round(4).to_dict()
    identified = own[own["x50"].notna()]
    truth = [truths[task] for task in identified["task"]]
    row["threshold_identified"] = len(identified) / len(own)
    if family.endswith("logistic") and len(identified):
      x50 = 10 ** np.array([t.x50 for t in truth])
      width = np.array([t.width for t in truth])
      low, high = (identified[n].to_numpy(float) for n in ("x50_low", "x50_high"))
      row["x50_coverage"] = np.mean((low <= x50) & (x50 <= high))
      row["x50_median_decades"] = np.median(np.log10(high / low))
      low, high = (identified[n].to_numpy(float) for n in ("width_low", "width_high"))
      row["width_coverage"] = np.mean((low <= width) & (width <= high))
    row["p_below_0.05"] = np.mean(own["p_value"].astype(float) <= 0.05)
    row["seeds_bimodal"] = own["seeds_bimodal"].dropna().astype(float).mean()
    if family.startswith("bimodal"):
      row |= half_held(own, truths)
    yield row


def half_held(own, truths):
  """Returns how often the interval of the size where half of the runs are past holds the true one."""
  found = own[own["past_x50"].notna()]
  if found.empty:
    return {}
  x50 = 10 ** np.array([truths[task].x50 for task in found["task"]])
  low = found["past_x50_low"].astype(float).fillna(0).to_numpy()
  high = found["past_x50_high"].astype(float).fillna(np.inf).to_numpy()
  return {
    "half_identified": len(found) / len(own), "half_coverage": np.mean((low <= x50) & (x50 <= high)),
    "half_median_decades": np.median(np.log10(high / np.maximum(low, 1))),
  }  # fmt: skip


def pairs(n_sizes, seeds, curves, seed=0):
  """Returns the verdicts of exact match p^L beside a smooth p of a token, which rises for 2.5 decades."""
  rng = np.random.default_rng([seed, 1, n_sizes, seeds])
  parts = []
  for i in range(curves):
    x_S = np.linspace(FIRST, LAST, n_sizes)
    start, low = FIRST + rng.uniform(0.5, 1), rng.uniform(0.05, 0.2)
    p_S = np.clip(low + (0.99 - low) * (x_S - start) / 2.5, low, 0.99)
    length = (4, 8, 16)[i % 3]
    token, exact = (Truth(np.tile(p[:, None], seeds)) for p in (p_S, p_S**length))
    name = f"{length}/{i}"
    parts += [
      rows(name, token, x_S, 1000, rng, "token_accuracy", np.nan).assign(n_items=np.nan, stderr=0.016),
      rows(name, exact, x_S, 1000, rng, "exact_match", np.nan),
    ]  # fmt: skip
  return analyze(parts, seed)


def bootstrap_of_breakthroughness(n_sizes, curves=500, draws=1000, items=500, seed=0):
  """Returns B's mean, and mean and coverage of its plug-in bootstrap, for smooth curves of known noise."""
  rng = np.random.default_rng([seed, n_sizes])
  p_S = np.linspace(CHANCE, 0.7, n_sizes)
  truth = plain(rng.binomial(items, p_S, (200_000, n_sizes)) / items)
  inside, bias = [], []
  for _ in range(curves):
    y_S = rng.binomial(items, p_S) / items
    B = plain(rng.binomial(items, y_S, (draws, n_sizes)) / items)
    low, high = np.nanquantile(B, [0.025, 0.975])
    inside.append(low <= plain(y_S) <= high)
    bias.append(np.nanmedian(B) / plain(y_S) - 1)
  return {
    "n_sizes": n_sizes, "median_B": np.nanmedian(truth), "bias_of_bootstrap": np.nanmedian(bias),
    "intervals_that_hold_the_point": np.mean(inside),
  }  # fmt: skip


def main():
  folder, curves = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else CURVES
  found = [row for n_sizes, seeds in ((6, 1), (6, 5), (8, 3), (12, 1), (12, 3))
           for row in simulate(n_sizes, seeds, curves)]  # fmt: skip
  pd.DataFrame(found).to_csv(folder / "simulation.csv", index=False, float_format="%.4f")
  both = []
  for n_sizes, seeds in ((8, 3), (12, 1), (12, 3)):
    own = pairs(n_sizes, seeds, curves // 2)
    own["length"] = own["task"].str.split("/").str[0].astype(int)
    shares = own.groupby(["metric", "length"])["verdict"].value_counts(normalize=True)
    shares = shares.rename("share").reset_index()
    both.append(shares.assign(n_sizes=n_sizes, n_seeds=seeds))
  pd.concat(both).to_csv(folder / "pairs.csv", index=False, float_format="%.4f")
  B = pd.DataFrame([bootstrap_of_breakthroughness(n) for n in (6, 8, 12)])
  B.to_csv(folder / "bootstrap_of_breakthroughness.csv", index=False, float_format="%.4f")


if __name__ == "__main__":
  main()
