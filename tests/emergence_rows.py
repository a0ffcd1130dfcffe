"""Tables of scores over sizes, of given probabilities."""

import numpy as np
import pandas as pd

from lm_jax.analysis import curve_table


def frame(**columns) -> pd.DataFrame:
  """Returns rows with all canonical columns."""
  n = max(len(c) for c in columns.values() if isinstance(c, list | np.ndarray))
  data = {name: "t" if name == "task" else np.nan for name in curve_table.ALIASES} | columns
  data |= {name: pd.Series([None] * n, dtype="string") for name in curve_table.TEXT if data[name] is np.nan}
  return pd.DataFrame(data, index=range(n))


def of_probabilities(p_SR, x_S, n_items, rng, **columns) -> pd.DataFrame:
  """Returns the rows of a metric whose items are right with probability p, at sizes 10^x."""
  S, R = p_SR.shape
  value = rng.binomial(n_items, p_SR) / n_items
  return frame(
    n_params=np.repeat(10**x_S, R), seed=np.tile(np.arange(R, dtype=float), S), value=value.reshape(-1),
    n_items=np.full(S * R, float(n_items)), **({"metric": "accuracy", "chance": 0.25} | columns),
  )  # fmt: skip


def logistic(x, x50, width):
  return 1 / (1 + np.exp(-2 * np.log(9) * (x - x50) / width))
