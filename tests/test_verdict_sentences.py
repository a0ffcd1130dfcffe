"""A sentence a task: it is about the curve that speaks for it, and says what its verdict says."""

import pytest

from lm_jax.analysis.emergence import sentences, verdict


def row(**given):
  known = {
    "task": "recall", "family": "decoder", "metric": "accuracy", "shots": "window", "x": "n_params",
    "n_sizes": 8, "verdict": "smooth", "x50": None, "x50_low": None, "x50_high": None, "paired_metric": None,
    "seeds_bimodal": False,
  }  # fmt: skip
  return known | given


JUMP = {"x50": 12_000.0, "x50_low": 9_000.0, "x50_high": 16_000.0, "paired_metric": "nll"}
AT = " jumps at 1.2e+04 parameters [9e+03, 1.6e+04]"


@pytest.mark.parametrize(
  ("verdict", "said"),
  [
    ("insufficient data", ": 8 sizes are fewer than the 4 that a verdict needs"),
    ("no rise resolved", ": no rise with size is resolved"),
    ("below chance resolution", ": no size is resolved from chance"),
    ("smooth", " improves smoothly with size"),
    ("not resolved", " improves with size; these data do not tell whether it jumps"),
    ("sharp", AT),
    ("sharp under the thresholded metric only",
     f"{AT}, but nll of the same answers improves smoothly: the metric makes the jump"),
    ("sharp under both", f"{AT}, and so does nll"),
  ],
)  # fmt: skip
def test_each_verdict_is_said(verdict, said):
  assert sentences.of_rows([row(verdict=verdict, **JUMP)]) == [f"recall, decoder: accuracy{said}."]


def test_every_verdict_has_a_sentence():
  for name in verdict.VERDICTS:
    assert sentences.of_rows([row(verdict=name, **JUMP)])


def test_the_family_of_most_sizes_and_its_thresholded_metric_speak():
  rows = [
    row(metric="nll", verdict="not resolved"),
    row(family="control", n_sizes=2, verdict="insufficient data"),
    row(metric="choice_prob"),
    row(),
    row(task="text", family=None, metric="bits_per_byte", n_sizes=5, verdict="no rise resolved"),
  ]
  assert sentences.of_rows(rows) == [
    "recall, decoder: accuracy improves smoothly with size (1 more family).",
    "text: bits_per_byte: no rise with size is resolved.",
  ]


def test_sizes_have_their_unit():
  (sentence,) = sentences.of_rows([row(verdict="sharp", x="flops", **(JUMP | {"x50": 3e12}))])
  assert "jumps at 3e+12 training FLOPs" in sentence


def test_an_end_that_is_not_known_is_no_number():
  (sentence,) = sentences.of_rows([row(verdict="sharp", **(JUMP | {"x50_high": None}))])
  assert "jumps at 1.2e+04 parameters [9e+03, ?]" in sentence
  assert sentences.of_rows([row(**(JUMP | {"x50_low": None, "x50_high": None}))])


GROUPS = {"seeds_bimodal": True, "bimodal_sizes": [1e3, 2e3], "past_threshold": 0.549, "past_x50": 12_000.0,
          "past_x50_low": 6_000.0, "past_x50_high": None}  # fmt: skip


def test_groups_of_seeds_are_told_after_the_verdict():
  (sentence,) = sentences.of_rows([row(**GROUPS)])
  assert sentence == (
    "recall, decoder: accuracy improves smoothly with size. Runs of one size fall into two groups at 2 of 8 "
    "sizes: half of them are past 0.55 at 1.2e+04 parameters [6e+03, ?]."
  )
  (sentence,) = sentences.of_rows([row(**(GROUPS | {"past_x50": None}))])
  assert sentence.endswith("fall into two groups at 2 of 8 sizes.")
