"""Values as JSON has them."""

import math
from typing import Any

import numpy as np
import pandas as pd


def clean(value: Any) -> Any:
  """Returns JSON-ready data: missing and non-finite numbers become null, floats keep 6 digits."""
  if isinstance(value, float):
    return float(f"{value:.6g}") if math.isfinite(value) else None
  if isinstance(value, dict):
    return {str(k): clean(v) for k, v in value.items()}
  if isinstance(value, list | tuple | np.ndarray | pd.Series):
    return [clean(v) for v in value]
  if value is None or value is pd.NA:
    return None
  if isinstance(value, bool | np.bool_):
    return bool(value)
  if isinstance(value, int | np.integer):
    return int(value)
  if isinstance(value, np.floating):
    return clean(float(value))
  return str(value)
