"""Names and colors that the figures and the page share."""

import pandas as pd

from lm_jax.analysis.figures.style import OTHER_SYMBOLS, OTHERS, palette
from lm_jax.analysis.frame import Study
from lm_jax.analysis.headline import sizes
from lm_jax.analysis.known_metrics import METRICS

NAMES = {
  "accuracy": "Accuracy", "exact_match": "Exact match", "nll": "NLL (nats/token)",
  "choice_prob": "Probability of the right choice", "brier": "Brier score",
  "kl_bayes": "KL from the Bayes predictor (nats/token)",
  "kl_baseline": "KL from the simpler predictor (nats/token)",
  "beats_baseline": "Closer to Bayes than half-way to the baseline", "bits_per_byte": "Bits per byte",
  "icl_score": "In-context-learning score (nats/token)",
  "loss": "Training loss (nats/token)", "params_total": "Parameters",
  "params_nonembedding": "Non-embedding parameters", "flops_exact": "Training FLOPs",
  "flops_6nd": "Training FLOPs (6ND)", "flops_6nd_nonembedding": "Training FLOPs (6ND, non-embedding N)",
  "tokens": "Training tokens", "step": "Training steps",
}  # fmt: skip

# Which way of a metric is better; of others it is not known.
DIRECTIONS = {name: "higher" if metric.higher_is_better else "lower" for name, metric in METRICS.items()}

DEFINITIONS = {
  "accuracy": "share of answer tokens ranked first among the choices; thresholded, higher is better",
  "exact_match": "share of items with every token right, against the whole vocabulary, in all the window's "
  "queries (at k shots: of as many queries, up to that one); thresholded, higher is better",
  "nll": "mean negative log-likelihood of the right answer token, nats a token; continuous, lower is better",
  "choice_prob": "probability of the right choice among the choices; continuous, higher is better",
  "brier": "mean over items of sum over choices of (probability - 1 if right)^2; continuous, lower is better",
  "kl_bayes": "Kullback-Leibler divergence of the model from the Bayes-optimal predictor, nats a token; "
  "continuous, 0 is best",
  "kl_baseline": "Kullback-Leibler divergence of the model from the task's simpler predictor, nats a token; "
  "near 0 while the model does no more than that one",
  "beats_baseline": "share of items whose KL from Bayes is less than half the baseline's; thresholded",
  "bits_per_byte": "negative log-likelihood of the text in bits, divided by its bytes; lower is better",
  "icl_score": "loss late in a sequence less loss early in it, nats a token; below 0 where context helps",
  "loss": "mean negative log-likelihood over the training tokens that count, nats a token, "
  "averaged over the steps since the previous point",
}


def styles(study: Study, task: str, low: float = 0.0, high: float = 0.85) -> pd.DataFrame:
  """Returns the sizes of a task with the `name`, `color` and `symbol` they have in every figure.

  Sizes of the main family run through viridis from `low` to `high`; other families have a color each.
  """
  table = sizes(study)
  table = table[table["task"] == task].reset_index(drop=True)
  others = list(table.loc[~table["main"], "family"].drop_duplicates())
  ramp = iter(palette(int(table["main"].sum()), "viridis", low, high))
  table["color"] = [
    next(ramp) if main else OTHERS[others.index(family) % len(OTHERS)]
    for main, family in zip(table["main"], table["family"], strict=True)
  ]
  table["symbol"] = [
    "circle" if main else OTHER_SYMBOLS[others.index(family) % len(OTHER_SYMBOLS)]
    for main, family in zip(table["main"], table["family"], strict=True)
  ]
  table["name"] = [
    label if main else f"{label}, {family}"
    for main, label, family in zip(table["main"], table["label"], table["family"], strict=True)
  ]
  return table
