"""How numbers stand in the READMEs of studies."""

import pandas as pd


def table(rows: pd.DataFrame) -> str:
  """Returns Markdown of a table whose values are text already."""
  lines = [list(rows.columns), ["---"] * len(rows.columns), *rows.astype(str).to_numpy().tolist()]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float, digits: int = 3) -> str:
  """Returns a number without the zero before its point: .250."""
  text = f"{value:.{digits}f}"
  return text.replace("0.", ".", 1) if text.removeprefix("-").startswith("0.") else text


def interval(row: pd.Series, name: str, form: str, bounds: str | None = None) -> str:
  """Returns "VALUE (LOW to HIGH)" of columns NAME, BOUNDS_low and BOUNDS_high; empty where missing."""
  low, high = (row[f"{bounds or name}_{end}"] for end in ("low", "high"))
  if pd.isna(row[name]):
    return ""
  ends = " to ".join("?" if pd.isna(end) else format(end, form) for end in (low, high))
  return format(row[name], form) + ("" if pd.isna(low) and pd.isna(high) else f" ({ends})")


def known(value: float, digits: int = 0) -> str:
  """Returns a number as text, "" where it is missing."""
  return "" if pd.isna(value) else f"{value:.{digits}f}"
