"""What an evaluation can resolve: against simulation, statsmodels' formulas by scipy, and itself."""

import numpy as np
import pytest
from scipy import stats

from lm_jax import power, resolution
from lm_jax.config import from_mapping


@pytest.mark.parametrize(("chance", "n"), [(0.25, 1024), (0.5, 200), (0.01, 400), (0.25, 12)])
def test_smallest_gain_has_its_error_rates(chance, n):
  gain = power.smallest_gain(chance, n)
  rng = np.random.default_rng(0)

  def shown(p):
    hits = rng.binomial(n, p, 40_000)
    # An independent test: the p-value of each outcome.
    values = np.array([stats.binomtest(int(k), n, chance, "greater").pvalue for k in range(n + 1)])
    return (values[hits] <= power.ALPHA).mean()

  assert shown(chance) <= power.ALPHA + 0.003
  assert shown(chance + gain) == pytest.approx(power.POWER, abs=0.01)


def test_few_items_resolve_nothing():
  assert power.smallest_gain(0.5, 5) is None
  assert power.smallest_gain(0.5, 6) is not None


@pytest.mark.parametrize(("chance", "gain"), [(0.25, 0.02), (0.5, 0.05), (0.1, 0.3)])
def test_items_for_a_gain_show_it(chance, gain):
  n = power.items_for_gain(chance, gain)
  assert all(power.smallest_gain(chance, m) <= gain for m in range(n, n + 30))
  assert power.smallest_gain(chance, n - 1) > gain
  assert power.items_for_gain(chance, 1.1 - chance) is None
  assert power.items_for_gain(chance, 1e-6) is None


def test_seeds_have_the_power_of_a_t_test():
  rng = np.random.default_rng(1)
  for seeds in (2, 3, 8):
    difference = power.seed_difference(seeds)
    a, b = rng.normal(difference, 1, (20_000, seeds)), rng.normal(0, 1, (20_000, seeds))
    found = stats.ttest_ind(a, b, axis=1, alternative="greater").pvalue <= power.ALPHA
    assert found.mean() == pytest.approx(power.POWER, abs=0.01)
    assert power.seeds_for_difference(difference * 1.0001) == seeds
  assert power.seed_difference(1) is None and power.seeds_for_difference(1e-4) is None


def test_a_sweep_is_told_what_it_resolves():
  configs = [
    from_mapping({"task": {"name": "noisy_majority"}, "seed": seed, "model": {"d_model": d}})
    for seed in range(3)
    for d in (16, 32)
  ]
  (row,) = resolution.resolution(configs, gain=0.02, seed_sd=0.01)
  assert (row["task"], row["chance"], row["n_items"], row["n_seeds"]) == ("noisy_majority", 0.25, 1024, 3)
  assert row["smallest_gain"] == power.smallest_gain(0.25, 1024)
  assert row["items_for_gain"] == power.items_for_gain(0.25, 0.02)
  assert row["seeds_for_gain"] == power.seeds_for_difference(2.0)
  line = resolution.text([row])
  assert "1,024 items against chance 0.250: a gain of 0.039 is resolved" in line
  assert f"{row['items_for_gain'] - 1024:,} more" in line


def test_tasks_that_are_not_there_say_so():
  config = from_mapping({"task": {"name": "text"}, "eval": {"few_shot": ["association", "no_such.yaml"]}})
  known, absent = resolution.resolution([config])
  assert known["chance"] == 0.25 and known["n_items"] > 0 and known["seed_difference_in_sd"] is None
  assert absent["chance"] is None and "no_such" in absent["status"]
  assert "is not known" in resolution.text([absent])
