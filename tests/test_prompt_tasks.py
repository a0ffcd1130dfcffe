"""Tasks from definitions: what a person may write, what rows become, and every task that is known by name."""

import ast
import collections
import hashlib
import json
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax import answer_metrics, few_shot_scores, prompt_tasks
from lm_jax.few_shot_prompts import Asked
from lm_jax.few_shot_scores import Result
from lm_jax.prompt_tasks import FewShotTask, Item, definition, expressions
from lm_jax.scorer import Likelihood
from lm_jax.strict import ConfigError

CHOICE = {
  "kind": "choice", "test": "t.jsonl", "query": "{{q}} =", "choices": ["no", "yes"], "gold": "label",
}  # fmt: skip
ASKED = {"kind": "generation", "test": "t.jsonl", "query": "Q: {{q}}\nA:", "answer": "{{a}}"}
CODE = {**ASKED, "kind": "code", "query": "{{q}}", "gap": "", "program": "{{completion}}\n{{tests}}\n"}
CONTEXTS = {
  "kind": "choice", "test": "t.jsonl", "contexts": "of", "answer": "{{a}}", "gold": "label",
}  # fmt: skip


@pytest.fixture
def make(tmp_path):
  """Makes a task of a definition and of rows of its files."""

  def of(d: dict, rows=None, template: str = "default", split: str = "test", **files) -> FewShotTask:
    for name, content in {"t": rows or [{"q": "1", "a": "b", "label": 1}], **files}.items():
      (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    (tmp_path / "task.yaml").write_text(json.dumps(d))  # JSON is YAML
    return prompt_tasks.make(str(tmp_path / "task.yaml"), template, split)

  return of


def refused(make, message: str, *args, **kwargs):
  with pytest.raises(ConfigError, match=message) as error:
    make(*args, **kwargs)
  assert "\n" not in str(error.value)


# --- definitions ------------------------------------------------------------------------------------


def without(d: dict, field: str) -> dict:
  return {name: value for name, value in d.items() if name != field}


@pytest.mark.parametrize(
  ("d", "message"),
  [
    *[
      (CHOICE | {name[:-1] + "x": 1}, rf"\.{name[:-1]}x: no such field; did you mean '{name}'")
      for name in ("query", "choices", "gold", "separator", "max_new_tokens", "balanced")
    ],
    (CHOICE | {"query": 5}, r"\.query=5: must be a string, not int"),
    (CHOICE | {"query": None}, r"\.query=None: must be a string"),
    (CHOICE | {"balanced": "no"}, r"\.balanced='no': must be true or false"),
    (CHOICE | {"choices": ["0", 1]}, r"\.choices\[1\]=1: must be a string, not int"),
    (CHOICE | {"max_new_tokens": 2.5}, r"\.max_new_tokens=2\.5: must be an integer"),
    (CHOICE | {"max_new_tokens": 0}, r"\.max_new_tokens=0: must be greater than 0"),
    (CHOICE | {"kind": "choise"}, r"\.kind='choise': must be one of choice, .*did you mean 'choice'"),
    (CHOICE | {"test": "u.jsonl"}, r"\.test='u\.jsonl': no such file; did you mean 't\.jsonl'"),
    (CHOICE | {"dev": "../t.jsonl"}, r"\.dev='\.\./t\.jsonl': no such file"),
    (without(CHOICE, "test"), r"\.test='': must be a file of rows"),
    (without(CHOICE, "gold"), r"\.gold=None: must be given for a task of kind choice"),
    (without(CHOICE, "query"), r"\.query='': must be a template of text, or else `contexts`"),
    (without(ASKED, "answer"), r"\.answer=None: must be given for a task of kind generation"),
    (without(ASKED, "answer") | {"kind": "continuation"}, r"\.answer=None: must be given"),
    (without(CODE, "program"), r"\.program=None: must be given for a task of kind code"),
    (ASKED | {"choices": ["a", "b"]}, r"\.choices=.*: must be of kind choice only"),
    (ASKED | {"gold": "label"}, r"\.gold='label': must be of kind choice only"),
    (ASKED | {"program": "{{a}}"}, r"\.program=.*: must be of kind code only"),
    (CHOICE | {"references": "a"}, r"\.references='a': must be of kind generation or code only"),
    (CHOICE | {"answer": "{{a}}"}, r"\.answer=.*: must be left out"),
    (without(ASKED, "query") | {"contexts": "of"}, r"\.contexts='of': must be of kind choice only"),
    (without(CONTEXTS, "answer"), r"\.answer=None: must be given: contexts go on with it"),
    (CONTEXTS | {"query": "{{q}}"}, r"\.query='{{q}}': must be a template of text, or else"),
    (CONTEXTS | {"choices": "of"}, r"\.choices='of': must be left out"),
    (ASKED | {"stop": ["\n", ""]}, r"\.stop=.*: must be texts that are not empty"),
    (ASKED | {"metrics": ["f1", "exact_mach"]},
     r"\.metrics: 'exact_mach' is none; did you mean 'exact_match'"),
    (ASKED | {"metrics": ["zzz"]}, r"\.metrics: 'zzz' is none; allowed: exact_match, "),
    (CHOICE | {"metrics": ["f1"]}, r"\.metrics=\('f1',\): must be of kind generation only"),
    (CODE | {"metrics": ["f1"]}, r"\.metrics=\('f1',\): must be of kind generation only"),
    (CHOICE | {"templates": {"default": {}}}, r"\.templates\.default: is the name of the task's own fields"),
    (CHOICE | {"templates": {"a": None}}, r"\.templates\.a=None: must be a group of fields"),
    (CHOICE | {"templates": ["a"]}, r"\.templates=\['a'\]: must be a group of templates"),
    (CHOICE | {"templates": {"a": {"qury": ""}}},
     r"\.templates\.a\.qury: no such field; did you mean 'query'"),
    (CHOICE | {"templates": {"a": {"gold": "x"}}}, r"\.templates\.a\.gold: no such field"),
    (CHOICE | {"templates": {"a": {"query": ""}}}, r"\.templates\.a\.query='': must be a template"),
    (CHOICE | {"templates": {"a": {"choices": [True]}}},
     r"\.templates\.a\.choices\[0\]=True: must be a string"),
    (CHOICE | {"query": "{{q"}, r"query='{{q': is no template"),
    (CHOICE | {"query": "{{q|uper}}"}, r"is no template \(No filter named 'uper'"),
    (CHOICE | {"gold": "label +"}, r"gold='label \+': is no expression"),
    (CHOICE | {"gold": ""}, r"gold='': is no expression"),
    (CODE | {"program": "{% if %}"}, r"program='{% if %}': is no template"),
    ([1], r"must be a group of fields"),
    (None, r"must be a group of fields"),
  ],
)  # fmt: skip
def test_a_wrong_definition_is_one_line(d, message, make):
  refused(make, message, d)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("kind: choice\nquery: 'a\n", r"task\.yaml line \d: is not YAML"),
    ("kind: choice\n  query: b\n", r"task\.yaml line 2: is not YAML"),
    ("query: a\n\tb: c", r"task\.yaml line 2: is not YAML"),
    ("query: a\nkind: choice\nquery: b\n", r"task\.yaml line 3: is not YAML .*'query' is given twice"),
    ("kind: \x01", r"task\.yaml: is not YAML"),
    ("", "must be a group of fields"),
    ("just words", "must be a group of fields"),
  ],
)
def test_yaml_that_is_none_is_one_line_with_its_place(text, message, tmp_path):
  (tmp_path / "task.yaml").write_text(text)
  refused(prompt_tasks.make, message, str(tmp_path / "task.yaml"))


def test_yaml_runs_nothing(tmp_path):
  ran = tmp_path / "ran"
  for tag in ("object/apply:pathlib.Path.touch", "object/new:pathlib.Path", "name:os.system"):
    (tmp_path / "task.yaml").write_text(f"kind: choice\ntest: !!python/{tag} [{ran}]\n")
    refused(
      prompt_tasks.make,
      "line 2: is not YAML .*could not determine a constructor",
      str(tmp_path / "task.yaml"),
    )
  assert not ran.exists()


def test_yes_and_no_are_words_and_true_is_none(tmp_path):
  (tmp_path / "t.jsonl").write_text('{"q": "1", "label": "no"}\n')
  text = "test: t.jsonl\nquery: '{{q}} ='\nchoices: [yes, no, on, truely]\ngold: label\nbalanced: false\n"
  (tmp_path / "task.yaml").write_text(text)
  task = prompt_tasks.make(str(tmp_path / "task.yaml"))
  assert (task.items[0].choices, task.items[0].gold) == ((" yes", " no", " on", " truely"), 1)
  assert task.balanced is False
  assert task.name == "task"


def test_files_are_relative_to_the_definition_or_absolute_or_at_home(tmp_path, monkeypatch):
  (tmp_path / "t.jsonl").write_text('{"q": "1", "label": 0}\n')
  (tmp_path / "below").mkdir()
  monkeypatch.setenv("HOME", str(tmp_path))
  for file in ("../t.jsonl", str(tmp_path / "t.jsonl"), "~/t.jsonl"):
    (tmp_path / "below" / "task.yaml").write_text(json.dumps(CHOICE | {"test": file}))
    assert len(prompt_tasks.make(str(tmp_path / "below" / "task.yaml")).items) == 1
  assert len(prompt_tasks.make("~/below/task.yaml").items) == 1


def test_a_definition_that_is_not_there_and_no_dev_are_one_line(make, tmp_path):
  refused(prompt_tasks.make, r"none\.yaml': no such file", str(tmp_path / "none.yaml"))
  refused(make, r"has no dev rows; give the definition `dev: FILE`", CHOICE, split="dev")
  refused(make, r"template 'shrot': no such one; did you mean 'short'", CHOICE | {
    "templates": {"short": {"separator": "\n"}},
  }, template="shrot")  # fmt: skip
  with pytest.raises(ConfigError, match="'association': has one template"):
    prompt_tasks.make("association", "great")


def test_a_stop_of_one_text_is_that_text(make):
  assert make(ASKED | {"stop": "\n\n"}).stop == ("\n\n",)
  assert make(ASKED | {"stop": ", "}).stop == (", ",)
  assert make(ASKED | {"stop": []}).stop == ()
  assert make(ASKED).stop == ("\n",)


def test_templates_inherit_the_fields_of_the_task_and_override_them(make):
  d = CHOICE | {
    "description": "Decide.", "separator": " ## ",
    "templates": {"other": {"query": "{{q}}?", "choices": ["F", "T"]}, "bare": {"description": ""}},
  }  # fmt: skip
  rows = [{"q": "1", "label": 0}, {"q": "2", "label": 1}]
  prompts = {
    name: (task.template, task.prompt(task.items[0], 1, 0), task.items[0].choices)
    for name in ("default", "other", "bare")
    for task in [make(d | {"balanced": False}, rows, name)]
  }
  assert prompts == {
    "default": ("default", "Decide. ## 2 = yes ## 1 =", (" no", " yes")),
    "other": ("other", "Decide. ## 2? T ## 1?", (" F", " T")),
    "bare": ("bare", "2 = yes ## 1 =", (" no", " yes")),
  }
  assert make(CHOICE, rows).template is None


def test_names_of_metrics_are_those_there_are():
  assert set(definition.METRICS) == set(answer_metrics.METRICS)


# --- rows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("d", "rows", "message"),
  [
    (CHOICE, [{"q": "1", "label": 0}, {"qq": "1", "label": 0}],
     r"t\.jsonl line 2: task 'task'\.query=.*'q' is undefined; did you mean 'qq'"),
    (CHOICE | {"query": "{{q.x}} ="}, [{"q": {"y": 1}, "label": 0}], "line 1: .*no attribute 'x'$"),
    (CHOICE, [{"q": None, "label": 0}], "line 1: .*a value is None, must be a text or a number"),
    (CHOICE, [{"q": ["a"], "label": 0}], r"line 1: .*a value is \['a'\], must be a text or a number"),
    (CHOICE | {"query": "{{range}}"}, [{"label": 0}], "line 1: .*must be a text or a number"),
    (CHOICE | {"query": "{{q}}"}, [{"q": " \n", "label": 0}], r"line 1: query is ' \\n', must be a text"),
    (CHOICE | {"query": "{{q}}"}, [{"q": "a ", "label": 0}], "line 1: query ends with a space"),
    (CHOICE, [{"q": "1", "label": True}], "line 1: gold is True, must be an index or one"),
    (CHOICE, [{"q": "1", "label": 1.0}], "line 1: gold is 1.0, must be an index or one"),
    (CHOICE, [{"q": "1", "label": None}], "line 1: gold is None, must be an index or one"),
    (CHOICE, [{"q": "1", "label": 2}], "line 1: gold is 2, must be from 0 to 1"),
    (CHOICE, [{"q": "1", "label": -1}], "line 1: gold is -1, must be from 0 to 1"),
    (CHOICE, [{"q": "1", "label": "7"}], "line 1: gold is 7, must be from 0 to 1"),
    (CHOICE, [{"q": "1", "label": "yess"}],
     "line 1: gold is 'yess', must be one of no, yes; did you mean 'yes'"),
    (CHOICE, [{"q": "1"}], "line 1: .*gold='label': 'label' is undefined; allowed: q"),
    (CHOICE | {"choices": "of"}, [{"q": "1", "label": 0, "of": []}],
     r"line 1: choices is \[\], must be a list"),
    (CHOICE | {"choices": "of"}, [{"q": "1", "label": 0, "of": "ab"}],
     "line 1: choices is 'ab', must be a list"),
    (CHOICE | {"choices": "of"}, [{"q": "1", "label": 0, "of": ["a", None]}],
     "line 1: choices is .*must be a list"),
    (CHOICE | {"choices": "[q, w]"}, [{"q": "1", "label": 0}], "line 1: .*'w' is undefined"),
    (CHOICE | {"choices": "of"}, [{"q": "1", "label": 0, "of": ["a", " "]}],
     "line 1: an answer or choice is ' '"),
    (CHOICE | {"choices": "of"}, [{"q": "1", "label": 0, "of": ["a", " b"]}],
     "line 1: ' b' begins with white space"),
    (CHOICE | {"choices": "of"}, [{"q": "1", "label": 1, "of": ["a", "b", "b"]}],
     "line 1: the right choice, 'b', is there twice"),
    (CHOICE | {"choices": "of"}, [{"q": "1", "label": "a", "of": ["a", "b", "a"]}], "'a', is there twice"),
    (CHOICE | {"id": "q"}, [{"q": "1", "label": 0}, {"q": "1", "label": 1}],
     r"line 2: has the id \(q\) of .*t\.jsonl line 1, and is another"),
    (CHOICE | {"id": "q2"}, [{"q": "1", "q2": None, "label": 0}],
     "line 1: id is None, must be a text or a number"),
    (CONTEXTS, [{"of": ["a", "a"], "a": "b", "label": 0}], "line 1: the right choice, 'a', is there twice"),
    (CONTEXTS, [{"of": ["a ", "b"], "a": "b", "label": 0}], "line 1: query ends with a space"),
    (CONTEXTS, [{"of": ["a", "b"], "a": "b", "label": 2}], "line 1: gold is 2, must be from 0 to 1"),
    (ASKED | {"kind": "continuation"}, [{"q": "1", "a": ""}], "line 1: an answer or choice is ''"),
    (ASKED | {"references": "of"}, [{"q": "1", "a": "b", "of": []}],
     r"line 1: references is \[\], must be a list"),
    (CODE, [{"q": "1", "a": "b", "test": "x"}],
     "line 1: .*program=.*'tests' is undefined; did you mean 'test'"),
    (CODE | {"id": "q"}, [{"q": "1", "a": "b", "tests": "x"}, {"q": "1", "a": "b", "tests": "y"}],
     "line 2: has the id"),
  ],
)  # fmt: skip
def test_a_wrong_row_is_one_line_with_its_place(d, rows, message, make):
  refused(make, message, d, rows)


@pytest.mark.parametrize("gold", [1, "1", "yes"])
def test_gold_is_an_index_or_a_text(gold, make):
  assert make(CHOICE, [{"q": "1", "label": gold}]).items[0].gold == 1


def test_a_text_among_the_choices_is_no_index(make):
  rows = [{"q": "1", "label": "1"}, {"q": "2", "label": 1}]
  task = make(CHOICE | {"choices": ["1", "0"]}, rows)
  assert [item.gold for item in task.items] == [0, 1]


def test_wrong_choices_may_be_equal(make):
  item = make(CHOICE | {"choices": "of"}, [{"q": "1", "label": 2, "of": ["a", "a", "b"]}]).items[0]
  assert (item.gold, item.choices) == (2, (" a", " a", " b"))


def test_labels_stand_for_themselves_also_where_they_are_numbers(make):
  train = [{"q": str(i), "label": i % 3 + 1} for i in range(6)]
  d = without(CHOICE, "choices") | {"train": "train.jsonl"}
  task = make(d, [{"q": "9", "label": 3}, {"q": "8", "label": 1}], train=train)
  assert task.items[0].choices == (" 1", " 2", " 3")
  assert [item.answered for item in task.items] == ["9 = 3", "8 = 1"]
  refused(make, "line 1: gold is '4', must be one of 1, 2, 3", d, [{"q": "9", "label": 4}], train=train)


def test_a_template_may_compute(make):
  d = CHOICE | {
    "query": "{% for x in of %}{{'ABC'[loop.index0]}}. {{x|trim}}\n{% endfor %}Answer:",
    "choices": "of|map('trim')", "gold": "'abc'.index(label)",
  }  # fmt: skip
  item = make(d, [{"of": ["x ", " y"], "label": "b"}]).items[0]
  assert item.answered == "A. x\nB. y\nAnswer: y"


def test_fields_of_any_name_are_read(make):
  rows = [{"self": "a", "label": 0, "a b": 1, "context": 2}]
  assert make(CHOICE | {"query": "{{context}}"}, rows).items[0].query == "2"


@pytest.mark.parametrize(
  "source",
  [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''.__class__ }}",
    "{{ q.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ self.__init__ }}",
    "{{ '{0.__class__}'.format(q) }}",
    "{{ (q|attr('__class__')) }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{{ lipsum() }}",
    "{{ 1 / 0 }}",
  ],
)
def test_the_sandbox_lets_nothing_out(source, make):
  refused(make, r"line 1: task 'task'\.query=", CHOICE | {"query": source + "."})
  if source.startswith("{{"):
    refused(make, r"line 1: ", CHOICE | {"gold": source.strip("{} ")})


def test_nothing_in_a_template_is_random(make):
  refused(make, "No filter named 'random'", CHOICE | {"query": "{{ [1, 2]|random }}"})


def test_rows_that_are_equal_are_asked_once(make):
  rows = [{"q": "1", "label": 0}, {"q": "2", "label": 1}, {"label": 0, "q": "1"}]
  assert [item.query for item in make(CHOICE, rows).items] == ["1 =", "2 ="]


def test_more_shots_than_examples_are_one_line(make):
  rows = [{"q": str(i), "label": int(i == 0)} for i in range(4)]
  task = make(CHOICE, rows)
  with pytest.raises(ConfigError, match=r"has 0 examples of answer 1, shots need 1; .*`balanced: false`"):
    task.demonstrations(task.items[0], 2, 0)
  unbalanced = make(CHOICE | {"balanced": False}, rows)
  assert len(unbalanced.demonstrations(unbalanced.items[0], 3, 0)) == 3
  with pytest.raises(ConfigError, match=r"has 3 examples, shots need 4$"):
    unbalanced.demonstrations(unbalanced.items[0], 4, 0)


# --- demonstrations ---------------------------------------------------------------------------------


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(
  st.lists(st.integers(0, 2), min_size=6, max_size=30).filter(lambda golds: len(set(golds)) == 3),
  st.booleans(), st.integers(0, 99), st.randoms(use_true_random=False),
)  # fmt: skip
def test_demonstrations_are_nested_balanced_and_of_any_order_of_rows(
  golds, balanced, seed, rng: random.Random
):
  pool = [Item(f"train {i}", f"q{i}:", (" a", " b", " c"), gold) for i, gold in enumerate(golds)]
  asked = Item("test", "q:", (" a", " b", " c"), 0)
  shuffled = rng.sample(pool, len(pool))
  task = FewShotTask("t", (asked,), tuple(pool), balanced=balanced)
  other = FewShotTask("t", (Item("new", "new:"), asked), tuple(shuffled), balanced=balanced)
  most = min(collections.Counter(golds).values()) * 3 if balanced else len(pool)
  drawn = task.demonstrations(asked, most, seed)
  assert drawn == other.demonstrations(asked, most, seed)
  assert len({item.id for item in drawn}) == most
  for k in range(most):
    assert task.demonstrations(asked, k, seed) == drawn[:k]
    counts = collections.Counter(item.gold for item in drawn[:k])
    assert not balanced or max(counts.values(), default=0) - min(counts[gold] for gold in range(3)) <= 1


def test_every_example_is_drawn_as_often():
  pool = tuple(Item(f"{i}", f"q{i}:", (" a", " b"), i % 2) for i in range(10))
  task = FewShotTask("t", (), pool)
  counts = collections.Counter(
    item.id for i in range(2000) for item in task.demonstrations(Item(f"test {i}", ""), 2, 0)
  )
  # 400 each; the deviation of a count is sqrt(2000 / 5 * 4 / 5) = 18.
  assert len(counts) == 10
  assert all(abs(count - 400) < 5 * 18 for count in counts.values())


# --- tasks that are known by name -------------------------------------------------------------------

# Of 50 items with 0, 1 and 4 demonstrations of seed 3: numbers that were measured stay comparable.
PROMPTS = {
  ("mr", "default"): "ffe276abd2b0d873",
  ("mr", "great"): "d4ccb0eeb485139f",
  ("mr", "question"): "0f45f3729416388b",
  ("mr", "described"): "7a1badb90aed7614",
  ("cr", "default"): "e239a47ab1a0ce29",
  ("cr", "great"): "290cfab8e76669fe",
  ("cr", "question"): "b4517a8e64f8e327",
  ("cr", "described"): "2987d355289b772b",
  ("subj", "default"): "3f3fc1a5fff94174",
  ("poem_sentiment", "default"): "bd65b70fcca69acd",
  ("association", "default"): "118fdbc66133da20",
}
NAMES = prompt_tasks.names()
SHOTS = 2


@pytest.fixture(scope="module", params=NAMES)
def templates(request, shared) -> dict[str, FewShotTask]:
  """Returns a task by its templates; tests of one task follow each other, and each is made once."""
  return {name: prompt_tasks.make(request.param, name) for name in prompt_tasks.templates(request.param)}


@pytest.mark.parametrize(("name", "template"), PROMPTS)
def test_prompts_stay_what_they_are(name, template, shared):
  task, hashes = prompt_tasks.make(name, template), hashlib.sha256()
  for item in task.sample(50):
    for k in (0, 1, 4):
      hashes.update(repr((task.prompt(item, k, 3), item.choices, item.gold)).encode())
  assert hashes.hexdigest()[:16] == PROMPTS[name, template]


def test_known_tasks_ask_what_they_should(templates):
  for task in templates.values():
    ids = [item.id for item in task.items]
    assert len(set(ids)) == len(ids) > 1
    for item in task.items:
      assert 0 <= item.gold < max(1, len(item.choices))
      if task.kind == "choice":
        assert len({(item.context(c), choice) for c, choice in enumerate(item.choices)}) > 1
      for text in item.contexts or (item.query,):
        assert text.strip()
        assert not text.endswith(" ")
      for choice in item.choices:
        assert re.fullmatch(r"( |)\S(.*\S)?", choice, re.DOTALL), choice
    for item in task.sample(20):
      _check_prompts(task, item)


def _check_prompts(task: FewShotTask, item: Item) -> None:
  shown = task.demonstrations(item, SHOTS, 0)
  assert item.id not in {other.id for other in shown}
  assert len({other.id for other in shown}) == SHOTS
  description = task.description if item.description is None else item.description
  first = [description] if description else []
  for c in range(len(item.contexts or "1")):
    query = item.context(c)
    assert task.context(item, (), c) == task.separator.join([*first, query])
    answered = [other.answered for other in shown]
    assert task.context(item, shown, c) == task.separator.join([*first, *answered, query])
  for other in shown:
    right = other.choices[other.gold] if other.choices else other.written
    assert right
    assert other.answered.endswith(right)
    if task.kind in ("generation", "code"):
      # What a demonstration shows is a right answer, where it is cut as the model's are.
      assert _cut(other.written, task.stop).strip() in {one.strip() for one in other.references}


def _cut(text: str, stop) -> str:
  return text[: min([len(text), *(text.find(one) for one in stop if one in text)])]


def test_guessing_has_the_chance_of_the_choices(templates):
  task = templates["default"]
  if task.kind != "choice":
    assert task.kind in ("continuation", "generation", "code")
    assert not any(len(item.choices) > 1 for item in task.items)
    return
  items = task.sample(40)
  results = []
  for item in items:
    found = [Likelihood(-1.0, 1, False)] * len(item.choices)
    log_p = tuple(one.log_p for one in found)
    results.append(Result(Asked(item, 0, (), ("",)), few_shot_scores.of_choice(item, found), log_p))
  scores = few_shot_scores.means(task, results, 0)
  accuracy = next(score for score in scores if score.metric == "accuracy")
  expected = np.mean([1 / len(item.choices) for item in items])
  assert accuracy.value == pytest.approx(expected)
  assert accuracy.chance == pytest.approx(expected)


def test_right_answers_score_1_and_can_be_written(templates, gpt2):
  for task in templates.values():
    if task.kind not in ("generation", "code"):
      assert task.metrics == ()
      continue
    assert all(task.stop)
    for item in task.items:
      assert bool(item.references) == item.answerable
      assert not any(stop in reference for stop in task.stop for reference in item.references), item
    sample = [item for item in task.sample(30) if item.answerable][:10]
    for metric in map(answer_metrics.METRICS.get, task.metrics):
      answers, references = [item.references[0] for item in sample], [item.references for item in sample]
      scores = metric.items(answers, references)
      # rouge2 of one word is 0, and a sum of none of its pairs.
      least = metric.value(scores[scores > 0] if metric.of_corpus is None else scores)
      assert least == pytest.approx(metric.highest)
    longest = [len(gpt2.encode(item.references[0])) for item in task.sample(300) if item.answerable]
    assert np.mean(np.array(longest) <= task.max_new_tokens) >= 0.98


@pytest.fixture(scope="module")
def gpt2(shared):
  tokenizers = pytest.importorskip("tokenizers")
  folder = shared / "tokenizers" / "gpt2-bpe"
  return tokenizers.ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # MBPP's, e.g. '\\w'
@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_programs_of_right_answers_are_python(name, shared):
  task = prompt_tasks.make(name)
  program = expressions.text(task.program, "program")
  for item in task.items:
    ast.parse(program("row", {**item.fields, "completion": item.references[0]}))


def test_mbpp_has_its_published_splits(shared):
  test, dev = prompt_tasks.make("mbpp"), prompt_tasks.make("mbpp", split="dev")
  ids = [sorted(item.fields["task_id"] for item in items) for items in (test.items, dev.items, test.pool)]
  assert ids == [list(range(11, 511)), list(range(511, 601)), list(range(1, 11))]
  query = test.items[0].query
  assert query.startswith("You are an expert Python programmer, and here is your task: ")
  assert query.endswith("\n[BEGIN]\n")
  assert test.pool[0].answered.endswith("\n[DONE]")


def test_answers_of_gsm8k_have_lines_and_end_before_the_next_question(shared):
  task = prompt_tasks.make("gsm8k")
  assert all("\n####" in item.written for item in task.pool)
  for item in task.sample(50):
    prompt = task.prompt(item, SHOTS, 0)
    assert prompt.count("Question:") == SHOTS + 1
    went_on = item.written + task.separator + task.pool[0].answered
    assert _cut(went_on, task.stop) == item.written
  direct = prompt_tasks.make("gsm8k", "direct")
  assert all(re.fullmatch(r" -?[\d,.]+", item.written) for item in direct.pool)


def test_answers_of_dialogues_are_the_assistants_and_come_after_the_user(shared):
  task = prompt_tasks.make("sgd")
  for item in task.sample(200):
    *before, last = item.query.split("\n")
    assert last == "Assistant:"
    assert [line.split(":")[0] for line in before] == [
      ("User", "Assistant")[i % 2] for i in range(len(before))
    ]
    assert before[-1].startswith("User: ")


def test_winograd_contexts_differ_in_a_word_and_go_on_alike(shared):
  task = prompt_tasks.make("winogrande")
  for item in task.sample(200):
    one, other = item.contexts
    assert one != other
    assert item.choices[0] == item.choices[1]
    shown = task.demonstrations(item, 1, 0)
    assert task.context(item, shown, 0).removesuffix(one) == task.context(item, shown, 1).removesuffix(other)


def test_descriptions_of_bbh_are_those_of_its_prompts(shared):
  for name in NAMES:
    if name.startswith("bbh_"):
      path = shared / "data" / "tasks" / "bbh" / "cot-prompts" / f"{name.removeprefix('bbh_')}.txt"
      prompt = path.read_text(encoding="utf-8").split("-----\n")[1]
      assert prompt.startswith(f"{prompt_tasks.define(name).description}\n\nQ: ")


def test_a_folder_that_is_called_as_a_known_task_is_not_it(shared, tmp_path, monkeypatch):
  (tmp_path / "lambada").mkdir()
  monkeypatch.chdir(tmp_path)
  assert len(prompt_tasks.make("lambada").items) > 5000


def test_rows_of_dialogues_without_turns_are_one_line(shared, tmp_path, monkeypatch):
  folder = tmp_path / "data" / "tasks" / "sgd"
  folder.mkdir(parents=True)
  monkeypatch.setenv("LM_JAX_SHARED", str(tmp_path))
  for split in ("train", "dev", "test"):
    (folder / f"{split}.jsonl").write_text('{"dialogue_id": "1"}\n')
  refused(prompt_tasks.make, r"test\.jsonl line 1: has no list of 'turns'", "sgd")
