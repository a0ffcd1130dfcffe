"""Tokenizers of exported models: AutoTokenizer opens them, with the same ids and the same beginning."""

import dataclasses
import json

import numpy as np
import pytest
from foreign import logits, ours, torch, transformers
from letters import DECODER, ENCODER, save_run

from lm_jax import interop, tokenizers
from lm_jax.interop import huggingface
from lm_jax.interop.hf_tokenizers import load as load_text
from lm_jax.pretrained import Pretrained
from lm_jax.strict import ConfigError
from lm_jax.text_config import TokenizerConfig

TEXTS = ["Hello there, 3.14 naïve words!", "  two spaces\n\n\ttab", "日本語 🙂", "x"]
TRAINED_ON = ["the quick brown fox jumps over the lazy dog, 3.14 times; naïve words and others\n" * 20]


def run_of(tmp_path, tree: dict, kind: str = "bytes") -> Pretrained:
  """Returns an untrained run's model with a tokenizer of a kind."""
  folder = tmp_path / "run"
  tokenizer = tokenizers.Bytes()
  if kind != "bytes":
    config = TokenizerConfig(kind, 600)
    tokenizer = tokenizers.train(config, TRAINED_ON)
    tree = tree | {"task": tree["task"] | {"tokenizer": {"kind": kind, "vocab_size": 600}}}
  save_run(folder, tree)
  tokenizer.save(folder / "tokenizer")
  return interop.load(folder, trained=False)


def expected(p: Pretrained, text: str) -> list[int]:
  ids = p.tokenizer.encode(text)
  return [*p.begin, *ids] if p.model.causal else [p.specials["cls"], *ids, p.specials["sep"]]


TASK = {"name": "text", "context_length": 32}
GROUPED = {"num_heads": 4, "num_kv_heads": 2, "attention_window": 7, "scan_layers": True}
DECODERS = [
  {"task": TASK, "model": {"preset": "gpt2"}},
  {"task": TASK, "model": {"preset": "llama"} | GROUPED},
]


@pytest.mark.parametrize(
  ("tree", "kind", "architecture"),
  [
    (DECODERS[0], "bytes", "GPT2LMHeadModel"),
    (DECODERS[0], "bpe", "GPT2LMHeadModel"),
    (DECODERS[1], "bpe", "MistralForCausalLM"),
    (ENCODER, "wordpiece", "BertForPreTraining"),
    (ENCODER | {"model": ENCODER["model"] | {"next_sentence_head": False}}, "bytes", "BertForMaskedLM"),
    (DECODER, "bytes", "GPT2LMHeadModel"),  # python_stdlib: no special tokens
  ],
)
def test_a_run_opens_in_transformers_with_its_tokenizer(tmp_path, tree, kind, architecture):
  p = run_of(tmp_path, tree, kind)
  huggingface.export(p, tmp_path / "out")
  assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [architecture]
  model = getattr(transformers, architecture).from_pretrained(tmp_path / "out").eval()
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  for text in TEXTS:
    ids = expected(p, text)
    assert theirs(text)["input_ids"] == ids
    assert theirs.decode(p.tokenizer.encode(text), clean_up_tokenization_spaces=False) == p.tokenizer.decode(
      p.tokenizer.encode(text)
    )
  ids = np.array([expected(p, TEXTS[0])[: p.model.context_length]], np.int32)
  assert np.abs(np.asarray(ours(p, ids)) - logits(model, ids)).max() < 1e-4
  for name, attribute in (("end", "eos_token_id"), ("cls", "cls_token_id"), ("mask", "mask_token_id")):
    assert p.specials.get(name) == getattr(theirs, attribute, None)
  again = interop.load(tmp_path / "out")
  bos = {"bos": p.begin[0]} if p.begin else {}
  assert (again.begin, again.specials) == (p.begin, p.specials | bos)
  assert [again.tokenizer.encode(text) for text in TEXTS] == [p.tokenizer.encode(text) for text in TEXTS]


def test_generation_stops_where_ours_ends(tmp_path):
  p = run_of(tmp_path, DECODERS[0], "bpe")
  huggingface.export(p, tmp_path / "out")
  model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
  assert model.generation_config.eos_token_id == p.specials["end"]
  assert model.generation_config.bos_token_id == p.begin[0]
  with torch.no_grad():
    out = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=3, do_sample=False)
  assert out.shape[1] <= 6


@pytest.mark.parametrize("how", ["template", "setting", "setting_off", "none"])
def test_what_precedes_a_text_is_what_transformers_puts_there(tmp_path, how):
  tokenizer = tokenizers.train(TokenizerConfig("bpe", 400), TRAINED_ON)
  spec = json.loads(tokenizer.to_json())
  flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
  spec["added_tokens"].append({"id": 400, "content": "<s>", **flags})
  settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|endoftext|>"}
  if how in ("template", "setting_off"):
    spec["post_processor"] = {
      "type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [400], "tokens": ["<s>"]}},
    }
  settings |= {"setting": {"add_bos_token": True}, "setting_off": {"add_bos_token": False}}.get(how, {})
  (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
  text = load_text(tmp_path, {"eos_token_id": 3}, causal=True)
  assert text.begin == ((400,) if how in ("template", "setting_off") else ())
  assert theirs(TEXTS[0])["input_ids"] == [*text.begin, *text.tokenizer.encode(TEXTS[0])]
  assert text.specials["end"] == theirs.eos_token_id


def test_chat_templates(tmp_path):
  tokenizer = tokenizers.train(TokenizerConfig("bpe", 400), TRAINED_ON)
  (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
  settings = tmp_path / "tokenizer_config.json"
  assert load_text(tmp_path, {}, causal=True).chat_template is None
  settings.write_text(json.dumps({"chat_template": "{{ one }}"}))
  assert load_text(tmp_path, {}, causal=True).chat_template == "{{ one }}"
  named = [{"name": "tool", "template": "t"}, {"name": "default", "template": "{{ two }}"}]
  settings.write_text(json.dumps({"chat_template": named}))
  assert load_text(tmp_path, {}, causal=True).chat_template == "{{ two }}"
  (tmp_path / "chat_template.jinja").write_text("{{ three }}\n")
  assert load_text(tmp_path, {}, causal=True).chat_template == "{{ three }}\n"


def test_a_chat_template_is_exported(tmp_path):
  p = dataclasses.replace(
    run_of(tmp_path, DECODERS[0]), chat_template="{% for m in messages %}{{ m.content }}|{% endfor %}"
  )
  huggingface.export(p, tmp_path / "out")
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
  assert theirs.apply_chat_template(said, tokenize=False) == "a|b|"
  assert interop.load(tmp_path / "out").chat_template == p.chat_template


def test_a_model_without_a_tokenizer_takes_ids(tmp_path):
  p = dataclasses.replace(run_of(tmp_path, DECODERS[0]), tokenizer=None)
  huggingface.export(p, tmp_path / "out")
  again = interop.load(tmp_path / "out")
  assert again.tokenizer is None
  assert again.specials == {"end": p.specials["end"], "bos": p.begin[0]}
  with pytest.raises(ConfigError, match="the model has no tokenizer"):
    again.require_tokenizer()


@pytest.mark.parametrize(
  ("model", "parts"),
  [
    ({"preset": "original"}, ["positions=sinusoidal", "scale_embeddings=True", "norm_position=post"]),
    ({"preset": "palm"}, ["norm=layernorm", "parallel_block=True"]),
    ({"preset": "llama", "attention_only": True}, ["attention_only=True (llama: False)"]),
    ({"preset": "gpt2", "parametrization": "mup", "d_model": 32}, ["parametrization=mup, whose multipliers"]),
    ({"preset": "gpt2", "attention_window": 4}, ["attention_window=4 (gpt2: None)"]),
    ({"preset": "gpt2", "head_dim": 8}, ["head_dim=8 (gpt2: 32)"]),
  ],
)  # fmt: skip
def test_what_no_family_can_express_is_refused_by_name(tmp_path, model, parts):
  tree = {"task": {"name": "text", "context_length": 32}, "model": model}
  p = interop.load(save_run(tmp_path / "run", tree), trained=False)
  with pytest.raises(ConfigError, match="no family of transformers has such a model") as error:
    huggingface.export(p, tmp_path / "out")
  for part in parts:
    assert part in str(error.value)
  assert "\n" not in str(error.value)
  assert not (tmp_path / "out").exists()
