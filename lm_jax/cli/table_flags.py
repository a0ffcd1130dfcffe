"""Flags of the commands that analyze a table of results, and what they read."""

import sys
from typing import TYPE_CHECKING

from absl import flags

from lm_jax.strict import ConfigError

if TYPE_CHECKING:
  from lm_jax.analysis.curve_table import CurveTable

# These mean something else to commands that prompt a model.
TABLE_FLAGS = {
  "table": (flags.DEFINE_string, "a .csv, .tsv (also .gz) or .parquet with a row a measured value", None),
  "columns": (
    flags.DEFINE_multi_string, "which column is what, as n_params=size,task=name (default: by name)", [],
  ),
  "x": (flags.DEFINE_string, "the size: n_params, n_params_nonembedding, flops or n_tokens", None),
  "task": (flags.DEFINE_string, "this task only", None),
  "metric": (flags.DEFINE_string, "this metric only", None),
  "shots": (flags.DEFINE_string, 'this number of shots only, or "window" or "all"', None),
  "family": (flags.DEFINE_string, "this family only", None),
  "bootstrap": (flags.DEFINE_integer, "resamples behind intervals (default: 1000)", None),
  "seed": (flags.DEFINE_integer, "of the resamples: the same seed, the same intervals", 0),
}  # fmt: skip


def table_of(values: flags.FlagValues, *, checkpoints: bool = False, quiet: bool = False) -> "CurveTable":
  """Returns what --table or --workdir holds; says on stderr which columns were taken for which."""
  from lm_jax.analysis import curve_table
  from lm_jax.cli.run_commands import existing

  if bool(values.table) == bool(values.workdir):
    given = "both" if values.table else "neither"
    raise ConfigError(f"--table=FILE or --workdir=DIR: one of them must be given, {given} was")
  if values.workdir and values.columns:
    raise ConfigError("--columns: is for --table; a workdir's columns are known")
  if values.workdir:
    table = curve_table.load(existing(values), checkpoints=checkpoints)
  else:
    table = curve_table.read(values.table, curve_table.parse_columns(values.columns))
  if not quiet:
    told = [table.told()] if values.table else []
    for line in (*told, *table.notes):
      print(f"lm-jax: {line}", file=sys.stderr)
  return table
