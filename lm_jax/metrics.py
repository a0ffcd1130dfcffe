"""Scores of answers: accuracy and exact match (discontinuous) beside NLL, probability and Brier (continuous).

Definitions, for an answer token with gold g among the task's choices C:
  nll           -log p(g) over the whole vocabulary, nats.
  accuracy      1 if g has the largest logit among the choices.
  choice_prob   p(g) normalized over the choices.
  brier         sum over the choices of (p - 1[gold])^2, p normalized over the choices: 0 to 2.
  exact_match   1 if g has the largest logit of the whole vocabulary; for an answer, all of its tokens.
                Equals greedy decoding: up to the first error both see the same prefix.
  token_accuracy  of a part of a task: the share of answer tokens, each by itself, that match exactly.
  kl_bayes      KL(Bayes-optimal predictive || model) over the choices, nats, where the former is known.
  kl_baseline   KL(the task's simpler predictor || model) over the choices, nats, where there is one: 0 while
                the model does what that one does, as unigram before bigram statistics (arXiv:2402.11004).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lm_jax import kernels


def token_scores(
  logits: Float[Array, "B P V"],
  targets: Int[Array, "B P"],
  choices: np.ndarray,
  bayes: Float[Array, "B P C"] | None = None,
  baseline: Float[Array, "B P C"] | None = None,
) -> dict[str, Float[Array, "B P"]]:
  """Returns the scores of every answer token."""
  choice_logits = logits if len(choices) == logits.shape[-1] else logits[..., choices]
  log_p = jax.nn.log_softmax(choice_logits)
  gold = (targets[..., None] == choices[None, None]).astype(jnp.float32)
  p = jnp.exp(log_p)
  scores = {
    "accuracy": jnp.asarray(choices)[choice_logits.argmax(-1)] == targets,
    "exact_match": logits.argmax(-1) == targets,
    "nll": kernels.token_nll(logits, targets),
    "choice_prob": (p * gold).sum(-1),
    "brier": jnp.square(p - gold).sum(-1),
  }
  if bayes is not None:
    scores["kl_bayes"] = kl(bayes, log_p)
  if baseline is not None:
    scores["kl_baseline"] = kl(baseline, log_p)
  return {name: value.astype(jnp.float32) for name, value in scores.items()}


def kl(p: Float[Array, "*N C"], log_q: Float[Array, "*N C"]) -> Float[Array, "*N"]:
  """Returns KL(p || q) in nats; terms with p = 0 are 0."""
  return jnp.where(p > 0, p * (jnp.log(jnp.where(p > 0, p, 1)) - log_q), 0).sum(-1)


def mean_and_stderr(per_item: np.ndarray) -> tuple[float, float | None, int]:
  """Returns the mean over items, its standard error (n - 1 in the variance), and n; NaN items are missing."""
  x = per_item[~np.isnan(per_item)].astype(np.float64)
  if not len(x):
    return float("nan"), None, 0
  stderr = float(x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else None
  return float(x.mean()), stderr, len(x)
