"""The figures of a study: which there are, and how they are called; vector text, labels beside the lines."""

from collections.abc import Iterator

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from lm_jax.analysis import frame
from lm_jax.analysis.figures import run_plots, size_plots
from lm_jax.analysis.figures.figure_parts import Drawing, Numbers, encoded, file_part
from lm_jax.analysis.figures.style import FORMATS, STYLE
from lm_jax.analysis.frame import Study

STEMS = (
  "accuracy_vs_params", "accuracy_vs_flops", "accuracy_vs_shots", "metrics_vs_params", "loss_curves",
  "training_curves", "bits_per_byte_vs_params", "bits_per_byte_vs_flops", "nll_vs_params", "nll_vs_flops",
  "icl_score_vs_params", "few_shot", "seeds_by_size", "best_vs_flops",
)  # fmt: skip
# The figures that show at rest what a plot of the page shows.
PAGE_STEMS = {
  "plot-size": ("bits_per_byte_vs_params", "accuracy_vs_params", "nll_vs_params"),
  "plot-compute": ("bits_per_byte_vs_flops", "accuracy_vs_flops", "nll_vs_flops"),
  "plot-shots": ("accuracy_vs_shots",), "plot-seeds": ("seeds_by_size",), "plot-along": ("training_curves",),
  "plot-loss": ("loss_curves",), "plot-best": ("best_vs_flops",), "plot-left": ("metrics_vs_params",),
}  # fmt: skip


def _task_figures(study: Study, task: str, rows: pd.DataFrame, curves: pd.DataFrame,
                  losses: pd.DataFrame) -> Iterator[tuple[str, Figure, Numbers]]:  # fmt: skip
  def drawn(stem: str, draw, *args) -> tuple[str, Figure, Numbers]:
    numbers = Numbers()
    return stem, draw(study, *args, numbers), numbers

  metric = frame.primary_metric(rows)
  if metric:
    yield drawn(f"{metric}_vs_params", size_plots.scaling_figure, rows, task, metric, "params_total")
    yield drawn(f"{metric}_vs_flops", size_plots.scaling_figure, rows, task, metric, "flops_exact")
    yield drawn("seeds_by_size", size_plots.seeds_figure, rows, task, metric)
    present = set(rows.loc[rows["value"].notna() & (rows["shots"] == frame.summary_shots(rows)), "metric"])
    if rows.loc[rows["metric"] == "accuracy", "n_shots"].nunique() > 1:
      yield drawn("accuracy_vs_shots", size_plots.shots_figure, rows, task)
    if "icl_score" in present:
      yield drawn("icl_score_vs_params", size_plots.scaling_figure, rows, task, "icl_score", "params_total")
    pair = tuple(m for m in ("accuracy", "exact_match", "nll") if m in present)
    if "nll" in pair and len(pair) > 1 and metric != "bits_per_byte":
      yield drawn("metrics_vs_params", size_plots.pair_figure, rows, task, pair)
  if losses["value"].notna().any():
    yield drawn("loss_curves", run_plots.loss_figure, losses, task)
  metric = frame.primary_metric(curves)
  if metric:
    yield drawn("training_curves", run_plots.training_figure, curves, task, metric)
    if (curves["flops_exact"] > 0).any():  # step 0 has no place on that axis
      yield drawn("best_vs_flops", run_plots.pareto_figure, curves, task, metric)


def drawings(study: Study, only: str | None = None) -> Iterator[Drawing]:
  """Yields every figure that the study has data for; to be encoded before the next is asked for.

  Args:
    only: the task whose figures are wanted, None for all.
  """
  rows, curves = frame.final(study), frame.evaluations(study)
  losses = study.records[(study.records["split"] == "train") & (study.records["metric"] == "loss")]
  for i, task in enumerate(study.tasks):
    if only not in (None, task):
      continue
    cells = study.cells.loc[study.cells["task"] == task, "cell_id"]
    with mpl.rc_context(STYLE):
      final, along = (r[(r["task"] == task) & r["cell_id"].isin(cells)] for r in (rows, curves))
      own_losses = losses[losses["cell_id"].isin(cells)]
      for stem, figure, numbers in _task_figures(study, task, final, along, own_losses):
        yield Drawing(stem_of(stem, study, i), figure, numbers.table().assign(task=task))


def figures(study: Study, formats: tuple[str, ...] = FORMATS) -> Iterator[tuple[str, bytes]]:
  """Yields (file name, content) of every figure that the study has data for, in each of `formats`."""
  for drawing in drawings(study):
    for ending, content in encoded(drawing.figure, formats).items():
      yield f"{drawing.stem}.{ending}", content


def stem_of(stem: str, study: Study, index: int) -> str:
  """Returns what a task's figure is called: with several tasks the task's name stands at the end."""
  return f"{stem}.{file_part(list(study.tasks)[index], index)}" if len(study.tasks) > 1 else stem
