"""Questions without an answer: how tasks hold them, and tasks of real data that do."""

import pytest
from unanswerable import ASKED, CHOICE, ROWS
from unanswerable import make as make

from lm_jax import prompt_tasks
from lm_jax.prompt_tasks import known
from lm_jax.prompt_tasks.row_files import Row
from lm_jax.strict import ConfigError

# --- items ----------------------------------------------------------------------------------------


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


# --- tasks that are known by name -----------------------------------------------------------------


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
