"""Few-shot tasks in conversations, of checkpoints, and beside what choices score without a question."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_models
from letters import DECODER, save_run
from small_models import CHATML, of_pieces
from test_cli import call

from lm_jax import checkpoint, config, few_shot, few_shot_runs, interop, prompt_tasks, state
from lm_jax.few_shot_settings import Settings
from lm_jax.forward import logits
from lm_jax.generation_config import GenerationConfig
from lm_jax.prompt_tasks import Conversation
from lm_jax.reader import ModelReader
from lm_jax.scorer import Likelihood
from lm_jax.strict import ConfigError

ROWS = [
  {"text": "The cat sat", "label": 0}, {"text": "The dog sat", "label": 1},
  {"text": "on the mat", "label": 0}, {"text": "Who sat?", "label": 1},
]  # fmt: skip
CHOICE = (
  'test: rows.jsonl\ndescription: The dog.\nquery: "{{text}}\\nThe"\nchoices: [mat, dog sat]\ngold: label\n'
  "balanced: false\n"
)


@pytest.fixture(scope="module")
def p():
  made = of_pieces(context_length=256)
  return dataclasses.replace(made, chat_template=CHATML, identity={"test": "chat"})


@pytest.fixture
def task(tmp_path):
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
  (tmp_path / "small.yaml").write_text(CHOICE)
  return tmp_path / "small.yaml"


def test_a_conversation_has_a_turn_for_every_part(task):
  made = prompt_tasks.make(str(task))
  item = made.items[0]
  others = made.demonstrations(item, 2, 0)
  assert made.conversation(item, others).turns == (
    ("system", "The dog."), *(turn for other in others for turn in (
      ("user", other.query), ("assistant", ("mat", "dog sat")[other.gold]))), ("user", "The cat sat\nThe"),
  )  # fmt: skip


@pytest.mark.parametrize("name", ["lambada", "winogrande", "humaneval"])
def test_what_goes_on_with_a_text_is_no_conversation(shared, name):
  made = prompt_tasks.make(name)
  with pytest.raises(ConfigError, match=f"task '{name}': its answers go on with the text"):
    made.conversation(made.items[0], [])


def test_choices_score_what_the_model_says_after_the_template_of_transformers(p, task):
  """Tokens are made by transformers, and their log p is summed in float64."""
  transformers = pytest.importorskip("transformers")
  theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=small_models.library())
  theirs.chat_template = CHATML
  made, reader = prompt_tasks.make(str(task)), ModelReader(p)
  asked = few_shot.plan(made, reader, (0, 1, 3), None, 0, chat=True)
  assert [len(one.demonstrations) for one in asked] == [0] * 4 + [1] * 4 + [3] * 4
  results = few_shot.ask(made, reader, asked)
  for result in results:
    messages = result.asked.contexts[0].messages
    read = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    for choice, found, count in zip(("mat", "dog sat"), result.log_p, result.num_tokens, strict=True):
      answer = theirs.encode(choice, add_special_tokens=False)
      scores = np.asarray(logits(p.model, p.params, np.array([[*read, *answer[:-1]]]))[0], np.float64)
      scores = scores[len(read) - 1 :]
      log_p = scores - np.log(np.exp(scores - scores.max(-1, keepdims=True)).sum(-1, keepdims=True))
      log_p -= scores.max(-1, keepdims=True)
      assert count == len(answer)
      assert found == pytest.approx(log_p[np.arange(len(answer)), answer].sum(), rel=1e-5)


def test_what_is_too_long_loses_turns(p, task):
  made = prompt_tasks.make(str(task))
  whole = few_shot.plan(made, ModelReader(p), (3,), None, 0, chat=True)
  reader = ModelReader(p)
  over = reader.excess([(one.contexts[0], " dog sat") for one in whole])
  length = p.model.context_length
  assert max(over) <= 0 and min(over) > -length
  # A context that the longest prompt is one token too long for.
  tight = dataclasses.replace(p.model, context_length=length + max(over) - 1)
  cut = few_shot.plan(made, ModelReader(dataclasses.replace(p, model=tight)), (3,), None, 0, chat=True)
  for before, after, excess in zip(whole, cut, over, strict=True):
    fewer = excess == max(over)
    assert after.demonstrations == before.demonstrations[1 if fewer else 0 :]
  assert any(len(one.demonstrations) == 2 for one in cut)


def test_answers_are_written_as_in_chat(p):
  """Reading and writing by hand: the tokens of the turn, until the template's end of an answer."""
  from lm_jax import conversation, text_generation

  g = GenerationConfig(max_new_tokens=6, temperature=0.0, stop=("\n",))
  asked = [Conversation((("user", text),)) for text in ("The cat sat?", "Who sat on the mat?")]
  found = ModelReader(p).write(asked, g)
  for context, (text,) in zip(asked, found, strict=True):
    turn = conversation.turn(p, context.messages)
    ((want,),) = text_generation.generate(p, [turn.tokens], g, end=turn.end)
    assert text == want.text


def test_a_model_without_a_template_reads_plain_turns(p, task):
  plain = dataclasses.replace(p, chat_template=None)
  reader = ModelReader(plain)
  asked = Conversation((("user", "The cat sat?"),))
  assert reader.shown(asked) == "User: The cat sat?\nAssistant:"
  (in_chat,) = reader.loglikelihood([(asked, " The dog.")])
  (as_text,) = reader.loglikelihood([(reader.shown(asked), " The dog.")])
  assert in_chat.log_p == pytest.approx(as_text.log_p, rel=1e-5)


def test_the_prompt_that_is_shown_is_the_one_that_is_read(p):
  asked = Conversation((("system", "The dog."), ("user", "The<|im_end|> cat?"), ("assistant", "sat")))
  assert ModelReader(p).shown(asked) == (
    "<|im_start|>system\nThe dog.<|im_end|>\n<|im_start|>user\nThe<|im_end|> cat?<|im_end|>\n"
    "<|im_start|>assistant\nsat<|im_end|>\n<|im_start|>assistant\n"
  )


def test_a_conversation_is_kept_apart_from_a_text(p, task, tmp_path):
  s = Settings((str(task),), shots=(1,))
  rows = {
    chat: few_shot_runs.run(
      p, dataclasses.replace(s, chat=chat), name="m", folder=tmp_path / "results", quiet=True
    )
    for chat in (False, True)
  }
  keys = {chat: {row["key"] for row in of} for chat, of in rows.items()}
  assert len(keys[False]) == len(keys[True]) == 1 and keys[False] != keys[True]
  assert [row["chat"] for row in rows[True]] == [True] * len(rows[True])
  other = dataclasses.replace(p, chat_template=CHATML + " ")
  again = few_shot_runs.run(other, dataclasses.replace(s, chat=True), name="m", quiet=True)
  assert {row["key"] for row in again} != keys[True]


# --- without the question ---------------------------------------------------------------------------


def test_mutual_information_takes_off_how_likely_a_choice_is_anyway(p, task):
  """A model that prefers "dog sat" by 3 nats whatever is asked, and knows the answer by 1."""
  made = prompt_tasks.make(str(task))
  right = {item.query: item.choices[item.gold] for item in made.items}

  class Biased:
    def excess(self, requests):
      return [0] * len(requests)

    def loglikelihood(self, requests, progress=None):
      self.contexts = {context for context, _ in requests}
      return [Likelihood(self.log_p(*request), 2, False) for request in requests]

    def log_p(self, context, choice):
      is_right = right.get("\n".join(context.split("\n")[-2:])) == choice
      return 3 * (choice == " dog sat") + is_right - 10

  reader = Biased()
  asked = few_shot.plan(made, reader, (0,), None, 0)
  scores = [result.scores for result in few_shot.ask(made, reader, asked, calibrate=True)]
  assert "Answer:" in reader.contexts
  assert [one["accuracy"] for one in scores] == [float(item.gold == 1) for item in made.sample(None)]
  assert [one["accuracy_mutual_info"] for one in scores] == [1.0] * 4
  assert not any("accuracy_calibrated" in one for one in scores)  # no content is named


# --- checkpoints ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A run of bytes, in which nothing begins a text, with checkpoints of three steps that differ."""
  tree = DECODER | {"task": {"name": "python_stdlib", "context_length": 64}}
  folder = save_run(tmp_path_factory.mktemp("few_shot") / "run", tree)
  saved = checkpoint.Checkpoints(folder / "checkpoints", 5)
  s = jax.jit(lambda: state.init_state(config.from_mapping(tree)))()
  for step in (10, 20, 40):
    params = jax.tree.map(lambda x, step=step: x * (1 + step), s.params)
    saved.save(step, s.replace(params=params, step=jnp.int32(step)), {"step": step})
  saved.close()
  return folder


def test_a_model_is_opened_at_a_step(run):
  tables = {step: interop.load(f"{run}@{step}").params["embedding"]["table"] for step in (10, 20, 40)}
  assert interop.load(run).step == 40
  np.testing.assert_allclose(tables[20], tables[10] * (21 / 11), rtol=1e-6)
  np.testing.assert_array_equal(interop.load(run).params["embedding"]["table"], tables[40])
  with pytest.raises(ConfigError, match=r"run@30: has no checkpoint of step 30; must be one of 10, 20, 40"):
    interop.load(f"{run}@30")
  with pytest.raises(ConfigError, match="@3 is of a run of lm-jax train"):
    interop.load(f"{run.parent}@3")


def test_every_checkpoint_is_evaluated_once(run, task, tmp_path, capsys):
  words = (
    "evaluate", f"--model={run}@all", f"--tasks={task}", f"--workdir={tmp_path}/results", "--json", "--quiet",
  )  # fmt: skip
  code, out, err = call(capsys, *words)
  assert (code, err) == (0, "")
  rows = json.loads(out)
  assert [(row["model"], row["step"]) for row in rows if row["metric"] == "accuracy"] == [
    (str(run), 10), (str(run), 20), (str(run), 40)
  ]  # fmt: skip
  assert len({row["value"] for row in rows if row["metric"] == "nll"}) == 3
  cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "results" / "cells").iterdir()}
  assert len(cells) == 3
  assert call(capsys, *words)[1] == out
  assert cells == {path: path.stat().st_mtime_ns for path in (tmp_path / "results" / "cells").iterdir()}
  code, out, _ = call(capsys, *words[:-2], "--quiet")
  assert re.findall(r"run@(\d+)\s+small\s(?:.*\d)?\s*accuracy ", out) == ["10", "20", "40"]


def test_what_has_no_checkpoints_is_said(task, capsys, tmp_path):
  code, _, err = call(capsys, "evaluate", f"--model={tmp_path}@all", f"--tasks={task}")
  assert code == 2 and err.count("\n") == 1 and "has no checkpoints; must be a run of lm-jax train" in err
