"""lm-jax evaluate as a person types it."""

import json
import re

import pytest
from few_shot_readers import definition as definition

from lm_jax import cli, prompt_tasks


def lm_jax(capsys, *words: str) -> tuple[int, str, str]:
  with pytest.raises(SystemExit) as exit_:
    cli.main(["evaluate", *words])
  found = capsys.readouterr()
  return exit_.value.code, found.out, found.err


def test_the_command_as_a_person_types_it(shared, definition, tmp_path, capsys):
  model = f"--model={shared}/models/stories260K"
  tasks = f"--tasks=mr,lambada,{definition}"
  words = (model, tasks, "--shots=0,2", "--limit=5", f"--workdir={tmp_path}/w", "--quiet")
  code, out, _ = lm_jax(capsys, *words, "--json")
  rows = json.loads(out)
  assert code == 0 and {(row["task"], row["n_shots"]) for row in rows} == {
    (task, k) for task in ("mr", "lambada", "small") for k in (0, 2)
  }
  assert all(row["params_total"] == 260_032 and row["n_items"] == 5 for row in rows)
  code, out, _ = lm_jax(capsys, *words)
  assert code == 0 and "accuracy" in out and "lambada" in out
  code, out, _ = lm_jax(capsys, model, f"--tasks={definition}", "--shots=1", "--show_prompt")
  asked = prompt_tasks.make(str(definition))
  item = asked.sample(1)[0]
  assert code == 0 and asked.prompt(item, 1, 0) in out and '[" bad", " good"]' in out


BAD = {
  "no such task": (("--tasks=mrr",), r"few-shot task 'mrr': .*did you mean 'mr'"),
  "no such template": (("--tasks=mr", "--templates=grate"), r"template 'grate': .*did you mean 'great'"),
  "a word for a number": (("--tasks=mr", "--shots=one"), r"--shots=one: must be whole numbers"),
  "negative shots": (("--tasks=mr", "--shots=-1"), r"--shots=-1: must be 0 or greater"),
  "twice the same": (("--tasks=mr", "--shots=1,1"), r"--shots='1,1': must be all different"),
  "no tokens": (("--tasks=gsm8k", "--max_new_tokens=0"), r"--max_new_tokens=0: must be greater than 0"),
  "no limit": (("--tasks=mr", "--limit=0"), r"--limit=0: must be greater than 0"),
  "too many shots": (("--tasks=bigbench_novel_concepts", "--shots=40"), r"has \d+ examples"),
  "code": (("--tasks=humaneval",), r"task 'humaneval': runs code .*--allow_code_execution"),
  "many of one": (("--tasks=mr", "--samples=3"), r"--samples=3: must be 1 at --temperature=0"),
  "no such flag": (("--tasks=mr", "--shot=1"), r"--shot: no such flag .*did you mean 'shots'"),
  "no such labels": (("--tasks=mr", "--labels=wrong"), r"--labels='wrong': must be one of gold, random, fl"),
  "nothing to calibrate": (("--tasks=lambada", "--calibrate"), r"--calibrate: none of the tasks"),
  "no dev split": (("--tasks=boolq", "--split=dev"), r"has no dev rows"),
  "one word": (("--tasks=mr", "--label_words=bad"), r"--label_words='bad': must be 'task', or"),
  "the same word": (("--tasks=mr", "--label_words=no|no"), r"--label_words='no\|no': must be 'task', or"),
  "an empty word": (("--tasks=mr", "--label_words=bad|"), r"--label_words='bad\|': must be 'task', or"),
  "too few words": (
    ("--tasks=poem_sentiment", "--label_words=bad|good"),
    r"--label_words=bad\|good: has 2 words, but task 'poem_sentiment' 4 labels: negative\|no impact\|",
  ),
  "choices of rows": (("--tasks=association", "--label_words=a|b|c|d"), r"task 'association' has no labels"),
  "no choices": (("--tasks=lambada", "--label_words=no|yes"), r"task 'lambada' has no labels to rename"),
  "contexts": (("--tasks=winogrande", "--label_words=no|yes"), r"task 'winogrande' has no labels to rename"),
  "the same order": (("--tasks=mr", "--orders=1,1"), r"--orders='1,1': must be all different"),
  "a negative order": (("--tasks=mr", "--orders=-1"), r"--orders=-1: must be 0 or greater"),
  "no orders": (("--tasks=mr", "--orders="), r"--orders='': must be one or more"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(shared, capsys, case):
  words, said = BAD[case]
  code, out, err = lm_jax(capsys, f"--model={shared}/models/stories260K", *words)
  assert (code, out) == (2, "") and len(err.splitlines()) == 1
  assert re.search(said, err)
