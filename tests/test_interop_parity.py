"""Models of transformers, imported and exported: the same numbers there and here, and back bit by bit."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import shared
from foreign import (
  CASES,
  ENCODERS,
  LENGTH,
  VOCAB,
  logits,
  ours,
  run,
  save,
  tokens,
  torch,
  transformers,
)
from safetensors.numpy import load_file, save_file

from lm_jax import interop
from lm_jax.interop import huggingface
from lm_jax.strict import ConfigError


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
  """Returns (name, model of transformers, folder it was saved to, the model imported)."""
  model = CASES[request.param].build()
  folder = save(model, tmp_path_factory.mktemp("models") / request.param)
  return request.param, model, folder, interop.load(folder)


def largest(x: np.ndarray, y: np.ndarray) -> float:
  return float(np.abs(np.asarray(x) - np.asarray(y)).max())


# --- import -------------------------------------------------------------------------------------


def test_logits_are_those_of_transformers(case):
  name, model, _, p = case
  ids = tokens()
  want = logits(model, ids)
  assert np.abs(want).max() > 1
  # Of the last hidden states of an encoder more digits are asked.
  assert largest(ours(p, ids), want) < (1e-4 if p.model.lm_head else 1e-5), name


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_a_document(case, side):
  name, model, _, p = case
  ids, lengths = tokens(), (LENGTH, 20, 1)
  there = np.arange(LENGTH)[None] < np.array(lengths)[:, None]
  there = there[:, ::-1].copy() if side == "left" else there
  inputs = {"attention_mask": there}
  if name.startswith("gpt2") or name in ENCODERS:  # counts positions from the left unless it is told
    inputs["position_ids"] = np.maximum(np.cumsum(there, axis=1) - 1, 0)
  want = logits(model, ids, **inputs)
  got = ours(p, ids, documents_BT=there)
  assert largest(got[there], want[there]) < 1e-4


def test_segments_and_the_heads_of_bert(tmp_path):
  model = CASES["bert_pretraining"].build()
  p = interop.load(save(model, tmp_path / "bert"))
  ids, segments = tokens(), np.random.default_rng(1).integers(0, 3, (3, LENGTH), dtype=np.int32)
  out = run(model, ids, token_type_ids=segments)
  got, next_B2 = ours(p, ids, segments_BT=segments, with_next_sentence=True)
  assert largest(got, out.prediction_logits) < 1e-4
  # (next, not next) there, (not next, next) here.
  assert largest(next_B2[:, ::-1], out.seq_relationship_logits) < 1e-4
  assert largest(got, ours(p, ids)) > 0.1


def test_hidden_states_and_pooler_of_a_bare_encoder(tmp_path):
  model = CASES["bert"].build()
  p = interop.load(save(model, tmp_path / "bert"))
  ids = tokens()
  out = run(model, ids)
  hidden = np.asarray(ours(p, ids))
  assert largest(hidden, out.last_hidden_state) < 1e-5
  pooled = np.tanh(hidden[:, 0] @ p.params["pooler"]["kernel"] + p.params["pooler"]["bias"])
  assert largest(pooled, out.pooler_output) < 1e-5
  assert not p.model.lm_head and p.model.pooler


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert_masked"])
def test_float16_and_bfloat16_become_float32(tmp_path, name):
  for dtype in (torch.float16, torch.bfloat16):
    model = CASES[name].build().to(dtype)
    folder = save(model, tmp_path / str(dtype))
    p = interop.load(folder)
    assert {x.dtype for x in jax.tree.leaves(p.params)} == {np.dtype(np.float32)}
    widened = type(model).from_pretrained(folder, dtype=torch.float32).eval()
    assert largest(ours(p, tokens()), logits(widened, tokens())) < 1e-4


# --- other spellings of the same ----------------------------------------------------------------


def respelled(folder: Path, target: Path, rename, extra=(), config=()) -> Path:
  """Returns a folder with other names of tensors, more tensors, and other fields of config.json."""
  target.mkdir()
  tensors = {rename(name): x for name, x in load_file(folder / "model.safetensors").items()}
  save_file(tensors | dict(extra), target / "model.safetensors")
  fields = json.loads((folder / "config.json").read_text()) | dict(config)
  (target / "config.json").write_text(json.dumps({k: v for k, v in fields.items() if v != "DROP"}))
  return target


def test_prefixes_buffers_ties_and_old_names_make_no_difference(tmp_path):
  gpt2 = save(CASES["gpt2"].build(), tmp_path / "gpt2")
  extra = {
    "h.0.attn.bias": np.tril(np.ones((1, 1, LENGTH, LENGTH), np.uint8)),
    "h.0.attn.masked_bias": np.float32(-1e4).reshape(1),
    "lm_head.weight": load_file(gpt2 / "model.safetensors")["transformer.wte.weight"],
  }
  bare = respelled(gpt2, tmp_path / "bare", lambda name: name.removeprefix("transformer."), extra)
  bert = save(CASES["bert_masked"].build(), tmp_path / "bert")
  old = respelled(
    bert, tmp_path / "old",
    lambda name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"),
    {"bert.embeddings.position_ids": np.arange(LENGTH)[None]},
  )  # fmt: skip
  for one, other in ((gpt2, bare), (bert, old)):
    first, second = interop.load(one), interop.load(other)
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    assert first.model == second.model


def test_a_tied_tensor_that_differs_is_refused(tmp_path):
  gpt2 = save(CASES["gpt2"].build(), tmp_path / "gpt2")
  extra = {"lm_head.weight": np.zeros((VOCAB, 36), np.float32)}
  with pytest.raises(ConfigError, match=r"lm_head\.weight differs from transformer\.wte\.weight"):
    interop.load(respelled(gpt2, tmp_path / "other", str, extra))


def test_configs_of_older_versions_are_the_same_model(tmp_path):
  older = {
    "gpt_neox": {"rope_parameters": "DROP", "rotary_pct": 0.4, "rotary_emb_base": 10000,
                 "rope_scaling": {"type": "linear", "factor": 2.0}},
    "llama3": {"rope_parameters": "DROP", "rope_theta": 5e5, "rope_scaling": {
      "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 16}},
    "qwen2_window": {"layer_types": "DROP"},
    "llama": {"architectures": "DROP"},
  }  # fmt: skip
  for name, config in older.items():
    folder = save(CASES[name].build(), tmp_path / name)
    other = respelled(folder, tmp_path / f"{name}_older", str, config=config)
    assert interop.load(other).model == interop.load(folder).model, name


@pytest.mark.parametrize(
  ("name", "config", "message"),
  [
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True: is not"),
    ("gpt2", {"activation_function": "gelu_nwe"}, "activation_function='gelu_nwe'.*did you mean 'gelu_new'"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
    ("gpt2", {"quantization_config": {"bits": 4}}, "quantization_config="),
    ("gpt_neox", {"attention_bias": False}, "attention_bias=False"),
    ("llama", {"attention_bias": True}, "attention_bias=True, mlp_bias=False: is not supported"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu': is not supported; must be 'silu'"),
    ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_type='yarn'"),
    ("llama", {"rope_parameters": {"rope_type": "linear"}}, "lacks factor"),
    ("llama", {"rope_interleaved": True}, "rope_interleaved=True"),
    ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "allowed: .*LlamaForCausalLM"),
    ("llama", {"architectures": "DROP", "model_type": "lama"}, "did you mean 'llama'"),
    ("qwen2", {"layer_types": ["full_attention", "sliding_attention", "full_attention"],
               "use_sliding_window": True, "sliding_window": 4}, "layers that differ"),
    ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
    ("bert_masked", {"tie_word_embeddings": False}, "tie_word_embeddings=False: must be true"),
    ("bert", {"is_decoder": True}, "is_decoder=True"),
    ("bert", {"hidden_size": "DROP"}, "lacks hidden_size"),
    ("bert", {"hidden_size": "36"}, "hidden_size='36': must be an integer"),
    ("bert", {"num_hidden_layers": 10**9}, "1000000000 layers, and there are"),
    ("bert", {"hidden_size": 10**12}, "must be greater than 0 and below"),
    ("bert", {"num_attention_heads": 7}, "num_heads=7: must divide"),
  ],
)  # fmt: skip
def test_what_cannot_be_expressed_is_refused_by_name(tmp_path, name, config, message):
  folder = save(CASES[name].build(), tmp_path / "model")
  with pytest.raises(ConfigError, match=message) as error:
    interop.load(respelled(folder, tmp_path / "other", str, config=config))
  assert "\n" not in str(error.value)


def test_tensors_that_do_not_fit_are_listed_at_once(tmp_path):
  folder = save(CASES["llama"].build(), tmp_path / "model")
  other = respelled(
    folder, tmp_path / "other", lambda name: name.replace("layers.2.mlp.up_proj", "layers.2.mlp.pu_proj"),
    {"model.norm.weight": np.ones(35, np.float32)},
  )  # fmt: skip
  with pytest.raises(ConfigError) as error:
    interop.load(other)
  for part in ("layers.2.mlp.up_proj.weight is missing", "layers.2.mlp.pu_proj.weight is not the model's",
               "norm.weight is [35], not [36]"):  # fmt: skip
    assert part in str(error.value)


# --- export -------------------------------------------------------------------------------------


def test_the_way_there_and_back_is_exact(case, tmp_path):
  name, model, folder, p = case
  huggingface.export(p, tmp_path / "out")
  again = interop.load(tmp_path / "out")
  assert again.model == p.model
  jax.tree.map(np.testing.assert_array_equal, again.params, p.params)
  first, second = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "out"))
  aliases = {"cls.predictions.decoder.bias"}
  assert set(first) - aliases == set(second) - aliases
  for key in second:
    np.testing.assert_array_equal(first[key], second[key])
  opened, report = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
  assert not any(report.values()), report
  np.testing.assert_array_equal(logits(opened.eval(), tokens()), logits(model, tokens()), err_msg=name)


def test_shards(tmp_path):
  model = CASES["gpt_neox"].build()
  p = interop.load(save(model, tmp_path / "one"))
  huggingface.export(p, tmp_path / "many", shard_bytes=60_000)
  assert len(list((tmp_path / "many").glob("model-*-of-*.safetensors"))) > 2
  again = interop.load(tmp_path / "many")
  jax.tree.map(np.testing.assert_array_equal, again.params, p.params)
  opened = type(model).from_pretrained(tmp_path / "many").eval()
  np.testing.assert_array_equal(logits(opened, tokens()), logits(model, tokens()))
  model.save_pretrained(tmp_path / "theirs", max_shard_size="60KB")
  assert len(list((tmp_path / "theirs").glob("model-*-of-*.safetensors"))) > 2
  jax.tree.map(np.testing.assert_array_equal, interop.load(tmp_path / "theirs").params, p.params)


# --- real weights -------------------------------------------------------------------------------


def test_minilm():
  folder = shared.minilm()
  model = transformers.AutoModel.from_pretrained(folder).eval()
  p = interop.load(folder)
  texts = ["A man is eating food.", "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.", "x"]
  theirs = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="np")
  cls, sep = p.specials["cls"], p.specials["sep"]
  rows = [[cls, *row, sep] for row in p.tokenizer.encode_batch(texts)]
  there = theirs["attention_mask"].astype(bool)
  assert rows == [list(ids[mask]) for ids, mask in zip(theirs["input_ids"], there, strict=True)]
  ids = theirs["input_ids"].astype(np.int32)
  want = logits(model, ids, attention_mask=there)
  assert largest(np.asarray(ours(p, ids, documents_BT=there))[there], want[there]) < 1e-5
  assert p.model.pooler and p.model.num_layers == 6
