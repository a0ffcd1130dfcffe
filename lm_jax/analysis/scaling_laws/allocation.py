"""Compute-optimal allocation: which model to train on how many tokens for a budget of compute.

From isoFLOP profiles or the envelope: the lines of `isoflop`. From chinchilla with C = 6 N D
(arXiv:2203.15556, equation 4):
  N*(C) = G (C/6)^a,  D*(C) = (C/6)^b / G,  G = (alpha A/(beta B))^(1/(alpha + beta)),
  a = beta/(alpha + beta),  b = alpha/(alpha + beta).
"""

from typing import Any

import numpy as np

from lm_jax.analysis.scaling_laws.fitting import Fit
from lm_jax.analysis.scaling_laws.isoflop import Frontier
from lm_jax.analysis.scaling_laws.resampling import Refits, interval
from lm_jax.strict import ConfigError, require


def optimal(A: np.ndarray, B: np.ndarray, E: np.ndarray, alpha: np.ndarray, beta: np.ndarray,
            flops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
  """Returns (N*, D*, loss) at budgets; arrays broadcast."""
  # In logs: coefficients of a refit may be as large as exp(50).
  log_g = (np.log(alpha / beta) + np.log(A) - np.log(B)) / (alpha + beta)
  log_nd = np.log(flops / 6)
  log_n = log_g + beta / (alpha + beta) * log_nd
  log_d = log_nd - log_n
  loss = E + np.exp(np.log(A) - alpha * log_n) + np.exp(np.log(B) - beta * log_d)
  return np.exp(log_n), np.exp(log_d), loss


def default_budgets(flops: np.ndarray) -> np.ndarray:
  """Returns decades from the table's smallest compute to 100 times its largest."""
  low, high = np.floor(np.log10(flops.min())), np.ceil(np.log10(flops.max() * 100))
  return 10.0 ** np.arange(low, high + 1)


def rows(fit: Fit, budgets: np.ndarray, refits: Refits | None = None) -> list[dict[str, Any]]:
  """Returns a row a budget, with intervals of the refits; none where the fit does not identify them."""
  if fit.law.name != "chinchilla":
    raise ConfigError(f"budgets: are for law='chinchilla', 'isoflop' and 'envelope', not {fit.law.name!r}")
  _require_budgets(budgets)
  if any(value is None or value <= 0 for value in fit.parameters.values()):
    return []
  found = []
  largest = float(fit.sample.points.flops.max())
  for flops in np.asarray(budgets, np.float64):
    values = optimal(**fit.parameters, flops=flops)
    row = dict(zip(("n_params", "n_tokens", "loss"), map(float, values), strict=True))
    bands = dict.fromkeys(row)
    if refits is not None:
      with np.errstate(invalid="ignore", divide="ignore"):
        draws = optimal(*(refits.column(n) for n in ("A", "B", "E", "alpha", "beta")), flops)
      bands = {name: interval(draw) for name, draw in zip(row, draws, strict=True)}
    found.append({"flops": float(flops), **row, "tokens_per_param": row["n_tokens"] / row["n_params"],
                  **{f"{name}_ci95": band for name, band in bands.items()},
                  "times_largest_flops": float(flops) / largest})  # fmt: skip
  return found


def frontier_rows(frontier: Frontier, budgets: np.ndarray, largest_flops: float) -> list[dict[str, Any]]:
  """Returns a row a method and budget, from the lines through N* and D*."""
  _require_budgets(budgets)
  found = []
  for method, lines_2R2 in frontier.lines.items():
    if frontier.exponents[method]["a"] is None:
      continue
    for flops in np.asarray(budgets, np.float64):
      n_R, d_R = np.exp(lines_2R2[..., 0] * np.log(flops) + lines_2R2[..., 1])
      found.append({
        "method": method, "flops": float(flops), "n_params": float(n_R[0]), "n_tokens": float(d_R[0]),
        "tokens_per_param": float(d_R[0] / n_R[0]), "n_params_ci95": interval(n_R[1:]),
        "n_tokens_ci95": interval(d_R[1:]), "times_largest_flops": float(flops) / largest_flops,
      })  # fmt: skip
  return found


def _require_budgets(budgets: np.ndarray) -> None:
  ok = np.isfinite(budgets).all() and (np.asarray(budgets) > 0).all()
  require(ok, "budgets", [float(b) for b in budgets], "numbers of FLOPs greater than 0")
