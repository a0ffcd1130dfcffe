"""Balls thrown uniformly into bins: the exact law of the fullest bin, on which Bayes curves rest."""

import numpy as np


def binomial_pmf(max_trials: int, probability: float) -> np.ndarray:
  """Returns P(i successes in n trials) at [n, i], float64 [N + 1, N + 1].

  Trial by trial, with only products and sums of probabilities, so that every entry is accurate to within
  n roundings however small it is. (scipy.stats has it too, and takes half a second to import.)
  """
  pmf_NI = np.zeros((max_trials + 1, max_trials + 1))
  pmf_NI[0, 0] = 1
  for n in range(1, max_trials + 1):
    pmf_NI[n] = pmf_NI[n - 1] * (1 - probability)
    pmf_NI[n, 1:] += pmf_NI[n - 1, :-1] * probability
  return pmf_NI


def max_count_pmf(max_balls: int, bins: int) -> np.ndarray:
  """Returns P(fullest of `bins` bins holds m of n balls) at [n, m], float64 [N + 1, N + 1].

  One bin is added at a time: of n balls in s bins, Binomial(n, 1/s) fall into the last, and the rest
  are uniform over the others. It is the fullest, or one of the others is. Only products and sums of
  probabilities occur, so the smallest are as accurate as the largest: likelihood ratios multiply them.
  """
  counts = np.arange(max_balls + 1)
  rest_NI = counts[:, None] - counts  # n - i, negative (and of no weight) where i > n
  pmf_NM = np.eye(max_balls + 1)  # one bin holds all
  for s in range(2, bins + 1):
    last_NI = binomial_pmf(max_balls, 1 / s)
    others_NM, at_most_NM = pmf_NM, np.cumsum(pmf_NM, axis=1)
    pmf_NM = last_NI * at_most_NM[rest_NI, counts]
    for m in counts:
      pmf_NM[:, m] += (last_NI * others_NM[rest_NI, m])[:, :m].sum(axis=1)
  return pmf_NM
