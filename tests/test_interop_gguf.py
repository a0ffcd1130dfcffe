"""GGUF: written by the field's own library, read by us; the reference is the model that was written."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shared
from foreign import CASES, VOCAB, Case, logits, ours, tokens, torch, transformers
from gguf_writing import EVEN, as_written, gguf, with_tokenizer, write

from lm_jax import interop
from lm_jax.interop import built_tokenizers, huggingface
from lm_jax.model import Transformer
from lm_jax.model_config import RopeScaling
from lm_jax.strict import ConfigError
from lm_jax.text_config import TokenizerConfig
from lm_jax.tokenizers import byte, train

TEXTS = [
  "Hello there, 3.14 naïve words!",
  "  two  spaces\n\n\ttab 12345",
  "日本語 🙂",
  "it's don't I'LL",
  "x",
]
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip


def frequencies(model) -> np.ndarray:
  """Returns llama.cpp's factors over the rotary frequencies of a model of transformers."""
  c, found = model.config, model.model.rotary_emb.inv_freq.double().numpy()
  plain = c.rope_parameters["rope_theta"] ** (-np.arange(0, c.head_dim, 2) / c.head_dim)
  return (plain / found).astype(np.float32)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_logits_are_those_of_the_model_that_was_written(tmp_path, name):
  model = CASES[name].build()
  p = interop.load(write(tmp_path / "model.gguf", model))
  assert (p.tokenizer, p.model.vocab_size) == (None, VOCAB)
  assert np.abs(np.asarray(ours(p, tokens())) - logits(model, tokens())).max() < 1e-4


def test_factors_over_frequencies_are_those_of_llama_3_or_refused(tmp_path):
  case = CASES["llama3"]

  def load(name: str, rope: dict):
    model = dataclasses.replace(case, fields=case.fields | {"rope_parameters": rope}).build()
    add = lambda writer: writer.add_tensor("rope_freqs.weight", frequencies(model))  # noqa: E731
    return model, interop.load(write(tmp_path / name, model, more=add))

  model, p = load("one.gguf", LLAMA3)
  assert p.model.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
  assert np.abs(np.asarray(ours(p, tokens())) - logits(model, tokens())).max() < 1e-4
  with pytest.raises(ConfigError, match="has other factors than those of Llama 3"):
    load("other.gguf", LLAMA3 | {"original_max_position_embeddings": 16})


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantized_weights(tmp_path, kind):
  model = Case("LlamaForCausalLM", "LlamaConfig", EVEN).build()
  p = interop.load(write(tmp_path / "model.gguf", model, kind))
  quantized = getattr(gguf.GGMLQuantizationType, kind)
  with torch.no_grad():
    for name, x in model.named_parameters():
      if x.ndim == 2:
        there = as_written(name, x.numpy(), model.config)
        back = gguf.dequantize(gguf.quantize(there, quantized), quantized)
        x.copy_(torch.from_numpy(as_read(name, back, model.config)))
  assert np.abs(np.asarray(ours(p, tokens(length=40))) - logits(model, tokens(length=40))).max() < 1e-4


def as_read(name: str, x: np.ndarray, config) -> np.ndarray:
  """Undoes `as_written` by its effect on the numbers of the rows."""
  rows = as_written(name, np.arange(len(x), dtype=np.float32)[:, None], config)[:, 0].astype(int)
  return x[np.argsort(rows)]


@pytest.mark.parametrize(("kind", "size", "start", "stop"), [("Q4_K", 144, 0, 4), ("Q6_K", 210, 208, 210)])
def test_k_quants(tmp_path, kind, size, start, stop):
  fields = EVEN | {"hidden_size": 256, "num_hidden_layers": 1, "tie_word_embeddings": False}
  model = Case("LlamaForCausalLM", "LlamaConfig", fields).build()
  quantized = getattr(gguf.GGMLQuantizationType, kind)
  raw = np.random.default_rng(0).integers(0, 256, (VOCAB, size), dtype=np.uint8)
  raw[:, start:stop] = np.full((VOCAB, (stop - start) // 2), 0.01, np.float16).view(np.uint8)  # scales
  model.lm_head = None  # the quantized one in its place

  def more(writer) -> None:
    writer.add_tensor("output.weight", raw, raw_dtype=quantized)

  p = interop.load(write(tmp_path / "model.gguf", model, more=more))
  want = gguf.dequantize(raw, quantized)
  np.testing.assert_array_equal(p.params["output"]["kernel"], want.T)
  assert want.std() > 0.01


# --- tokenizers ---------------------------------------------------------------------------------


# The patterns of tiktoken's gpt2, and of Llama 3's and Qwen2's tokenizers.
_SHARED = r"""|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
PATTERNS = {
  "gpt-2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
  "smollm": r"""\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
  "llama-bpe": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)""" + _SHARED % "{1,3}",
  "qwen2": r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)""" + _SHARED % "",
}


@pytest.fixture(scope="module")
def bpe() -> dict:
  texts = ["the quick brown fox jumps over the lazy dog, it's don't I'LL 12345 3.14; naïve words\n\n" * 20]
  return json.loads(train(TokenizerConfig("bpe", 500), texts).to_json())


@pytest.mark.parametrize("split", PATTERNS)
def test_byte_level_tokens_are_those_of_tiktoken(tmp_path, bpe, split):
  tiktoken = pytest.importorskip("tiktoken")
  model = Case("LlamaForCausalLM", "LlamaConfig", EVEN | {"vocab_size": 501}).build()
  path = write(tmp_path / "model.gguf", model, more=lambda writer: with_tokenizer(writer, bpe, split))
  p = interop.load(path)
  ranks = {byte.spelled(token): i for token, i in bpe["model"]["vocab"].items() if i}
  # Its ranks have to begin with the bytes, which ours do but for their order and the end of text before.
  reference = tiktoken.Encoding(
    "reference", pat_str=PATTERNS[split], mergeable_ranks=ranks, special_tokens={}
  )
  for text in TEXTS:
    assert p.tokenizer.encode(text) == reference.encode(text, disallowed_special=()), text
    assert p.tokenizer.decode(p.tokenizer.encode(text)) == text
  assert (p.begin, p.specials["end"], p.chat_template) == ((0,), 0, "{{ messages }}")
  assert p.tokenizer.encode("a<|user|>")[-1] == 500
  assert 0 not in p.tokenizer.encode("<|endoftext|>")
  huggingface.export(p, tmp_path / "out")
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  assert [theirs(text)["input_ids"] for text in TEXTS] == [[0, *p.tokenizer.encode(text)] for text in TEXTS]


def test_other_ways_to_split_are_refused(tmp_path, bpe):
  model = Case("LlamaForCausalLM", "LlamaConfig", EVEN | {"vocab_size": 501}).build()
  path = write(tmp_path / "model.gguf", model, more=lambda writer: with_tokenizer(writer, bpe, "gpt2"))
  with pytest.raises(ConfigError, match="pre-tokenizer 'gpt2': is not supported; did you mean 'gpt-2'"):
    interop.load(path)


@pytest.mark.parametrize("add_space", [True, False])
def test_scored_pieces_are_those_of_sentencepiece(add_space):
  spm = pytest.importorskip("sentencepiece")
  texts = [
    "the quick brown fox jumps over the lazy dog and it was there then",
    "another little day came",
  ] * 20
  out = io.BytesIO()
  spm.SentencePieceTrainer.train(
    sentence_iterator=iter(texts), model_writer=out, model_type="bpe", vocab_size=340, byte_fallback=True,
    normalization_rule_name="identity", add_dummy_prefix=add_space, remove_extra_whitespaces=False,
    minloglevel=2,
  )  # fmt: skip
  reference = spm.SentencePieceProcessor(model_proto=out.getvalue())
  ids = range(reference.GetPieceSize())
  whole = [i for i in ids if reference.IsByte(i) or reference.IsControl(i) or reference.IsUnknown(i)]
  pieces, scores = [reference.IdToPiece(i) for i in ids], [reference.GetScore(i) for i in ids]
  inner = built_tokenizers.scored(pieces, scores, whole, reference.unk_id(), add_space=add_space)
  rng = np.random.default_rng(0)
  letters = list("the quickbrownfxjmps ovlazydgé🙂,\n")
  drawn = ["".join(rng.choice(letters, rng.integers(1, 40))) for _ in range(200)]
  for text in [*texts[:2], *TEXTS, *drawn]:
    assert inner.encode(text).ids == reference.EncodeAsIds(text), text


# --- real weights -------------------------------------------------------------------------------


def test_smollm2():
  p = interop.load(shared.smollm2())
  golden = json.loads(shared.folder("models", "smollm2-135m-golden", "golden.json").read_text())
  run = jax.jit(lambda params, ids: Transformer(p.model).apply({"params": params}, ids))
  for case in golden["prompts"]:
    assert p.tokenizer.encode(case["prompt"]) == case["ids"]
    assert p.tokenizer.decode(case["greedy20_ids"]) == case["greedy20"]
    # Of tokens chosen greedily, each is the likeliest after those before it.
    sequence = np.array([case["ids"] + case["greedy20_ids"]], np.int32)
    found = np.asarray(run(p.params, jnp.asarray(np.pad(sequence, ((0, 0), (0, 40 - sequence.size))))))[0]
    last = len(case["ids"]) - 1
    np.testing.assert_array_equal(found[last : last + 20].argmax(-1), case["greedy20_ids"])
    top = np.argsort(-found[last])[:5]
    np.testing.assert_array_equal(top, case["top5_ids"])
    np.testing.assert_allclose(found[last][top], case["top5_logits"], atol=1e-3)
  assert "<|im_start|>" in p.chat_template
  assert p.begin == ()
