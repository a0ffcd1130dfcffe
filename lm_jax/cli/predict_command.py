"""`lm-jax predict`: what larger models will do, frozen before they are trained."""

import json
import sys
from pathlib import Path
from typing import Any

from absl import flags

from lm_jax import mirror, objects
from lm_jax.cli.command_flags import Command, positive
from lm_jax.cli.run_commands import existing
from lm_jax.cli.table_flags import TABLE_FLAGS, table_of
from lm_jax.strict import ConfigError, choose

_FLAGS = TABLE_FLAGS | {
  "at": (flags.DEFINE_list, "sizes to forecast, in units of --x (default: the cells not trained yet)", None),
  "method": (
    flags.DEFINE_string, "two_step (the default: ability from measured losses) or joint (both at once)",
    "two_step",
  ),
  "output": (flags.DEFINE_string, "folder to keep the forecast in (default: WORKDIR/forecasts)", None),
}  # fmt: skip


def predict(values: flags.FlagValues, _: list[tuple[str, str]]) -> int:
  from lm_jax.analysis import curve_table
  from lm_jax.analysis.forecasts import freeze

  positive(values, "bootstrap")
  choose({"two_step": 0, "joint": 0}, values.method, "--method")
  if objects.is_url(values.workdir or ""):
    values.workdir = str(existing(values))
  table = table_of(values)
  if values.x is None and values.workdir and table.rows["flops"].notna().all():
    x = "flops"  # sizes and tokens together
  else:
    x = curve_table.size_axis(table, values.x)
  targets = _asked(values.at) if values.at else _planned(values.workdir, x)
  forecast = freeze.make(
    table, targets, x, task=values.task, metric=values.metric, shots=values.shots, family=values.family,
    method=values.method, num=values.bootstrap or 1000, seed=values.seed or 0,
  )  # fmt: skip
  folder = values.output or (values.workdir and Path(values.workdir) / freeze.FOLDER)
  path = freeze.write(forecast, Path(folder)) if folder else None
  if path and (mirrored := mirror.of(path.parent)):
    mirrored.send_once(path)
  if values.json:
    print(json.dumps(forecast))
  else:
    print(_text(forecast))
  if path:
    print(f"frozen: {path}\nsha256: {forecast['sha256']}", file=sys.stderr if values.json else sys.stdout)
  return 0


def _asked(texts: list[str]) -> list[dict[str, Any]]:
  targets = []
  for text in texts:
    try:
      size = float(text)
    except ValueError:
      raise ConfigError(f"--at={text}: must be a number, e.g. 1e15") from None
    if not 0 < size < float("inf"):
      raise ConfigError(f"--at={text}: must be greater than 0")
    targets.append({"x": size, "label": f"{size:.3g}", "n_seeds": 1})
  return targets


def _planned(workdir: str | None, x: str) -> list[dict[str, Any]]:
  """Returns the sizes of a sweep that are larger than all of their family that have finished."""
  from lm_jax.analysis import frame

  if not workdir:
    raise ConfigError("--at=... must be given with --table: the sizes to forecast")
  cells = frame.load(workdir).cells
  column = {"n_params": "params_total", "n_params_nonembedding": "params_nonembedding",
            "flops": "flops_exact", "n_tokens": "tokens"}[x]  # fmt: skip
  largest = cells[cells["finished"]].groupby("family")[column].max()
  waiting = cells[~cells["finished"] & (cells[column] > cells["family"].map(largest))]
  if waiting.empty:
    raise ConfigError(
      f"--workdir={workdir}: no cell is left that is larger than the finished ones; give sizes by --at="
    )
  groups = waiting.groupby(["label", "family", column], sort=False)
  return [
    {"x": float(size), "label": str(label), "family": str(family), "n_seeds": len(own),
     "n_params": int(own["params_total"].iloc[0]), "n_tokens": int(own["tokens"].iloc[0]),
     "cells": sorted(own["cell_id"])}
    for (label, family, size), own in groups
  ]  # fmt: skip


def _text(forecast: dict[str, Any]) -> str:
  from lm_jax.analysis.headline import align, text

  lines = [["task", "shots", "family", "metric", "size", "median", "95 % band", "checked"]]
  notes = []
  for curve in forecast["curves"]:
    own = [str(curve[key] or "-") for key in ("task", "shots", "family")]
    if curve["status"] != "ok":
      lines.append([*own, curve["metric"] or curve["loss"] or "-", "-", "-", "-", curve["status"]])
    for said in curve["forecasts"]:
      q, label = said["quantiles"], str(forecast["targets"][said["target"]]["label"])
      lines.append([*own, said["metric"], label, text(q["0.5"]), f"{text(q['0.025'])} to {text(q['0.975'])}",
                    _checked(curve["coverage"][said["metric"]])])  # fmt: skip
    if curve["threshold"]:
      notes.append(f"{', '.join(own)}: {curve['metric']} {_threshold(curve['threshold'], forecast['x'])}")
  legend = (
    "checked: of the sizes at hand, held out in turn and forecast from smaller ones, how many fell into "
    "their 95 % band"
  )
  return "\n".join([*align(lines, 4), "", *dict.fromkeys(notes), legend])


def _checked(coverage: dict[str, Any]) -> str:
  n = coverage["n"]
  return f"{round(n * coverage['coverage']['0.95'])} of {n}" if n else "never (too few sizes)"


def _threshold(found: dict[str, Any], x: str) -> str:
  if found["status"] == "ok":
    return f"is midway at {x} {found['median']:.3g} (95 %: {found['low']:.3g} to {found['high']:.3g})"
  bound = f"; with 97.5 % it is above {found['low']:.3g}" if found["low"] is not None else ""
  return f"threshold: {found['status']}{bound}"


COMMANDS = {
  "predict": Command(
    predict, "what larger models will do, frozen before they are trained; report scores it when they are",
    ("table", "workdir", "columns", "at", "x", "task", "metric", "shots", "family", "method", "bootstrap",
     "seed", "output", "json"), takes_url=True, own=_FLAGS,
  ),
}  # fmt: skip
