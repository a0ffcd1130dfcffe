"""lm-evaluation-harness gives our model and its own `hf` model the same scores for the same weights."""

import importlib
import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import shared

from lm_jax.strict import ConfigError

for package in ("accelerate", "lm_eval", "torch", "transformers"):
  pytest.importorskip(package, reason=f"the extra lm-eval and its `hf` model need {package}")

# Those of the harness, of datasets and of torch are theirs.
pytestmark = pytest.mark.filterwarnings("default")

CORPUS = ["It was the best of times, it was the worst of times, it was the age of wisdom."] * 4
CONTEXT = 64
TEMPLATE = (
  "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
  "<s>{{ m.role }}\n{{ m.content | trim }}</s>\n{% endfor %}"
  "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def tokenizer(adds_bos: bool):
  """Returns a small byte-level BPE, with the beginning of text that Llama's puts before it or without."""
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers, processors, trainers
  from transformers import PreTrainedTokenizerFast

  inner = tokenizers.Tokenizer(models.BPE())
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  inner.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )  # fmt: skip
  inner.train_from_iterator(CORPUS, trainer)
  if adds_bos:
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
  fast = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
  fast.chat_template = TEMPLATE
  return fast


def save(kind: str, folder: Path) -> str:
  import torch
  import transformers

  torch.manual_seed(0)
  ids = {"bos_token_id": 0, "eos_token_id": 1}
  if kind == "llama":
    config = transformers.LlamaConfig(
      vocab_size=330, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
      num_key_value_heads=2, max_position_embeddings=CONTEXT, initializer_range=0.3, **ids,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
  else:
    config = transformers.GPT2Config(
      vocab_size=330, n_embd=48, n_layer=2, n_head=4, n_positions=CONTEXT, initializer_range=0.3, **ids
    )
    model = transformers.GPT2LMHeadModel(config)
  model.save_pretrained(folder)
  tokenizer(kind == "llama").save_pretrained(folder)
  return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
  """Returns a Llama, whose texts begin with a BOS."""
  return save("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def models(folder) -> tuple:
  return ours(folder), theirs(folder)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> tuple:
  folder = save("gpt2", tmp_path_factory.mktemp("gpt2"))
  return ours(folder), theirs(folder)


@pytest.fixture(params=["models", "gpt2"])
def either(request) -> tuple:
  return request.getfixturevalue(request.param)


def ours(folder: str, **args):
  return importlib.import_module("lm_jax.lm_eval_model").LmJax(pretrained=folder, **args)


def theirs(folder: str, **args):
  from lm_eval.models.huggingface import HFLM

  return HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=3, **args)


def requests(*arguments: tuple) -> list:
  return [SimpleNamespace(args=args, task_name="local") for args in arguments]


PAIRS = requests(
  ("It was the best", " of times"), ("It was the best", " of"), ("It was the best", " worst"),
  ("It was the best ", "of times"), ("It was the best  ", " of"), ("", "It was"), ("", " </s>"),
  ("<s>", "wisdom"), ("<s>It was", " the age"), ("x" * 200, " of times"), ("y", "z" * CONTEXT),
  ("Q:", "\n\nA é"), ("It was </s> the", " age"),
)  # fmt: skip
# Windows of one text differ here: `hf` takes wrong logits for those that read the same and predict less.
LETTERS = "qzjxkvwpyg" * 3 + "gypwvkxjzq" * 3 + "jkqx"
TEXTS = requests(
  ("",), ("It was",), (" ".join(CORPUS),), (LETTERS[: CONTEXT - 1],), (LETTERS[:CONTEXT],), ("<s>It",)
)


def test_continuations_score_the_same(either):
  found, wanted = (np.array(model.loglikelihood(PAIRS, disable_tqdm=True)) for model in either)
  np.testing.assert_allclose(found[:, 0], wanted[:, 0], atol=1e-3)
  assert found[:, 1].tolist() == wanted[:, 1].tolist()


def test_a_model_without_a_beginning_generates_the_same(gpt2):
  asked = requests(*((text, {"until": ["q"], "max_gen_toks": 12}) for text in ("It was", "x" * 100)))
  assert gpt2[0].generate_until(asked) == gpt2[1].generate_until(asked)


def test_greedy_continuations_are_called_that(models):
  text = "It was the"
  (continuation,) = models[1].generate_until(requests((text, {"until": [], "max_gen_toks": 4})))
  pairs = requests((text, continuation), (text, continuation[:-1] + "~"))
  found, wanted = (model.loglikelihood(pairs, disable_tqdm=True) for model in models)
  assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]


def test_whole_texts_score_the_same(either):
  found, wanted = (model.loglikelihood_rolling(TEXTS, disable_tqdm=True) for model in either)
  np.testing.assert_allclose(found, wanted, atol=1e-3)
  assert found[2] < -100


@pytest.mark.parametrize(
  "kwargs",
  [
    {"until": ["a", "the", "e"], "max_gen_toks": 20},
    {"until": "</s>", "max_gen_toks": 40, "do_sample": False},
    {"until": [], "max_gen_toks": 8, "num_beams": 2},
  ],
)  # fmt: skip
def test_generated_texts_are_the_same(models, kwargs):
  texts = ["It was", "It was the best of", "x" * 100, "é" * 7]
  if "num_beams" in kwargs:
    texts = texts[:2]
  found, wanted = (model.generate_until(requests(*((text, kwargs) for text in texts))) for model in models)
  assert found == wanted
  assert any(found)


def test_a_beginning_that_is_spelled_out_is_not_put_before_a_prompt_again(models):
  asked = requests(("<s>It was", {"until": [], "max_gen_toks": 8}))
  assert models[0].generate_until(asked) == models[1].generate_until(asked)


@pytest.mark.parametrize(
  "args", [{"max_length": 24}, {"add_bos_token": True}, {"add_bos_token": False}, {"prefix_token_id": 7}]
)
def test_arguments_mean_the_same(folder, args):
  both = ours(folder, **args), theirs(folder, **args)
  pairs = [pair for pair in PAIRS if len(pair.args[1]) < 24]
  found, wanted = ([x for x, _ in model.loglikelihood(pairs, disable_tqdm=True)] for model in both)
  np.testing.assert_allclose(found, wanted, atol=1e-3)
  found, wanted = (model.loglikelihood_rolling(TEXTS, disable_tqdm=True) for model in both)
  np.testing.assert_allclose(found, wanted, atol=1e-3)
  asked = requests(("It was the best of times, it was", {"until": [], "max_gen_toks": 8}))
  assert both[0].generate_until(asked) == both[1].generate_until(asked)


def test_conversations_are_written_the_same(models):
  chat = [{"role": "user", "content": " What times? "}, {"role": "assistant", "content": "The best "}]
  for messages, add in (
    (chat[:1], True),
    (chat, False),
    ([{"role": "system", "content": "Be"}, *chat[:1]], True),
  ):
    found, wanted = (model.apply_chat_template(messages, add_generation_prompt=add) for model in models)
    assert found == wanted
  assert models[0].tok_encode(found) == models[1].tok_encode(found)
  assert models[0].chat_template(True) == models[1].chat_template(True) == TEMPLATE
  assert models[0].tokenizer_name and "/" not in models[0].tokenizer_name


def test_contexts_that_are_cut_are_counted(models, caplog):
  pairs = requests(("x" * 200, " of times"), ("y", "z" * 63), ("x" * 30, "y"))
  with caplog.at_level(logging.WARNING):
    models[0].loglikelihood(pairs, disable_tqdm=True)
  assert "1 of 3 contexts do not fit 64 tokens" in caplog.text


def test_a_context_of_spaces_is_none(models):
  # The harness moves them to the continuation; its own model then has nothing to read.
  (found,) = models[0].loglikelihood(requests((" ", "b")), disable_tqdm=True)
  (wanted,) = models[0].loglikelihood(requests(("", " b")), disable_tqdm=True)
  assert found == pytest.approx(wanted)


@pytest.mark.parametrize(
  ("args", "match"),
  [
    ({"max_lenght": 3}, "--model_args max_lenght: no such argument; did you mean 'max_length'"),
    ({"max_length": 65}, "length=65: must be from 1 to the model's 64"),
    ({"weights": "int4"}, "weights='int4': must be one of float32, bfloat16, int8"),
    ({"dtype": "int4"}, "dtype='int4': must be auto, float32 or bfloat16"),
  ],
)
def test_arguments_that_cannot_be_are_one_line(folder, args, match):
  with pytest.raises(ConfigError, match=match):
    ours(folder, **args)


def test_words_of_generation_that_mean_nothing_here_are_refused(models):
  with pytest.raises(ConfigError, match="generation_kwargs penalty_alpha: no such word"):
    models[0].generate_until(requests(("It", {"until": [], "penalty_alpha": 0.6})))


@pytest.mark.parametrize("args", [{"dtype": "bfloat16"}, {"weights": "bfloat16"}, {"weights": "int8"}])
def test_fewer_bits_score_nearly_the_same(folder, args):
  narrow, wide = ours(folder, **args), ours(folder)
  found, wanted = (
    np.array(model.loglikelihood(PAIRS[:3], disable_tqdm=True))[:, 0] for model in (narrow, wide)
  )
  assert 0 < np.abs(found - wanted).max() < 1


# As in setup.cfg.
ENTRY_POINTS = """
[lm_eval.models]
lm_jax = lm_jax.lm_eval_model:LmJax
[torch.backends]
lm_jax = lm_jax.lm_eval_plugin:register
"""

# --- real weights ---------------------------------------------------------------------------------


def test_smollm2_scores_the_same(tmp_path):
  """Of a model that was trained; without a task that takes minutes."""
  source = shared.smollm2()
  interop = importlib.import_module("lm_jax.interop")
  interop.convert(source, tmp_path / "hf", to="huggingface", quiet=True)
  both = ours(str(source)), theirs(str(tmp_path / "hf"))
  pairs = requests(
    *(("Question: Which planet is the largest?\nAnswer:", answer) for answer in (" Jupiter", " the Earth")),
    ("", "Once upon a time"), ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "Hello! How can I"),
  )  # fmt: skip
  found, wanted = (np.array(model.loglikelihood(pairs, disable_tqdm=True)) for model in both)
  np.testing.assert_allclose(found[:, 0], wanted[:, 0], atol=1e-3)
  assert found[:, 1].tolist() == wanted[:, 1].tolist()
  chat = [{"role": "user", "content": "Hi"}]
  assert both[0].apply_chat_template(chat) == both[1].apply_chat_template(chat)


# --- whole tasks --------------------------------------------------------------------------------

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}, train: {data}}}}}
test_split: test
fewshot_split: train
{rest}
"""
TASKS = {
  "choice": """
output_type: multiple_choice
doc_to_text: "Q: {{question}} A:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
  "rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
  "generation": """
output_type: generate_until
doc_to_text: "Q: {{question}} A:"
doc_to_target: "best"
generation_kwargs: {until: ["a", " b"], max_gen_toks: 8}
metric_list: [{metric: exact_match}]
""",
}


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
  """Returns a folder of TASKS."""
  path = tmp_path_factory.mktemp("tasks")
  rng, words = np.random.default_rng(0), ["best", "worst", "times", "age of wisdom", "it was", "of"]
  with open(path / "data.jsonl", "w") as file:
    for i in range(8):
      item = {"question": " ".join(rng.choice(words, 3)), "choices": words[:4], "answer": i % 4}
      file.write(json.dumps(item) + "\n")
  for name, rest in TASKS.items():
    (path / f"{name}.yaml").write_text(TASK.format(name=name, data=path / "data.jsonl", rest=rest))
  return path


def evaluate(model, task: Path) -> dict:
  from lm_eval import simple_evaluate
  from lm_eval.tasks import TaskManager

  manager = TaskManager(include_path=str(task), include_defaults=False)
  return simple_evaluate(
    model=model, tasks=list(TASKS), num_fewshot=1, task_manager=manager, log_samples=True, bootstrap_iters=0
  )


def test_tasks_have_the_same_results_item_by_item(models, task, tmp_path, monkeypatch):
  monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
  found, wanted = (evaluate(model, task) for model in models)
  for name in TASKS:
    for metric, value in wanted["results"][name].items():
      near = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
      assert found["results"][name][metric] == near
    for own, other in zip(found["samples"][name], wanted["samples"][name], strict=True):
      assert own["arguments"] == other["arguments"]
      assert np.shape(own["resps"]) == np.shape(other["resps"])
      for a, b in zip(np.ravel(own["resps"]), np.ravel(other["resps"]), strict=True):
        assert (
          a == b
          if name == "generation" or b in (True, False)
          else float(a) == pytest.approx(float(b), abs=1e-3)
        )


def test_the_command_finds_the_model(folder, task, tmp_path):
  """As `lm_eval` does once the package is installed: by its entry point, which is declared here by hand."""
  site = tmp_path / "site" / "lm_jax_declared-0.dist-info"
  site.mkdir(parents=True)
  (site / "METADATA").write_text("Metadata-Version: 2.1\nName: lm-jax-declared\nVersion: 0\n")
  (site / "entry_points.txt").write_text(ENTRY_POINTS)
  root = Path(importlib.import_module("lm_jax").__file__).parents[1]
  env = {"PYTHONPATH": f"{root}:{site.parent}", "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
  command = [sys.executable, "-m", "lm_eval", "--model", "lm_jax", "--model_args", f"pretrained={folder}"]
  command += ["--tasks", "choice", "--include_path", str(task), "--limit", "2"]
  run = subprocess.run(
    command, env={"HOME": str(tmp_path), "PATH": "", **env}, capture_output=True, text=True, check=False
  )
  assert run.returncode == 0, run.stderr[-3000:]
  assert "|choice|" in run.stdout and "lm_jax" in run.stdout
