"""Groups, descriptions of an item's own, demonstrations that are written down, and chains of thought."""

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax import answer_metrics, few_shot_scores, prompt_tasks
from lm_jax.prompt_tasks import FewShotTask, Item, row_files
from lm_jax.strict import ConfigError

CHOICE = {
  "kind": "choice", "test": "t.jsonl", "query": "{{q}} =", "choices": ["no", "yes"], "gold": "label",
}  # fmt: skip
ASKED = {"kind": "generation", "test": "t.jsonl", "query": "Q: {{q}}\nA:", "answer": "{{a}}"}
ROWS = [{"q": str(i), "a": f"is {i}", "label": i % 2, "of": "xyz"[i % 3]} for i in range(12)]
SHOWN = [{"q": "one", "a": "1"}, {"q": "two", "a": "2"}, {"q": "three", "a": "3"}]


@pytest.fixture
def make(tmp_path):
  """Makes a task of a definition and of rows of its files."""

  def of(d: dict, rows=ROWS, template: str = "default", **files) -> FewShotTask:
    for name, content in {"t": rows, **files}.items():
      (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    (tmp_path / "task.yaml").write_text(json.dumps(d))  # JSON is YAML
    return prompt_tasks.make(str(tmp_path / "task.yaml"), template)

  return of


def refused(make, message: str, *args, **kwargs):
  with pytest.raises(ConfigError, match=message) as error:
    make(*args, **kwargs)
  assert "\n" not in str(error.value)


def property_test(num_examples: int):
  return settings(max_examples=num_examples, derandomize=True, deadline=None, database=None)


# --- groups -----------------------------------------------------------------------------------------


@property_test(60)
@given(
  st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 1)), min_size=1, max_size=30),
  st.booleans(), st.integers(0, 99), st.randoms(use_true_random=False),
)  # fmt: skip
def test_a_group_is_drawn_from_as_if_there_were_no_other(of, balanced, seed, rng: random.Random):
  pool = [
    Item(f"{i}", f"{i}:", (" a", " b"), gold, group=group) for i, (group, gold) in enumerate(of)
  ]  # fmt: skip
  asked = Item("asked", "q:", (" a", " b"), group=rng.choice(of)[0])
  alone = [item for item in pool if item.group == asked.group]
  task, reference = (FewShotTask("t", (asked,), tuple(p), balanced=balanced) for p in (pool, alone))
  golds = [item.gold for item in alone]
  most = min(golds.count(gold) for gold in set(golds)) * len(set(golds)) if balanced else len(alone)
  drawn = task.demonstrations(asked, most, seed)
  assert drawn == reference.demonstrations(asked, most, seed)
  assert len({item.id for item in drawn}) == most
  assert {item.group for item in drawn} == {asked.group}


def test_a_group_is_an_expression_over_rows(make):
  task = make(CHOICE | {"group": "of|upper", "balanced": False})
  for item in task.items:
    shown = task.demonstrations(item, 3, 0)
    assert item.id not in {other.id for other in shown}
    assert {other.fields["of"] for other in shown} == {item.fields["of"]}
  assert {item.group for item in task.items} == set("XYZ")
  refused(make, "line 1: group is None, must be a text or a number", CHOICE | {"group": "q2"},
          [{"q": "1", "label": 0, "q2": None}])  # fmt: skip
  refused(make, r"line 1: task 'task'\.group='off': 'off' is undefined; did you mean 'of'",
          CHOICE | {"group": "off"})  # fmt: skip


def test_a_group_of_too_few_is_named(make):
  rows = [*ROWS, {"q": "99", "a": "b", "label": 0, "of": "w"}]
  task = make(CHOICE | {"group": "of", "balanced": False}, rows, train=ROWS)
  with pytest.raises(ConfigError, match=r"'task': has 3 examples of group 'x', shots need 4$"):
    task.demonstrations(task.items[0], 4, 0)
  train = make(CHOICE | {"group": "of", "balanced": False, "train": "train.jsonl"}, rows, train=ROWS)
  with pytest.raises(ConfigError, match=r"'task': has 0 examples of group 'w', shots need 1$"):
    train.demonstrations(train.items[-1], 1, 0)
  balanced = make(CHOICE | {"group": "of"}, rows)
  message = "has 1 examples of answer 0 of group 'x', shots need 2; a definition may say `balanced: false`"
  with pytest.raises(ConfigError, match=message):
    balanced.demonstrations(balanced.items[0], 4, 0)


def test_subjects_of_mmlu_keep_to_themselves(shared):
  del shared
  task = prompt_tasks.make("mmlu_lite")
  subjects = {item.group for item in task.items}
  assert len(subjects) == 57
  for item in task.items:
    subject = item.fields["subject"]
    drawn = task.demonstrations(item, 5, 0)
    assert [other.fields["subject"] for other in drawn] == [subject] * 5
    first = task.prompt(item, 5, 0).split("\n\n")[0]
    about = subject.replace("_", " ")
    assert first == f"The following are multiple choice questions (with answers) about {about}."
  with pytest.raises(ConfigError, match=r"has 5 examples of group '\w+', shots need 6$"):
    task.demonstrations(task.items[0], 6, 0)


# --- descriptions -----------------------------------------------------------------------------------


def test_a_description_is_of_the_row_that_is_asked(make):
  d = CHOICE | {"description": "About {{of|upper}}.", "balanced": False, "train": "train.jsonl"}
  task = make(d, train=[{"q": "a", "label": 0}, {"q": "b", "label": 1}])  # rows that have no `of`
  for item in task.items:
    assert task.prompt(item, 1, 0).startswith(f"About {item.fields['of'].upper()}.\n\n")
  assert len({item.description for item in task.items}) == 3
  plain = make(CHOICE | {"description": "About X.", "balanced": False, "train": "train.jsonl"})
  assert {item.description for item in plain.items} == {None}
  assert plain.prompt(plain.items[0], 1, 0) == task.prompt(task.items[0], 1, 0)
  empty = make(d | {"description": "{% if of == 'x' %}About X.{% endif %}"})
  assert [empty.prompt(item, 0, 0) for item in empty.items[:2]] == ["About X.\n\n0 =", "1 ="]


def test_a_description_that_cannot_be_is_one_line(make):
  refused(make, r"line 1: task 'task'\.description=.*'off' is undefined; did you mean 'of'",
          CHOICE | {"description": "{{off}}"})  # fmt: skip
  refused(make, r"description='{{of': is no template", CHOICE | {"description": "{{of"})


# --- what decides prompts, and nothing else, is in the digest ---------------------------------------

# Under which numbers of earlier versions are kept.
DIGESTS = {
  ("mr", "default"): "ed4bbfc083820697",
  ("mr", "described"): "d7985f0ea17072e4",
  ("gsm8k", "default"): "38d116736fd9052c",
  ("boolq", "default"): "3feadbe07cea310c",
  ("humaneval", "default"): "f44105f65a3a3aea",
  ("xquad_en_open", "default"): "e2efb3422d2df5c0",
  ("bbh_navigate", "default"): "7164ae1466b5960f",
  ("aqua", "default"): "3274fe71e47228fe",
}


@pytest.mark.parametrize(("name", "template"), DIGESTS)
def test_digests_stay_what_they_are(name, template, shared):
  del shared
  assert prompt_tasks.make(name, template).digest == DIGESTS[name, template]


def test_digests_differ_where_prompts_do(make):
  ds = [
    CHOICE | more
    for more in (
      {}, {"group": "of"}, {"group": "q"}, {"description": "{{of}}"}, {"description": "{{of|upper}}"},
      {"shown": [{"q": "a", "label": 0}]}, {"shown": [{"q": "b", "label": 0}]},
      {"shown": [{"q": "a", "label": 1}]},
    )
  ]  # fmt: skip
  digests = [make(d).digest for d in ds]
  assert len(set(digests)) == len(ds)
  assert digests == [make(d).digest for d in ds]
  # The same rows, drawn from, or shown in their order.
  train = [{"q": "a", "label": 0}]
  assert make(CHOICE | {"train": "train.jsonl"}, train=train).digest not in digests


# --- demonstrations that are written down -----------------------------------------------------------


@pytest.mark.parametrize("where", ["here", "file"])
def test_the_first_k_of_what_is_shown_are_shown(where, make):
  shown = SHOWN if where == "here" else "s.jsonl"
  task = make(ASKED | {"shown": shown, "description": "Count."}, s=SHOWN)
  answered = ["Q: one\nA: 1", "Q: two\nA: 2", "Q: three\nA: 3"]
  for item in task.items:
    for seed in range(3):
      for k in range(4):
        assert task.prompt(item, k, seed) == "\n\n".join(["Count.", *answered[:k], item.query])
  with pytest.raises(ConfigError, match=r"'task': has 3 `shown` demonstrations, shots need 4$"):
    task.demonstrations(task.items[0], 4, 0)
  with pytest.raises(ConfigError, match="its demonstrations are `shown`: must have `dev`"):
    prompt_tasks.hold_out(task)


def test_choices_are_shown_too_and_train_still_names_the_labels(make):
  d = {"kind": "choice", "test": "t.jsonl", "train": "train.jsonl", "query": "{{q}} =", "gold": "label"}
  train = [{"q": "a", "label": word} for word in ("no", "yes")]
  shown = [{"q": "b", "label": "yes"}, {"q": "c", "label": "yes"}]
  task = make(d | {"shown": shown}, [{"q": "1", "label": "no"}], train=train)
  assert task.prompt(task.items[0], 2, 0) == "b = yes\n\nc = yes\n\n1 ="
  maybe = d | {"shown": [{"q": "b", "label": "maybe"}]}
  refused(make, r"task 'task'\.shown\[0\]: gold is 'maybe', must be one of no, yes", maybe,
          [{"q": "1", "label": "no"}], train=train)  # fmt: skip


def test_templates_may_show_others_or_draw(make):
  d = ASKED | {
    "shown": SHOWN,
    "templates": {"last": {"shown": SHOWN[2:]}, "drawn": {"shown": None}, "same": {"separator": "\n"}},
  }
  shots = {
    name: [other.written for other in task.demonstrations(task.items[0], 1, 0)]
    for name in ("default", "last", "same")
    for task in [make(d, template=name)]
  }
  assert shots == {"default": [" 1"], "last": [" 3"], "same": [" 1"]}
  drawn = make(d, template="drawn")
  assert {other.id for other in drawn.demonstrations(drawn.items[0], 11, 0)} == {
    item.id for item in drawn.items[1:]
  }


@pytest.mark.parametrize(
  ("more", "message"),
  [
    ({"shown": [*SHOWN, {"q": "5", "a": "another answer"}]},
     r"t\.jsonl line 6: is asked, and one of the `shown` demonstrations too"),
    ({"shown": "t.jsonl"}, r"t\.jsonl line 1: is asked, and one of the `shown`"),
    ({"shown": "u.jsonl"}, r"\.shown='u\.jsonl': no such file; did you mean 't\.jsonl'"),
    ({"templates": {"a": {"shown": "u.jsonl"}}}, r"templates\.a\.shown='u\.jsonl': no such file"),
    ({"shown": []}, r"\.shown=\(\): must be a file of rows, or one row or more"),
    ({"shown": ""}, r"\.shown='': must be a file of rows"),
    ({"shown": ["a"]}, r"\.shown=\['a'\]: must be a string or a list of"),
    ({"shown": {"q": "a"}}, r"\.shown=.*: must be a string or a list of"),
    ({"shown": [{"q": "a"}]}, r"task 'task'\.shown\[0\]: task 'task'\.answer='{{a}}': 'a' is undefined"),
  ],
)  # fmt: skip
def test_what_cannot_be_shown_is_one_line(more, message, make):
  refused(make, message, ASKED | more)


def test_a_context_that_is_asked_is_not_shown(make):
  d = {"kind": "choice", "test": "t.jsonl", "contexts": "of", "answer": "{{a}}", "gold": "label"}
  rows = [{"of": ["a", "b"], "a": "c", "label": 0}]
  other = {"of": ["a", "d"], "a": "c", "label": 0}
  task = make(d | {"shown": [other]}, rows)
  assert task.context(task.items[0], task.demonstrations(task.items[0], 1, 0), 1) == "a c\n\nb"
  refused(make, "line 1: is asked, and one of", d | {"shown": [rows[0] | {"label": 1}]}, rows)


@pytest.mark.parametrize("value", ["2001-02-03", ".nan", "{1: a, b: c}"])
def test_what_yaml_has_and_json_has_not_is_not_shown(value, tmp_path):
  (tmp_path / "t.jsonl").write_text('{"q": "1", "a": "b"}\n')
  (tmp_path / "task.yaml").write_text(json.dumps(ASKED)[:-1] + f', "shown": [{{q: x, a: {value}}}]}}')
  refused(prompt_tasks.make, r"\.shown\[0\]: must be texts, numbers", str(tmp_path / "task.yaml"))


def test_paragraphs_of_a_text_are_rows(tmp_path):
  path = tmp_path / "t.txt"
  path.write_bytes("\n one\ntwo  \n\n \n\t\nthree\r\nvier\u2028ü\n".encode())
  assert row_files.read(path) == [
    (f"{path} line 2", {"text": " one\ntwo  "}),
    (f"{path} line 7", {"text": "three\nvier\u2028ü"}),
  ]
  path.write_text("\n \n")
  refused(row_files.read, r"t\.txt: has no rows", path)


# --- templates that are scored in their own way -----------------------------------------------------


def test_a_template_may_have_its_own_metrics_and_end(make):
  own = {"metrics": ["final_answer"], "stop": "\n\n", "max_new_tokens": 9}
  d = ASKED | {"metrics": ["f1"], "templates": {"own": own, "same": {"gap": "\n"}}}
  found = {
    name: (task.metrics, task.stop, task.max_new_tokens)
    for name in ("default", "own", "same")
    for task in [make(d, template=name)]
  }
  its_own = (("f1",), ("\n",), 64)
  assert found == {"default": its_own, "same": its_own, "own": (("final_answer",), ("\n\n",), 9)}
  for more, message in (
    ({"metrics": ["f"]}, r"\.templates\.a\.metrics: 'f' is none; did you mean 'f1'"),
    ({"stop": [""]}, r"\.templates\.a\.stop=.*: must be texts that are not empty"),
    ({"max_new_tokens": 0}, r"\.templates\.a\.max_new_tokens=0: must be greater than 0"),
  ):
    refused(make, message, ASKED | {"templates": {"a": more}})


def test_a_default_has_a_name_where_there_are_other_wordings_of_it(make):
  for templates, name in (
    ({}, None),
    ({"a": {"gap": "\n"}}, "default"),
    ({"a": {"metrics": ["f1"]}}, None),
    ({"a": {"shown": SHOWN}}, None),
    ({"a": {"shown": SHOWN}, "b": {"gap": ""}}, "default"),
  ):
    assert make(ASKED | {"templates": templates}).template == name


# --- final answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("text", "answer"),
  [
    ("We are there. So the answer is No.", "No"),
    ("The answer is 5, no: the answer is 6.\nThe end.", "6"),
    ("the answer is: 1.5.", "1.5"),
    ("the answer is 12.", "12"),
    ("THE ANSWER IS x ", "x"),
    ("So the answer is ] } ].", "] } ]"),
    ("the answer is (B).", "(B)"),
    ("the answer is B", "(B)"),
    ("the answer is (B) the chief.", "(B)"),
    ("the answer is (Bob).", "(Bob)"),
    ("the answer is A cat.", "A cat"),
    ("the answer is b", "b"),
    ("The answer is 5.\nAnd so the answer is", "5"),  # the model was cut off
    ("the answer is 5. And so the answer is", None),
    ("the answer is\n5", None),
    ("the answer is .", None),
    ("the answer isn't 5", None),
    ("bathe answer is 5", None),
    ("5", None),
    ("", None),
  ],
)
def test_the_last_answer_of_a_text(text, answer):
  assert answer_metrics.last_answer(text) == answer
  assert answer_metrics.final_answer(text, [answer or "5"]) == (answer is not None)


def test_final_answers_by_hand():
  said = "So the answer is (B)."
  assert answer_metrics.final_answer(said, ["(A)", "(B)"]) == 1
  assert answer_metrics.final_answer(said, ["B"]) == 1
  assert answer_metrics.final_answer(said, ["Thus the answer is (B)."]) == 1
  assert answer_metrics.final_answer(said, ["the answer is (A), not (B)"]) == 0
  assert answer_metrics.final_answer("The answer is yes.", ["Yes"]) == 0
  assert answer_metrics.final_answer("(B)", ["(B)"]) == 0  # not given as one
  for reference in ("", " . "):
    with pytest.raises(ConfigError, match="is no answer"):
      answer_metrics.final_answer(said, [reference])


@property_test(200)
@given(
  st.text(st.sampled_from("ab (A).\n"), max_size=20),
  st.text(st.sampled_from("ab1 )]-"), min_size=1, max_size=8).filter(str.strip),
)
def test_final_answer_is_the_harness_on_plain_answers(reasoning, answer):
  extraction = pytest.importorskip("lm_eval.filters.extraction")
  # Of lm_eval/tasks/bbh/cot_fewshot/_cot_fewshot_template_yaml.
  harness = extraction.RegexFilter("(?<=the answer is )(.*)(?=.)")
  text = f"{reasoning} So the answer is {answer}."
  ((extracted,),) = harness.apply([[text]], [{}])
  assert answer_metrics.last_answer(text) == extracted.strip()


def test_most_samples_decide_and_those_without_an_answer_have_no_vote():
  item = Item("1", "q", references=("(B)",), written=" (B)")
  task = FewShotTask("t", (item,), (), kind="generation", metrics=("final_answer",))
  samples = ["no idea", "none", "never", "the answer is (B).", "so the answer is B", "The answer is (A)."]
  scores = few_shot_scores.of_written(task, item, samples)
  assert scores == {"final_answer": pytest.approx(2 / 6), "final_answer_majority": 1}
  assert few_shot_scores.of_written(task, item, ["a", "b"])["final_answer_majority"] == 0


# --- chains of thought ------------------------------------------------------------------------------

BBH = [name for name in prompt_tasks.names() if name.startswith("bbh_")]


@pytest.mark.parametrize("name", BBH)
def test_chains_of_thought_are_the_published_prompts(name, shared):
  path = shared / "data" / "tasks" / "bbh" / "cot-prompts" / f"{name.removeprefix('bbh_')}.txt"
  published = path.read_text(encoding="utf-8").split("-----\n")[1]
  task, direct = (prompt_tasks.make(name, template) for template in ("chain_of_thought", "answer_only"))
  for item in task.sample(5):
    question = f"\n\nQ: {item.fields['input']}\nA: Let's think step by step."
    assert task.prompt(item, 3, 7) == published + question
    assert published.startswith(task.prompt(item, 2, 7).removesuffix(question))
    assert item.references == (f"So the answer is {item.fields['target']}.",)
  with pytest.raises(ConfigError, match="has 3 `shown` demonstrations, shots need 4"):
    task.demonstrations(task.items[0], 4, 0)
  for other, answered in zip(task.pool, direct.pool, strict=True):
    assert not any(stop in other.written for stop in task.stop)
    assert answer_metrics.final_answer(other.written, answered.references) == 1
    assert other.query == f"{answered.query} Let's think step by step."
    assert answered.written == f" {answered.fields['target']}"


@pytest.mark.parametrize("name", BBH)
def test_right_answers_of_bbh_score_1_and_others_0(name, shared):
  del shared
  task = prompt_tasks.make(name, "chain_of_thought")
  targets = sorted({item.fields["target"] for item in task.items})
  for item in task.sample(20):
    of = {t: few_shot_scores.of_written(task, item, [f"so. So the answer is {t}."]) for t in targets}
    assert of == {t: {"final_answer": float(t == item.fields["target"])} for t in targets}


def test_aqua_ends_in_its_answers(shared):
  del shared
  task = prompt_tasks.make("aqua", "chain_of_thought")
  for item in task.items:
    *reasoning, last = item.written.split("\n")
    answer = item.fields["answer"].strip().removesuffix(".")
    assert any(line.strip() for line in reasoning)
    assert last == f"The answer is {answer}."
    assert answer_metrics.final_answer(f"so the answer is {answer}.", item.references) == 1


# --- what takes long --------------------------------------------------------------------------------


@pytest.mark.parametrize(
  "source",
  [
    "'a' * 10**10", "10**10 * 'a'", "[1] * 10**9", "(1, 2) * 99999", "10 ** 10 ** 10", "2 ** 10**6",
    "(10**9) ** 2", "('a' * 1000) * 1000", "'a' ** 2", "q2 * 3",
  ],
)  # fmt: skip
def test_products_that_would_fill_the_memory_are_refused(source, make):
  refused(make, r"line 1: task 'task'\.query=", CHOICE | {"query": f"{{{{ {source} }}}}."})


def test_products_of_an_ordinary_size_are_made(make):
  task = make(CHOICE | {"query": "{{ '-' * 3 }}{{ 2 ** 10 }}{{ 3 * 1.5 }}{{ ([1] * 2)|join }} ="})
  assert task.items[0].query == "---10244.511 ="
  assert re.fullmatch(r"-{100000} =", make(CHOICE | {"query": "{{ '-' * 100000 }} ="}).items[0].query)
