"""Study 005: a training step beside nanoGPT's, on one core; see experiments/study.py.

It wants a checkout of nanoGPT, whose place is in $NANOGPT, and torch.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import study_figure
import study_text
from matplotlib.figure import Figure

SHAPES = ("d64", "d128", "d256", "d384")
COMMANDS = (
  "python {here}/nanogpt.py --output={workdir}/peers.jsonl "
  + " ".join(f"{{here}}/../../configs/bench/{shape}.py" for shape in SHAPES),
)
LATEST = "latest"


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  """Returns the rounds of this run, below those of earlier ones, which stay."""
  lines = (workdir / "peers.jsonl").read_text(encoding="utf-8").splitlines()[-len(SHAPES) :]
  found = [
    {"run": LATEST, "shape": Path(row["config"]).stem, "round": i + 1, "lm_jax": ours, "nanogpt": theirs}
    for row in map(json.loads, lines)
    for i, (ours, theirs) in enumerate(zip(row["lm_jax"], row["nanoGPT"], strict=True))
  ]
  earlier = pd.read_csv(Path(__file__).with_name("rounds.csv"))
  rounds = pd.concat([earlier[earlier["run"] != LATEST], pd.DataFrame(found)], ignore_index=True)
  return {"rounds": rounds.astype({"round": int}).round({"lm_jax": 0, "nanogpt": 0})}


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  rows = _medians(tables).reset_index()
  rows = rows.rename(columns={"shape": "label", "run": "group", "ratio": "value"})
  return {
    "ratio": study_figure.dots(rows, "Tokens a CPU second, lm_jax over nanoGPT", from_zero=False, same_at=1.0)
  }


def _medians(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
  rounds = tables["rounds"].assign(ratio=tables["rounds"]["lm_jax"] / tables["rounds"]["nanogpt"])
  of = rounds.groupby(["run", "shape"], sort=False)
  medians = of[["lm_jax", "nanogpt"]].median()
  return medians.assign(
    ratio=medians["lm_jax"] / medians["nanogpt"], low=of["ratio"].min(), high=of["ratio"].max()
  )


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  """Returns the ends of each run's ratios of medians, and each side's change since an earlier run."""
  medians = _medians(tables)
  ratio = medians["ratio"].groupby("run")
  found = {f"{run}, {end}": value for end in ("min", "max") for run, value in getattr(ratio, end)().items()}
  before = medians.loc["heads laid out once"]
  change = medians.loc[LATEST, ["lm_jax", "nanogpt"]] / before[["lm_jax", "nanogpt"]]
  return found | {f"{side}, {shape}": change.at[shape, side] for side in change for shape in change.index}


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  lines = [
    {
      "run": run, "shape": shape, "lm_jax": f"{row['lm_jax']:,.0f}", "nanoGPT": f"{row['nanogpt']:,.0f}",
      "ratio of medians": study_text.number(row["ratio"], 2),
      "of single rounds": " to ".join(study_text.number(row[end], 2) for end in ("low", "high")),
    }
    for (run, shape), row in _medians(tables).iterrows()
  ]  # fmt: skip
  return {"rounds": study_text.table(pd.DataFrame(lines))}
