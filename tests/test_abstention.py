"""Questions without an answer: how they are asked, and what readers of known honesty score on them."""

import json
import math

import numpy as np
import pandas
import pytest
import reference
import shared as shared_data
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax import (
  abstention,
  confidence,
  few_shot,
  few_shot_runs,
  interop,
  metrics,
  pretrained,
  prompt_selection,
  prompt_tasks,
  text_generation,
  tokenizers,
)
from lm_jax.analysis import few_shot_frame
from lm_jax.analysis.few_shot_report import few_shot_confidence_figures, few_shot_report
from lm_jax.analysis.figures import plots
from lm_jax.few_shot import Writing
from lm_jax.few_shot_settings import Settings
from lm_jax.generation_config import GenerationConfig
from lm_jax.pretrained import Pretrained
from lm_jax.prompt_tasks import known
from lm_jax.prompt_tasks.row_files import Row
from lm_jax.reader import ModelReader
from lm_jax.scorer import Likelihood
from lm_jax.strict import ConfigError

CHOICE = {
  "kind": "choice", "test": "t.jsonl", "query": "Q: {{q}}\nA:", "choices": ["no", "yes"], "gold": "label",
  "answerable": "label is not none",
}  # fmt: skip
ASKED = {
  "kind": "generation", "test": "t.jsonl", "query": "Q: {{q}}\nA:", "answer": "{{a}}",
  "metrics": ["quasi_exact_match", "f1"], "answerable": "a != ''",
}  # fmt: skip
# Of every three the last has no answer.
ROWS = [
  {"q": f"row {i}", "label": None if i % 3 == 2 else i % 2, "a": "" if i % 3 == 2 else f"word {i}"}
  for i in range(60)
]


@pytest.fixture
def make(tmp_path):
  """Makes a task of a definition and of rows of its files."""

  def of(d: dict, rows=ROWS, split="test", **files) -> few_shot.FewShotTask:
    for name, content in {"t": rows, **files}.items():
      (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    (tmp_path / "task.yaml").write_text(json.dumps(d))  # JSON is YAML
    return prompt_tasks.make(str(tmp_path / "task.yaml"), split=split)

  return of


class Made:
  """Has room for all, and reads and writes by functions."""

  def __init__(self, log_p, write=None):
    self._log_p, self._write = log_p, write

  def excess(self, requests):
    return [0] * len(requests)

  def loglikelihood(self, requests, progress=None):
    return [Likelihood(self._log_p(*request), 2, False) for request in requests]

  def write(self, contexts, g, progress=None):
    return [[self._write(context)] * g.num_return_sequences for context in contexts]


def row_of(context: str) -> dict:
  return ROWS[int(context.rpartition("row ")[2].split("\n")[0])]


def oracle(context, text):
  """Knows the answers, and is sure where there is one only; of what is written it is as sure."""
  row = row_of(context)
  if row["label"] is None:
    return -9.0
  right = text in (f" {('no', 'yes')[row['label']]}", f" {row['a']}")
  return -0.5 if right else -7.0


def oracle_writes(context):
  return " " + (row_of(context)["a"] or "something")


def uniform(context, text):
  return -2.0


def asked(task, reader, shots=0, **options):
  return few_shot.ask(task, reader, few_shot.plan(task, reader, (shots,), None, 0), **options)


def by_metric(task, results, shots=0):
  return {score.metric: score for score in few_shot.means(task, results, shots)}


# --- thresholds of others ---------------------------------------------------------------------------

QUESTIONS = st.lists(
  st.tuples(
    st.sampled_from([-math.inf, *map(float, range(5))]), st.sampled_from([0.0, 0.5, 1.0]), st.booleans()
  ),
  min_size=1, max_size=30,
)  # fmt: skip


def property_test(num_examples: int):
  return settings(max_examples=num_examples, derandomize=True, deadline=None, database=None)


def columns(items):
  conf, score, answerable = (np.array(column) for column in zip(*items, strict=True))
  return conf, score, answerable


@property_test(150)
@given(QUESTIONS)
def test_each_half_has_the_threshold_of_the_other(items):
  conf, score, answerable = columns(items)
  ids = [f"item {i}" for i in range(len(items))]
  found = abstention.cross_fit(conf, score, answerable, ids)
  for i, (c, s, has_answer) in enumerate(items):
    others = [
      one for one, name in zip(items, ids, strict=True) if abstention.half(name) != abstention.half(ids[i])
    ]
    worded = [one for one in others if one[0] > -math.inf]
    if not others:
      assert np.isnan([found.threshold_N[i], found.answered_N[i], found.score_N[i]]).all()
      continue
    threshold = confidence.best_threshold(*columns(worded)) if worded else math.inf
    assert found.threshold_N[i] == threshold
    answered = c > -math.inf and c >= threshold
    assert found.answered_N[i] == answered
    assert found.score_N[i] == ((s if answered else 0) if has_answer else not answered)


@property_test(50)
@given(QUESTIONS, st.integers(0, 29))
def test_no_item_moves_its_own_threshold(items, place):
  conf, score, answerable = columns(items)
  i, ids = place % len(items), [f"item {i}" for i in range(len(items))]
  before = abstention.cross_fit(conf, score, answerable, ids)
  conf, score, answerable = conf.copy(), score.copy(), answerable.copy()
  conf[i], score[i], answerable[i] = 99, 1 - score[i], not answerable[i]
  after = abstention.cross_fit(conf, score, answerable, ids)
  assert after.threshold_N[i] == before.threshold_N[i] or np.isnan(before.threshold_N[i])


def test_halves_are_halves_and_belong_to_the_item_alone():
  halves = [abstention.half(f"{i}") for i in range(4000)]
  # The deviation of the count is sqrt(4000) / 2 = 32.
  assert abs(sum(halves) - 2000) < 5 * 32
  # Kept results are read with these.
  assert [abstention.half(name) for name in ("a", "b", "c", "d", "e", "f")] == [0, 0, 0, 0, 1, 1]


def test_as_many_ids_as_items():
  with pytest.raises(ConfigError, match="items=1: must be 2 ids"):
    abstention.cross_fit(np.ones(2), np.ones(2), np.ones(2), ["a"])


@property_test(80)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=4, max_size=25))
def test_the_error_of_auroc_is_delongs_over_all_pairs(items):
  conf, right = np.array([c for c, _ in items], float), np.array([r for _, r in items])
  found = confidence.auroc_stderr(conf, right)
  if min(right.sum(), (~right).sum()) < 2:
    assert found is None
    return
  difference = conf[right][:, None] - conf[~right][None]
  outranks = np.where(difference > 0, 1.0, np.where(difference == 0, 0.5, 0.0))
  assert confidence.auroc(conf, right) == pytest.approx(outranks.mean())
  expected = outranks.mean(1).var(ddof=1) / right.sum() + outranks.mean(0).var(ddof=1) / (~right).sum()
  assert found**2 == pytest.approx(expected, abs=1e-12)


def test_the_error_of_auroc_is_the_spread_over_draws():
  rng = np.random.default_rng(0)
  values, errors = [], []
  for _ in range(1500):
    right = np.arange(120) < 80
    conf = rng.normal(right.astype(float))
    values.append(confidence.auroc(conf, right))
    errors.append(confidence.auroc_stderr(conf, right))
  assert np.mean(errors) == pytest.approx(np.std(values), rel=0.08)


# --- items ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [CHOICE, ASKED], ids=["choice", "generation"])
def test_items_without_an_answer_are_asked_and_are_no_demonstrations(d, make):
  task = make(d)
  silent = [item for item in task.items if not item.answerable]
  assert (len(task.items), len(silent), len(task.pool)) == (60, 20, 40)
  assert all(item.answerable for item in task.pool)
  assert all(item.references == () and item.written is None for item in silent)
  for item in silent:
    shown = task.demonstrations(item, 6, 0)
    assert all(other.answerable for other in shown)
    assert task.prompt(item, 0, 0) == item.query
  trained = make(d | {"train": "u.jsonl"}, u=ROWS[:30])
  assert len(trained.pool) == 20 and all(item.answerable for item in trained.pool)


def test_labels_that_stand_for_themselves_are_those_of_answers(make):
  d = {name: value for name, value in CHOICE.items() if name != "choices"}
  task = make(d | {"balanced": False})
  assert {item.choices for item in task.items} == {(" 0", " 1")}
  assert len(task.items) == 60


def test_a_digest_changes_with_answers_and_without_them_it_is_what_it_was(make):
  plain = {name: value for name, value in CHOICE.items() if name != "answerable"}
  rows = [row | {"label": i % 2} for i, row in enumerate(ROWS)]
  assert make(plain, rows).digest == make(plain | {"answerable": "true"}, rows).digest
  # The same texts, some of which have no answer now.
  d = plain | {"train": "u.jsonl", "answerable": "not q.endswith('7')"}
  assert make(d, rows, u=rows).digest != make(d | {"answerable": "true"}, rows, u=rows).digest


def test_a_split_may_be_several_files(make, tmp_path):
  d = CHOICE | {"test": ["t.jsonl", "u.jsonl"], "train": ["t.jsonl"]}
  task = make(d, ROWS[:6], u=ROWS[6:9])
  assert [item.query for item in task.items] == [f"Q: row {i}\nA:" for i in range(9)]
  assert len(task.pool) == 4
  with pytest.raises(ConfigError, match=r"\.test='v\.jsonl': no such file; did you mean"):
    make(CHOICE | {"test": ["t.jsonl", "v.jsonl"]})
  with pytest.raises(ConfigError, match=r"u\.jsonl line 1: gold is 5"):
    make(d, ROWS[:6], u=[{"q": "1", "label": 5}])
  with pytest.raises(ConfigError, match=r"\.test=\(\): must be a file of rows"):
    make(CHOICE | {"test": []})


@pytest.mark.parametrize(
  ("d", "rows", "message"),
  [
    (CHOICE | {"answerable": "label"}, ROWS, "line 1: answerable is 0, must be true or false"),
    (CHOICE | {"answerable": "q"}, ROWS, "line 1: answerable is 'row 0', must be true or false"),
    (CHOICE | {"answerable": "labl"}, ROWS, "line 1: .*'labl' is undefined; did you mean 'label'"),
    (CHOICE | {"answerable": "1 +"}, ROWS, r"answerable='1 \+': is no expression"),
    (CHOICE | {"answerable": True}, ROWS, r"\.answerable=True: must be a string or none"),
    (CHOICE, ROWS[2:3], r"answerable='label is not none': is false of all 1 test rows; must be true of some"),
    (CHOICE | {"answerable": "true"}, ROWS, "line 3: gold is None"),
    (
      {"kind": "continuation", "test": "t.jsonl", "query": "{{q}}", "answer": "{{a}}", "answerable": "true"},
      ROWS, r"\.answerable='true': must be of kind choice or generation only",
    ),
  ],
)  # fmt: skip
def test_what_is_no_answerable_is_one_line(d, rows, message, make):
  with pytest.raises(ConfigError, match=message) as error:
    make(d, rows)
  assert "\n" not in str(error.value)


# --- readers of known honesty -----------------------------------------------------------------------


@pytest.mark.parametrize("d", [CHOICE, ASKED], ids=["choice", "generation"])
@pytest.mark.parametrize("shots", [0, 2])
def test_who_is_sure_only_where_there_is_an_answer_scores_1(d, shots, make):
  task = make(d)
  reader = Made(oracle if d is CHOICE else lambda c, a: -1.0 if row_of(c)["a"] else -8.0, oracle_writes)
  if d is CHOICE:  # of no answer both choices are equal
    assert {round(result.confidence, 3) for result in asked(task, reader)} == {0.5, 0.998}
  found = by_metric(task, asked(task, reader, shots), shots)
  assert (found["abstention_auroc"].value, found["abstention_auroc"].n_items) == (1, 60)
  assert (found["abstention_score"].value, found["abstention_score"].n_items) == (1, 60)
  assert found["abstention_rate"].value == pytest.approx(1 / 3)
  assert (found["hallucination_rate"].value, found["hallucination_rate"].n_items) == (0, 20)
  assert (found[task.metrics[0] if task.metrics else "accuracy"].value) == 1
  assert {score.n_shots for score in found.values()} == {shots}


@pytest.mark.parametrize("d", [CHOICE, ASKED], ids=["choice", "generation"])
def test_who_is_always_as_sure_cannot_tell_them_apart(d, make):
  task = make(d)
  found = by_metric(task, asked(task, Made(uniform, oracle_writes)))
  assert (found["abstention_auroc"].value, found["abstention_auroc"].stderr) == (0.5, 0)
  # All or nothing: choices are right by half, and what is written by all.
  gain = 40 * (0.5 if d is CHOICE else 1) - 20
  assert (gain >= 0 and found["abstention_rate"].value in (0, 1)) or d is CHOICE
  if d is ASKED:
    assert found["abstention_score"].value == pytest.approx(2 / 3)
    assert found["hallucination_rate"].value == 1


@pytest.mark.parametrize("d", [CHOICE, ASKED], ids=["choice", "generation"])
def test_scores_are_those_of_loops_and_of_scikit_learn(d, make):
  sklearn = pytest.importorskip("sklearn.metrics")
  task, rng = make(d), np.random.default_rng(1)
  noise = {item.query: rng.normal(size=3) for item in task.items}

  def log_p(context, text):
    a, b, _ = noise[context]
    return -5 + (row_of(context)["label"] is not None) + (a if text == " yes" else b)

  def write(context):
    return oracle_writes(context) if noise[context][2] > 0 else "no idea"

  results = asked(task, Made(log_p, write))
  found = by_metric(task, results)
  items = {item.id: item for item in task.items}
  table = []
  for result in results:
    item = items[result.asked.item.id]
    pair = [log_p(item.query, text) for text in ((" no", " yes") if d is CHOICE else result.written)]
    conf = np.exp(max(pair)) / np.exp(pair).sum() if d is CHOICE else pair[0] / 2
    right = (
      pair.index(max(pair)) == item.gold if d is CHOICE else result.written[0].strip() in item.references
    )
    table.append((item.id, conf, item.answerable, right and item.answerable))
  ids, conf, answerable, right = (np.array(column) for column in zip(*table, strict=True))
  assert [result.confidence for result in results] == pytest.approx(list(conf))
  assert found["abstention_auroc"].value == pytest.approx(sklearn.roc_auc_score(answerable, conf))
  half = np.array([abstention.half(one) for one in ids])
  answered = np.zeros(60, bool)
  for own in (0, 1):
    dev = half != own

    def mean(t, dev=dev):
      said = conf[dev] >= t
      return np.where(answerable[dev], said & right[dev], ~said).mean()

    candidates = [*sorted(conf[dev]), math.inf]
    best = max(map(mean, candidates))
    threshold = next(t for t in candidates if mean(t) >= best - 1e-9)
    answered[~dev] = conf[~dev] >= threshold
  score = np.where(answerable, answered & right, ~answered).astype(float)
  expected = {
    "abstention_score": score, "abstention_rate": ~answered, "hallucination_rate": answered[~answerable],
  }  # fmt: skip
  assert 0 < answered.mean() < 1
  for name, values in expected.items():
    value, stderr, n = metrics.mean_and_stderr(values.astype(float))
    assert (found[name].value, found[name].stderr, found[name].n_items) == (
      pytest.approx(value), pytest.approx(stderr), n,
    )  # fmt: skip
  # Scores of answers are of those that there are.
  name = task.metrics[0] if task.metrics else "accuracy"
  assert (found[name].value, found[name].n_items) == (pytest.approx(right[answerable].mean()), 40)
  assert found["aurc"].value == pytest.approx(confidence.aurc(conf[answerable], right[answerable]))
  if d is ASKED:
    assert found["auroc"].value == pytest.approx(sklearn.roc_auc_score(right[answerable], conf[answerable]))
    assert found["auroc"].n_items == 40


def test_results_of_one_kind_only_tell_nothing(make):
  task = make(CHOICE)
  results = asked(task, Made(oracle))
  for kind, there in ((True, 1.0), (False, None)):
    own = [result for result in results if result.asked.item.answerable == kind]
    found = by_metric(task, own)
    assert found["accuracy"].value == there
    assert [(found[name].value, found[name].n_items) for name in abstention.METRICS] == [(None, 0)] * 4
  assert by_metric(task, [])["abstention_score"].value is None
  # A task whose items all have an answer says nothing of the kind.
  plain = make(CHOICE | {"answerable": "true"}, [row for row in ROWS if row["a"]])
  assert not set(by_metric(plain, asked(plain, Made(oracle)))) & set(abstention.METRICS)


# --- confidence of what is written ------------------------------------------------------------------


def test_an_answer_without_words_is_silence(make):
  task = make(ASKED)
  reader = Made(uniform, lambda context: oracle_writes(context) if row_of(context)["a"] else " \n")
  results = asked(task, reader)
  assert {result.confidence for result in results} == {-1.0, -math.inf}
  found = by_metric(task, results)
  assert [found[name].value for name in abstention.METRICS] == [1, 1, pytest.approx(1 / 3), 0]
  nothing = by_metric(task, asked(task, Made(uniform, lambda context: "")))
  assert [nothing[name].value for name in abstention.METRICS] == [0.5, pytest.approx(1 / 3), 1, 0]


def test_what_cannot_be_read_again_is_missing_and_the_rest_is_read_once(make):
  task, read = make(ASKED), []

  class Choosy(Made):
    def loglikelihood(self, requests, progress=None):
      for context, text in requests:
        if context.endswith(("row 4\nA:", "row 5\nA:", "row 40\nA:")):
          raise ConfigError(f"continuation {text!r}: has no token of its own")
      read.extend(requests)
      cut = [int(context.endswith("row 7\nA:")) for context, _ in requests]
      return [Likelihood(-3.0, 2, False, n) for n in cut]

  results = asked(task, Choosy(None, oracle_writes))
  unknown = {result.asked.item.query for result in results if result.confidence is None}
  assert unknown == {f"Q: row {i}\nA:" for i in (4, 5, 7, 40)}
  assert {result.confidence for result in results} == {None, -1.5}
  assert len(read) == len(set(read)) == 57
  found = by_metric(task, results)
  assert found["quasi_exact_match"].n_items == 40  # they are scored all the same
  assert found["abstention_auroc"].n_items == 56 and found["aurc"].n_items == 37


def test_of_several_samples_the_first_is_what_confidence_is_about(make):
  task = make(ASKED)

  class Several(Made):
    def write(self, contexts, g, progress=None):
      return [[oracle_writes(context), "wrong", "wrong"] for context in contexts]

  results = asked(task, Several(lambda c, a: -1.0 if row_of(c)["a"] else -8.0), writing=Writing(3, 1.0))
  found = by_metric(task, results)
  assert found["quasi_exact_match"].value == pytest.approx(1 / 3)
  assert (found["aurc"].value, found["abstention_score"].value) == (0, 1)


def test_metrics_that_are_no_right_and_wrong_have_no_selective_accuracy(make):
  pytest.importorskip("sacrebleu")
  reader = Made(uniform, oracle_writes)
  task = make(ASKED | {"metrics": ["f1"]})
  found = by_metric(task, asked(task, reader))
  assert "aurc" not in found and found["abstention_score"].value == pytest.approx(2 / 3)
  corpus = make(ASKED | {"metrics": ["bleu"]})
  found = by_metric(corpus, asked(corpus, reader))
  assert found["bleu"].n_items == 40 and found["abstention_score"].value is None


def test_a_model_is_as_sure_as_it_was_when_it_wrote(make):
  model = interop.load(shared_data.folder("models", "stories260K"))
  task = make(ASKED | {"query": "{{q}} was a little girl who", "max_new_tokens": 12, "stop": []}, ROWS[:12])
  results = asked(task, ModelReader(model))
  rows = [
    [*model.begin, *ids] for ids in model.tokenizer.encode_batch([r.asked.contexts[0] for r in results])
  ]
  g = GenerationConfig(max_new_tokens=12, temperature=0.0)
  again, found = 0, text_generation.generate(model, rows, g)
  for result, row, (one,) in zip(results, rows, found, strict=True):
    assert result.written == (one.text,) and math.isfinite(result.confidence)
    (whole,) = model.tokenizer.encode_batch([result.asked.contexts[0] + one.text])
    if [*model.begin, *whole] == [*row, *one.tokens]:  # read as it was written
      again += 1
      assert result.confidence == pytest.approx(np.mean(one.log_p), abs=1e-4)
  assert again >= 6


def test_bytes_that_are_no_letters_are_longer_when_read_and_missing_where_they_do_not_fit(make):
  # Of bytes that are none each is read again as the three of a replacement character.
  task = make(ASKED | {"max_new_tokens": 40, "stop": []})
  results = asked(task, ModelReader(random_model(64)))
  assert len(results) == 60
  for result in results:
    length = 1 + len(result.asked.contexts[0]) + len(result.written[0].encode())
    assert (result.confidence is None) == (length > 65)
  assert any(result.confidence is None for result in results)


def random_model(context_length: int) -> Pretrained:
  config = reference.tiny(vocab_size=257, context_length=context_length, positions="learned")
  return pretrained.untrained(Pretrained(config, None, tokenizers.Bytes(), {"end": 256}, (256,)))


# --- what is kept -----------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [CHOICE, ASKED], ids=["choice", "generation"])
def test_items_are_kept_with_confidence_and_threshold(d, make, tmp_path):
  task = make(d)
  reader = Made(oracle if d is CHOICE else lambda c, a: -1.0 if row_of(c)["a"] else -8.0, oracle_writes)
  rows = few_shot_runs.run(
    random_model(64), Settings((str(tmp_path / "task.yaml"),), seeds=(0, 1), shots=(0, 1)), name="m",
    folder=tmp_path / "w", quiet=True, reader=reader,
  )  # fmt: skip
  by_key = {row["key"] for row in rows if row["key"]}
  assert len(by_key) == 3
  for key in by_key:
    table = pandas.read_parquet(tmp_path / "w" / "items" / f"{key}.parquet")
    own = {row["metric"]: row for row in rows if row["key"] == key}
    assert table["answerable"].sum() == 40 and table["gold"].notna().sum() == (40 if d is CHOICE else 0)
    answered = table["confidence"] >= table["threshold"]
    assert answered.tolist() == table["answerable"].tolist()
    assert own["hallucination_rate"]["value"] == 0 == answered[~table["answerable"]].mean()
    name = task.metrics[0] if task.metrics else "accuracy"
    # Missing and not zero: the mean is of the others.
    assert table[name].isna().tolist() == (~table["answerable"]).tolist()
    assert own[name]["value"] == table[name].mean() == 1
    assert own[name]["n_items"] == 40
  summary = next(row for row in rows if row["key"] is None and row["n_shots"] == 1)
  assert summary["n_items"] == 40


def test_prompts_are_chosen_by_what_has_an_answer(make, tmp_path):
  task = make(CHOICE, list(reversed(ROWS)))
  assert not task.items[0].answerable
  assert "accuracy" in prompt_selection.item_metrics(task)
  written = make(ASKED, list(reversed(ROWS)))
  assert prompt_selection.item_metrics(written) == ("quasi_exact_match", "f1")
  silent = [result for result in asked(task, Made(oracle)) if not result.asked.item.answerable]
  table = pandas.DataFrame([{"item": result.asked.item.id, **result.scores} for result in silent])
  assert prompt_selection.item_scores(table, "accuracy").empty


# --- the report -------------------------------------------------------------------------------------


def kept(make, folder, d):
  """Keeps the results of a reader with opinions of its own, and returns {key: the table of its items}."""
  make(d)
  rng = np.random.default_rng(2)
  noise = {row["q"]: rng.normal(size=3) for row in ROWS}

  def log_p(context, text):
    row = row_of(context)
    return -6 + 2 * (row["label"] is not None) + noise[row["q"]][int(text == " yes")]

  def write(context):
    row = row_of(context)
    return "" if row["q"] == "row 2" else oracle_writes(context) if noise[row["q"]][2] > -0.5 else "no idea"

  few_shot_runs.run(
    random_model(64), Settings((str(folder / "task.yaml"),), shots=(0, 1)), name="m", folder=folder / "w",
    quiet=True, reader=Made(log_p, write),
  )  # fmt: skip
  return few_shot_frame.load(folder / "w")


@pytest.mark.parametrize("d", [CHOICE, ASKED], ids=["choice", "generation"])
def test_the_figure_shows_confidence_thresholds_and_rates(d, make, tmp_path):
  results = kept(make, tmp_path, d)
  figure = few_shot_confidence_figures.abstention(results, results.rows)
  figure.draw_without_rendering()
  for ax, k in zip(figure.axes, (0, 1), strict=True):
    rows = results.rows[results.rows["n_shots"] == k].set_index("metric")
    items = results.items[rows["key"].iloc[0]]
    dotted = sorted(line.get_xdata()[0] for line in ax.lines)
    assert dotted == sorted(items["threshold"].unique()) and len(dotted) == 2
    for patch, kind in zip(ax.patches, (True, False), strict=True):
      sure = items.loc[items["answerable"] == kind, "confidence"].to_numpy()
      x, y = patch.get_xy().T
      counts, _ = np.histogram(sure[np.isfinite(sure)], np.unique(x))
      # The outline goes up and down at the edges, from 0 to 0.
      np.testing.assert_allclose(y[1:-1:2], counts / len(sure))
    (text,) = (text.get_text() for text in ax.texts)
    assert f"AUROC {rows.loc['abstention_auroc', 'value']:.3f}" in text
    assert f"silent {rows.loc['abstention_rate', 'value']:.0%}" in text
    assert f"hallucinates {rows.loc['hallucination_rate', 'value']:.0%}" in text
  assert ("without words" in " ".join(figure.get_supxlabel().split())) == (d is ASKED)
  answers = few_shot_frame.abstention(items)
  assert 1 - answers["answered"].mean() == pytest.approx(rows.loc["abstention_rate", "value"])


@pytest.mark.parametrize("d", [CHOICE, ASKED], ids=["choice", "generation"])
def test_answers_that_there_are_not_are_mistakes(d, make, tmp_path):
  results = kept(make, tmp_path, d)
  mistakes = few_shot_frame.mistakes(results, most=100)
  made_up = mistakes[mistakes["gold"].isna()].set_index("item")
  tables = [table.set_index("item") for table in results.items.values()]
  expected = {}
  for table in tables:
    silent = table[~table["answerable"]]
    for item, row in silent[silent["confidence"] >= silent["threshold"]].iterrows():
      expected[item] = max(expected.get(item, -math.inf), row["confidence"])
  assert 0 < len(expected) < 20
  assert made_up["confidence"].to_dict() == pytest.approx(expected)
  assert set(made_up["n_asked"]) == {2}
  for item, row in made_up.iterrows():
    own = tables[0].loc[item]
    assert row["chosen"] == (np.argmax(own["log_p"]) if d is CHOICE else own["written"][0])
  others = mistakes[mistakes["gold"].notna()]
  assert (len(others) > 0) == (d is CHOICE) and (others["gold"] != others["chosen"]).all()


def test_the_page_has_the_figure_of_such_tasks_and_says_nothing_of_others(make, tmp_path, monkeypatch):
  monkeypatch.setattr(plots, "FORMATS", ("png",))
  kept(make, tmp_path, ASKED)
  page = few_shot_report.write(tmp_path / "w")
  assert (page.parent / "figures" / "abstention.task.png").is_file()
  text = page.read_text()
  assert "Confidence in answers to questions that have one" in text and "Hallucination rate" in text
  assert "something" in text.partition("Most confident mistakes")[2]
  (tmp_path / "plain").mkdir()
  make(CHOICE | {"answerable": "true"}, [row for row in ROWS if row["a"]])
  settings = Settings((str(tmp_path / "task.yaml"),))
  few_shot_runs.run(
    random_model(64), settings, name="m", folder=tmp_path / "plain", quiet=True, reader=Made(oracle)
  )
  text = few_shot_report.write(tmp_path / "plain").read_text()
  assert "that have none" not in text and "Hallucination" not in text


# --- tasks that are known by name -------------------------------------------------------------------


def test_queries_of_no_intent_are_asked_beside_the_others(shared):
  del shared
  task, plain = prompt_tasks.make("clinc150_oos"), prompt_tasks.make("clinc150")
  assert [item.query for item in task.items if item.answerable] == [item.query for item in plain.items]
  assert sum(not item.answerable for item in task.items) == 1000
  assert task.pool == plain.pool and len(task.items[0].choices) == 150
  assert " oos" not in task.items[0].choices
  dev = prompt_tasks.make("clinc150_oos", split="dev")
  assert [sum(item.answerable == kind for item in dev.items) for kind in (True, False)] == [3000, 100]


def test_other_paragraphs_hold_no_answer_and_the_rest_is_as_it_was(shared):
  del shared
  task, plain = prompt_tasks.make("xquad_en_abstain"), prompt_tasks.make("xquad_en")
  assert [item.id for item in task.items] == [item.id for item in plain.items]
  paragraphs = {item.fields["context"] for item in plain.items}
  silent = 0
  for item, own in zip(task.items, plain.items, strict=True):
    if item.answerable:
      assert item == own
      continue
    silent += 1
    paragraph, _, question = item.query.partition("\nQuestion: ")
    assert question == own.query.partition("\nQuestion: ")[2]
    assert paragraph in paragraphs and paragraph != own.fields["context"]
    assert not any(answer.lower() in paragraph.lower() for answer in own.references)
  # 1190 coins: the deviation is 17.
  assert abs(silent - 595) < 5 * 17
  # No paragraph is the favorite: 600 draws of 240.
  texts = [item.fields["context"] for item in task.items if not item.answerable]
  assert max(map(texts.count, texts)) < 15


def test_a_question_that_every_paragraph_answers_is_one_line():
  rows = [
    Row(f"line {i}", {"id": f"{i}", "context": f"a {i}", "question": "?", "answers": ["A"]}) for i in range(9)
  ]
  with pytest.raises(ConfigError, match=r"line \d: all other paragraphs hold an answer of \['A'\]"):
    known.with_other_paragraphs(rows, "test")
