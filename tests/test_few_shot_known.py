"""Few-shot tasks of real data: known answers have known scores, and random ones chance."""

import numpy as np
import pytest
from few_shot_readers import Reading

from lm_jax import answer_metrics, few_shot, sandbox
from lm_jax.few_shot import Writing
from lm_jax.strict import ConfigError

CHOICES = (
  "mr", "cr", "subj", "poem_sentiment", "banking77", "boolq", "arc_easy", "commonsense_qa", "mmlu_lite",
  "pubmed_qa", "winogrande", "bigbench_strategy_qa", "association",
)  # fmt: skip
WRITTEN = (
  "nq_open",
  "xquad_en",
  "gsm8k",
  "bbh_word_sorting",
  "tatoeba_en_de",
  "scitldr",
  "qmsum_spans",
  "sgd",
)


@pytest.mark.parametrize("name", CHOICES)
def test_random_numbers_score_chance_and_the_answers_score_1(shared, name):
  del shared
  task = few_shot.make(name)
  accuracy = {s.metric: s for s in few_shot.evaluate(task, Reading(), (0,), 300, 0)}["accuracy"]
  assert abs(accuracy.value - accuracy.chance) < 3 * accuracy.stderr
  assert accuracy.chance == pytest.approx(np.mean([1 / len(item.choices) for item in task.sample(300)]))
  # The query is part of what is known, or an answer of another item would be right here too.
  known = [item.answered for item in task.sample(50)]
  assert {s.metric: s for s in few_shot.evaluate(task, Reading(known), (1,), 50, 0)}["accuracy"].value == 1


@pytest.mark.parametrize("name", ["lambada", "bigbench_operators"])
def test_a_known_text_goes_on_as_it_does(shared, name):
  del shared
  task = few_shot.make(name)
  found = {s.metric: s for s in few_shot.evaluate(task, Reading(["" for _ in "a"]), (0,), 20, 0)}
  assert found["exact_match"].value == 1 and found["nll"].value == pytest.approx(0.1 / 3)


@pytest.mark.parametrize("name", WRITTEN)
def test_references_score_the_highest_and_nothing_the_lowest(shared, name):
  del shared
  pytest.importorskip("sacrebleu")
  pytest.importorskip("rouge_score")
  task = few_shot.make(name)
  asked = few_shot.plan(task, Reading(), (1,), 20, 0)
  answers = {one.contexts[0]: one.item.references[0] for one in asked}
  best = few_shot.means(task, few_shot.ask(task, Reading(write=answers.get), asked), 1)
  found = {score.metric: score.value for score in best}
  # Of nothing but right answers no order is wrong, and none is the right one.
  assert (found.pop("aurc", 0), found.pop("auroc", None)) == (0, None)
  assert found == pytest.approx({name: answer_metrics.METRICS[name].highest for name in task.metrics})
  worst = few_shot.means(task, few_shot.ask(task, Reading(write=lambda _: ""), asked), 1)
  lowest = [score for score in worst if score.metric in task.metrics]
  assert len(lowest) == len(task.metrics)
  assert all(score.value < 0.05 * answer_metrics.METRICS[score.metric].highest for score in lowest)


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_solutions_pass_their_tests_and_others_do_not(shared, name):
  del shared
  if sandbox.isolation().missing:
    pytest.skip(str(sandbox.isolation()))
  task = few_shot.make(name)
  asked = few_shot.plan(task, Reading(), (0,), 6, 0)
  stop = task.stop[0]
  right = {one.contexts[0]: one.item.references[0].split(stop)[0] for one in asked}

  def run_code(programs):
    return sandbox.run_all(programs, workers=2)

  solved = few_shot.ask(task, Reading(write=right.get), asked, run_code=run_code)
  assert [result.outcomes for result in solved] == [("passed",)] * 6
  assert [(s.metric, s.value) for s in few_shot.means(task, solved, 0)] == [("pass_at_1", 1)]
  wrong = few_shot.ask(task, Reading(write=lambda _: "    pass\n"), asked, run_code=run_code)
  assert all(result.scores == {"pass_at_1": 0} for result in wrong)
  with pytest.raises(ConfigError, match=f"task '{name}': runs code .*--allow_code_execution"):
    few_shot.ask(task, Reading(write=right.get), asked)


def test_most_samples_decide(shared):
  del shared
  task = few_shot.make("gsm8k")
  asked = few_shot.plan(task, Reading(), (0,), 1, 0)
  gold = asked[0].item.references[0].split("####")[1].strip()

  class Several(Reading):
    def write(self, contexts, g, progress=None):
      return [["so 1", f"it is {gold}", f"{gold} in all"]]

  (result,) = few_shot.ask(task, Several(), asked, writing=Writing(3, 1.0))
  assert result.scores == {"final_number": pytest.approx(2 / 3), "final_number_majority": 1}
