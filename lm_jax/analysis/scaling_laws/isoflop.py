"""Compute-optimal size by isoFLOP profiles and by the envelope: approaches 2 and 1 of arXiv:2203.15556.

  isoflop   points of about equal compute are one profile. N* is the minimum over log N of a parabola fitted
            to the losses, and of an Akima interpolation through them (Akima 1970), side by side: a profile is
            not symmetric in log N, and the parabola's minimum is biased by how far the sizes reach to each
            side (arXiv:2603.22339). D* is D at N*, on the line through log D against log N.
  envelope  the lower envelope of loss over compute: the least loss of each compute bin, of those that no bin
            of less compute beats. Points of about equal compute, a profile of approach 2, are one bin: a hair
            less compute must not make a worse run an optimum. Where compute runs on without gaps, as over
            dense checkpoints, bins are equally wide in log C. The envelope leans towards sizes that happen to
            lie at its corners.

Then N* = k C^a and D* = k C^b are lines in log-log. Intervals are percentiles over bootstrap resamples: of
points within each profile, of runs for the envelope.
"""

import dataclasses
from typing import Any

import numpy as np
from scipy import interpolate

from lm_jax.analysis.loss_points import LossPoints
from lm_jax.analysis.scaling_laws.resampling import draw, interval
from lm_jax.strict import ConfigError, require

METHODS = ("parabola", "akima")
SAME_BUDGET = 1.1  # neighbors in compute that differ by less are one budget; also the width of a bin
WIDEST_PROFILE = 1.5  # largest over smallest compute of a budget
SAME_SIZE = 1.05  # as above, in parameters
MIN_ENVELOPE = 3  # points of a line through the envelope
MIN_SIZES = 4  # a parabola through three goes through all of them


@dataclasses.dataclass(frozen=True)
class Frontier:
  """N* and D* against C.

  Attributes:
    rows: one a budget (and method), flat.
    exponents: {method: {"a", "b", "a_ci95", "b_ci95", "n_budgets", "status"}}; None where undefined.
    lines: {method: slope and level at log C = 0 of log N* and log D* [2, 1 + resamples, 2]}.
    profiles: what the rows are minima of, by compute; none of an envelope.
  """

  rows: list[dict[str, Any]]
  exponents: dict[str, dict[str, Any]]
  lines: dict[str, np.ndarray]
  profiles: tuple["Profile", ...] = ()


def profiles(points: LossPoints) -> list[np.ndarray]:
  """Returns the indices of every isoFLOP profile with enough sizes, by compute."""
  groups = _chains(points.flops)
  enough = [g for g in groups if _sizes(points.n_params[g]).max() + 1 >= MIN_SIZES]
  narrow = [g for g in enough if _is_budget(points.flops[g])]
  if not narrow:
    reason = "their compute runs on without gaps" if enough else f"no budget has {MIN_SIZES} sizes or more"
    raise ConfigError(f"law='isoflop': the {len(points)} points are no isoFLOP profiles: {reason}")
  return narrow


def _chains(flops: np.ndarray) -> list[np.ndarray]:
  """Returns the indices of chains of points whose neighbors in compute are within SAME_BUDGET."""
  order = np.argsort(flops, kind="stable")
  ratio = flops[order][1:] / flops[order][:-1]
  return np.split(order, np.flatnonzero(ratio > SAME_BUDGET) + 1)


def _is_budget(flops: np.ndarray) -> bool:
  return bool(np.ptp(np.log(flops)) <= np.log(WIDEST_PROFILE))


@dataclasses.dataclass(frozen=True)
class Profile:
  """One profile; sizes [S] that are the same but for rounding are one.

  Attributes:
    log_n_P, size_P, loss_P: of each point: log N, which size it is of, and the loss.
    tokens: slope and level of log D against log N.
  """

  log_c: float
  log_n_S: np.ndarray
  log_n_P: np.ndarray
  size_P: np.ndarray
  loss_P: np.ndarray
  tokens: tuple[float, float]

  def minima(self, weight_RP: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns log N* and the loss there [R], NaN where no minimum lies between the outermost sizes."""
    of_size_PS = np.eye(len(self.log_n_S))[self.size_P]
    mass_RS = weight_RP @ of_size_PS
    with np.errstate(invalid="ignore"):
      mean_RS = (weight_RP * self.loss_P) @ of_size_PS / mass_RS
    find = _parabola_minima if method == "parabola" else _akima_minima
    at_R, lowest_R = find(self.log_n_S, mean_RS, mass_RS)
    there = mass_RS > 0
    left = np.where(there, self.log_n_S, np.inf).min(1)
    right = np.where(there, self.log_n_S, -np.inf).max(1)
    inside = (at_R > left) & (at_R < right) & (there.sum(1) >= 3)
    return np.where(inside, at_R, np.nan), np.where(inside, lowest_R, np.nan)

  def curve(self, log_n: np.ndarray, method: str) -> np.ndarray:
    """Returns the loss by the curve through the points whose minimum the method takes."""
    count_S = np.bincount(self.size_P)
    mean_S = np.bincount(self.size_P, self.loss_P) / count_S
    if method == "akima":
      return interpolate.Akima1DInterpolator(self.log_n_S, mean_S)(log_n)
    center = self.log_n_S.mean()
    weight_S = np.sqrt(count_S)
    return np.polyval(np.polyfit(self.log_n_S - center, mean_S, 2, w=weight_S), log_n - center)

  def log_tokens(self, log_n: np.ndarray) -> np.ndarray:
    return np.polyval(self.tokens, log_n)


def _profile(points: LossPoints) -> Profile:
  log_n, log_d = np.log(points.n_params), np.log(points.n_tokens)
  size_P = _sizes(points.n_params)
  log_n_S = np.bincount(size_P, log_n) / np.bincount(size_P)
  tokens = tuple(np.polyfit(log_n, log_d, 1))
  return Profile(float(np.log(points.flops).mean()), log_n_S, log_n, size_P, points.loss, tokens)


def _sizes(n_params: np.ndarray) -> np.ndarray:
  """Returns which size each point is of, from the smallest."""
  order = np.argsort(n_params, kind="stable")
  size, first, number = np.empty(len(n_params), int), n_params[order[0]], 0
  for i in order:
    if n_params[i] > SAME_SIZE * first:
      first, number = n_params[i], number + 1
    size[i] = number
  return size


def _parabola_minima(x_S: np.ndarray, y_RS: np.ndarray, mass_RS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  center, scale = x_S.mean(), np.ptp(x_S)
  basis_S3 = np.stack([((x_S - center) / scale) ** k for k in range(3)], axis=1)
  normal_R33 = np.einsum("rs,si,sj->rij", mass_RS, basis_S3, basis_S3)
  right_R3 = np.einsum("rs,si->ri", np.where(mass_RS > 0, mass_RS * y_RS, 0), basis_S3)
  c0, c1, c2 = np.einsum("rij,rj->ir", np.linalg.pinv(normal_R33, hermitian=True), right_R3)
  with np.errstate(divide="ignore", invalid="ignore"):
    at = np.where(c2 > 0, -c1 / (2 * c2), np.nan)
  return center + scale * at, c0 + c1 * at / 2


def _akima_minima(x_S: np.ndarray, y_RS: np.ndarray, mass_RS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  at_R, lowest_R = np.full((2, len(y_RS)), np.nan)
  for r, (y, there) in enumerate(zip(y_RS, mass_RS > 0, strict=True)):
    x, y = x_S[there], y[there]
    # A minimum of the outermost size is none: it may lie beyond.
    if len(x) < 3 or np.argmin(y) in (0, len(x) - 1):
      continue
    curve = interpolate.Akima1DInterpolator(x, y)
    turns = curve.derivative().roots(extrapolate=False)
    candidates = np.concatenate([x, turns[np.isfinite(turns)]])
    heights = curve(candidates)
    at_R[r], lowest_R[r] = candidates[np.argmin(heights)], heights.min()
  return at_R, lowest_R


def _lines(log_c: np.ndarray, log_y_RG: np.ndarray) -> np.ndarray:
  """Returns slope and level at log C = 0 [R, 2] over the budgets with a y, NaN for fewer than 2."""
  there = np.isfinite(log_y_RG)
  count = there.sum(1)
  with np.errstate(invalid="ignore", divide="ignore"):
    y = np.where(there, log_y_RG, 0)
    mean_c, mean_y = (there * log_c).sum(1) / count, y.sum(1) / count
    away = np.where(there, log_c - mean_c[:, None], 0)
    slope = np.where(count > 1, (away * y).sum(1) / (away**2).sum(1), np.nan)
    return np.stack([slope, mean_y - slope * mean_c], axis=1)


def isoflop(points: LossPoints, n_resamples: int = 1000, seed: int = 42) -> Frontier:
  """Returns N* and D* of each profile by both methods, and the lines through them."""
  require(n_resamples > 1, "bootstrap", n_resamples, "greater than 1")
  groups = profiles(points)
  parts = [_profile(points.keep(g)) for g in groups]
  log_c = np.array([part.log_c for part in parts])
  # The first row is the points as they are.
  weights = [np.concatenate([np.ones((1, len(g))), draw(len(g), n_resamples, seed + i)])
             for i, g in enumerate(groups)]  # fmt: skip
  rows, exponents, lines = [], {}, {}
  for method in METHODS:
    log_n, log_d = [], []
    for part, weight_RP in zip(parts, weights, strict=True):
      at_R, lowest_R = part.minima(weight_RP, method)
      log_n.append(at_R)
      log_d.append(part.log_tokens(at_R))
      rows.append(_row(method, part, at_R, float(lowest_R[0])))
    lines[method] = np.stack([_lines(log_c, np.stack(y, axis=1)) for y in (log_n, log_d)])
    exponents[method] = _exponents(lines[method], int(np.isfinite([n[0] for n in log_n]).sum()))
  return Frontier(rows, exponents, lines, tuple(parts))


def _row(method: str, part: Profile, at_R: np.ndarray, lowest: float) -> dict[str, Any]:
  found = bool(np.isfinite(at_R[0]))
  n_R, d_R = np.exp(at_R), np.exp(part.log_tokens(at_R))
  return {
    "method": method, "flops": float(np.exp(part.log_c)), "n_points": len(part.loss_P),
    "n_sizes": len(part.log_n_S), "n_params": float(n_R[0]) if found else None,
    "n_tokens": float(d_R[0]) if found else None, "loss": lowest if found else None,
    "n_params_ci95": interval(n_R[1:]) if found else None,
    "n_tokens_ci95": interval(d_R[1:]) if found else None,
    # Resamples without a minimum are uncertainty too, of which the interval says nothing.
    "resamples_with_minimum": float(np.isfinite(at_R[1:]).mean()),
    "status": "ok" if found else "no minimum between the smallest and the largest size",
  }  # fmt: skip


def _exponents(lines_2R2: np.ndarray, n_budgets: int) -> dict[str, Any]:
  a, b = (None if np.isnan(v) else float(v) for v in lines_2R2[:, 0, 0])
  bands = [None if a is None else interval(drawn) for drawn in lines_2R2[:, 1:, 0]]
  status = "ok" if a is not None else "fewer than 2 budgets have a minimum"
  return {"a": a, "b": b, "a_ci95": bands[0], "b_ci95": bands[1], "n_budgets": n_budgets, "status": status}


def compute_bins(flops: np.ndarray) -> np.ndarray:
  """Returns the number of each point's compute bin: a budget, or a factor SAME_BUDGET of what has no gaps."""
  bins, first = np.empty(len(flops), int), 0
  for chain in _chains(flops):
    log_c = np.log(flops[chain])
    inside = 0 if _is_budget(flops[chain]) else ((log_c - log_c[0]) / np.log(SAME_BUDGET)).astype(int)
    bins[chain] = first + inside
    first = bins[chain].max() + 1
  return bins


def best_of_bins(bins: np.ndarray, flops: np.ndarray, loss: np.ndarray) -> np.ndarray:
  """Returns the index of each bin's least loss, of least compute on a tie."""
  order = np.lexsort((flops, loss, bins))
  return order[np.unique(bins[order], return_index=True)[1]]


def lower_envelope(flops: np.ndarray, loss: np.ndarray) -> np.ndarray:
  """Returns the indices of points that no point of as little or less compute beats, by compute."""
  order = np.lexsort((loss, flops))
  best = np.minimum.accumulate(loss[order])
  first = np.concatenate([[True], best[1:] < best[:-1]])
  return order[first]


def envelope(points: LossPoints, n_resamples: int = 1000, seed: int = 42) -> Frontier:
  """Returns the lower envelope over compute bins, and the lines through its sizes and tokens."""
  require(n_resamples > 1, "bootstrap", n_resamples, "greater than 1")
  weight_RP = draw(len(points), n_resamples, seed, points.run)
  log_c, log_n, log_d = np.log([points.flops, points.n_params, points.n_tokens])
  bins = compute_bins(points.flops)

  def corners(chosen: np.ndarray) -> np.ndarray:
    best = chosen[best_of_bins(bins[chosen], points.flops[chosen], points.loss[chosen])]
    return best[lower_envelope(points.flops[best], points.loss[best])]

  def of(chosen: np.ndarray) -> np.ndarray:
    on = corners(chosen)
    if len(on) < MIN_ENVELOPE:
      return np.full((2, 2), np.nan)
    return np.concatenate([_lines(log_c[on], y[None, on]) for y in (log_n, log_d)])

  on = corners(np.arange(len(points)))
  rows = [
    {"method": "envelope", "flops": float(points.flops[i]), "n_params": float(points.n_params[i]),
     "n_tokens": float(points.n_tokens[i]), "loss": float(points.loss[i]), "run": str(points.run[i]),
     "status": "ok"}
    for i in on
  ]  # fmt: skip
  everything = [np.arange(len(points)), *(np.flatnonzero(w) for w in weight_RP)]
  lines = np.stack([of(chosen) for chosen in everything], axis=1)
  exponents = _exponents(lines, len(on))
  if exponents["a"] is None:
    exponents["status"] = f"{len(on)} points on the envelope, fewer than {MIN_ENVELOPE}"
  return Frontier(rows, {"envelope": exponents}, {"envelope": lines})
