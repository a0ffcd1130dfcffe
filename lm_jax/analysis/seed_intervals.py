"""Means over seeds with their intervals.

Definition: mean ± t(0.975, n - 1) s / sqrt(n) of n seeds with the standard deviation s (Student 1908), which
takes runs of other seeds as draws from a normal distribution; missing for a single seed. The items are the
same for all seeds, and their error is no part of it.
"""

import numpy as np
import pandas as pd
from scipy import stats


def means(values: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
  """Returns mean `value`, the 95 % interval `low`, `high`, and `n_seeds` of each group."""
  table = values.groupby(keys, sort=False, dropna=False, observed=True)["value"].agg(["mean", "std", "count"])
  n = table["count"].to_numpy()
  half = stats.t.ppf(0.975, np.maximum(n - 1, 1)) * table["std"].to_numpy() / np.sqrt(np.maximum(n, 1))
  half = np.where(n > 1, half, np.nan)
  mean = table["mean"].to_numpy()
  found = pd.DataFrame({"value": mean, "low": mean - half, "high": mean + half, "n_seeds": n}, table.index)
  return found.reset_index()
