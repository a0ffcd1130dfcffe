"""Study 009: a decoder and an encoder on books, over six widths; see experiments/study.py."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import study_text
from matplotlib.figure import Figure

from lm_jax.analysis import frame, prompting
from lm_jax.analysis.figures import figure_parts
from lm_jax.analysis.figures.style import INK, TEXT_WIDTH

COMMANDS = ("lm-jax sweep --config={here}/../../configs/sweeps/text_ladder.py --workdir={workdir}",)
DECODER, ENCODER = "causal LM", "masked LM"
_TEXT = ["family", "label", "params_total", "params_nonembedding", "flops_exact", "tokens", "step", "metric",
         "value", "stderr", "n_items"]  # fmt: skip


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  study = frame.load(workdir)
  last = frame.final(study)
  text = last[last["task"].isin(study.tasks) & (last["shots"] == frame.ALL)]
  text = text.sort_values(["family", "params_total", "metric"], ignore_index=True)[_TEXT]
  digits = {name: text[name].map(lambda x: float(f"{x:.6g}")) for name in ("flops_exact", "value", "stderr")}
  return {"text": text.assign(**digits), "few_shot": prompting.means(study)}


def _values(text: pd.DataFrame, family: str, column: str = "value") -> pd.DataFrame:
  """Returns a row a size, a column a metric."""
  own = text[text["family"] == family]
  wide = own.pivot_table(
    index=["params_total", "label", "flops_exact", "tokens"], columns="metric", values=column
  )
  return wide.reset_index(["label", "flops_exact", "tokens"])


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  value, error = (_values(tables["text"], DECODER, column) for column in ("value", "stderr"))
  bits = Figure(figsize=(TEXT_WIDTH * 0.7, 2.5))
  ax = bits.subplots()
  ax.errorbar(value.index, value["bits_per_byte"], error["bits_per_byte"], color=INK, marker="o",
              markersize=3.5, elinewidth=0.8)  # fmt: skip
  for params, row in value.iterrows():
    ax.annotate(row["label"].split()[0], (params, row["bits_per_byte"]), xytext=(4, 5), fontsize=7,
                textcoords="offset points")  # fmt: skip
  ax.set(xscale="log", xlabel="Parameters", ylabel="Bits per byte, held-out book")
  ax.margins(x=0.13)
  figure_parts.some_powers(ax.xaxis, (1, 2, 5))
  # Side by side, or the bars of one family would cover the other's.
  beside = tables["few_shot"]["family"].map({DECODER: 0.98, ENCODER: 1.02})
  moved = tables["few_shot"].assign(flops_exact=tables["few_shot"]["flops_exact"] * beside)
  return {"bits_per_byte": bits, "few_shot_association": prompting.figure(moved, "association")}


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  text = tables["text"]
  decoder, decoder_error = (_values(text, DECODER, column) for column in ("value", "stderr"))
  encoder, encoder_error = (_values(text, ENCODER, column) for column in ("value", "stderr"))
  lines, number = [], study_text.number
  for i, (params, row) in enumerate(decoder.iterrows()):
    other, error, other_error = (table.iloc[i] for table in (encoder, decoder_error, encoder_error))
    lines.append({
      "d": row["label"].split()[0].removeprefix("d"),
      "FLOPs": f"{row['flops_exact']:.1e}".replace("e+", "e"),
      "decoder: parameters": f"{params:,}",
      "bits/byte": f"{row['bits_per_byte']:.3f} ± {number(error['bits_per_byte'])}",
      "icl score": f"{number(row['icl_score'])} ± {number(error['icl_score'])}",
      "encoder: tokens read": f"{other['tokens'] / 1e6:.1f}M",
      "NLL of masked tokens": f"{other['nll']:.2f} ± {number(other_error['nll'], 2)}",
      "right": number(other["accuracy"]),
    })  # fmt: skip
  return {"sizes": study_text.table(pd.DataFrame(lines))}


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  falls = -np.diff(_values(tables["text"], DECODER)["bits_per_byte"])
  accuracy = tables["few_shot"].query("metric == 'accuracy'")
  off = ((accuracy["value"] - accuracy["chance"]) / accuracy["stderr"]).abs()
  chance, items = accuracy.loc[accuracy["task"] == "association", ["chance", "n_items"]].iloc[0]
  return {
    "the first fall of bits per byte": falls[0], "the last": falls[-1],
    "the most standard errors from chance": off.max(),
    "two standard errors of association at chance": 2 * np.sqrt(chance * (1 - chance) / items),
  }  # fmt: skip
