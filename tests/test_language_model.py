"""The Python API: what it returns is what the model computes, and bad input is one line."""

import dataclasses

import numpy as np
import pytest
import reference
import shared
import small_models
from small_models import CONTEXT, log_softmax

import lm_jax
from lm_jax import forward, quantize, weights_cost
from lm_jax.language_model import Generated, LanguageModel
from lm_jax.strict import ConfigError

GREEDY = {"temperature": 0, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def decoder() -> LanguageModel:
  return LanguageModel(small_models.of_bytes())


@pytest.fixture(scope="module")
def encoder() -> LanguageModel:
  return LanguageModel(small_models.of_pieces(preset="bert", num_heads=4))


@pytest.fixture(scope="module")
def weights(decoder):
  return reference.weights(decoder.params, decoder.config)


def test_a_model_is_opened_from_a_folder(decoder, tmp_path):
  opened = lm_jax.load(str(small_models.save(decoder.pretrained, tmp_path / "model")))
  assert isinstance(opened, LanguageModel)
  assert opened.config == decoder.config
  np.testing.assert_array_equal(opened.logits([[1, 2, 3]]), decoder.logits([[1, 2, 3]]))
  assert "causal, 1 layers, d_model=16" in repr(opened)


def test_weights_in_fewer_bits_are_nearly_the_same_model(decoder, tmp_path, monkeypatch):
  folder = small_models.save(decoder.pretrained, tmp_path / "model")
  told = []
  narrow = LanguageModel.load(folder, weights="int8", report=told.append)
  monkeypatch.setattr(weights_cost, "cost", None)  # it is measured once
  LanguageModel.load(folder, weights="int8", report=told.append)
  assert told[1] == told[0]
  assert quantize.kind(narrow.params) == "int8" and told[0].startswith("weights int8: ")
  want, got = (log_softmax(m.logits([[1, 2, 3]])) for m in (decoder, narrow))
  assert 0 < np.abs(want - got).max() < 0.1
  assert narrow.generate("A", **GREEDY) and narrow.loglikelihood("A", " b") < 0


# --- logits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (2, CONTEXT)])
def test_logits_are_those_of_the_published_equations(decoder, weights, shape):
  tokens = np.random.default_rng(0).integers(0, 257, shape)
  got = decoder.logits(tokens)
  assert got.dtype == np.float32 and got.shape == (*shape, 257)
  want = [reference.gpt2(weights, row, decoder.config.num_heads) for row in tokens]
  np.testing.assert_allclose(got, want, atol=1e-4)
  np.testing.assert_allclose(decoder.logits(tokens[0].tolist()), got[0], atol=1e-5)


def test_lengths_and_numbers_of_sequences_share_programs(decoder):
  decoder.logits(np.zeros((3, 20), int))
  before = forward._apply._cache_size()
  for shape in ((3, 17), (4, 32), (4, 25)):
    decoder.logits(np.zeros(shape, int))
  assert forward._apply._cache_size() == before


def test_more_sequences_than_fit_a_dispatch(decoder, monkeypatch):
  tokens = np.random.default_rng(1).integers(0, 257, (5, 9))
  whole = decoder.logits(tokens)
  monkeypatch.setattr(forward, "MAX_ROWS", 2)
  np.testing.assert_allclose(decoder.logits(tokens), whole, atol=1e-5)


def test_logits_of_an_encoder(encoder):
  tokens = np.random.default_rng(2).integers(0, encoder.config.vocab_size, (1, 11))
  w = reference.weights(encoder.params, encoder.config)
  want = reference.bert(w, tokens[0], encoder.config.num_heads)
  np.testing.assert_allclose(encoder.logits(tokens)[0], want, atol=1e-4)


# --- encode ---------------------------------------------------------------------------------------


def hidden_states(encoder: LanguageModel, ids: list[int]) -> np.ndarray:
  w = reference.weights(encoder.params, encoder.config)
  return reference.bert_states(w, np.array(ids), encoder.config.num_heads)


def test_hidden_states_are_of_each_texts_own_length(encoder):
  texts = ["The cat", "The cat sat on the mat and the dog sat on the cat", "Who?"]
  got = encoder.encode(texts, pooling=None)
  for text, states in zip(texts, got, strict=True):
    np.testing.assert_allclose(states, hidden_states(encoder, encoder.tokenize(text)), atol=1e-4)
  np.testing.assert_allclose(encoder.encode(texts[0], pooling=None), got[0], atol=1e-5)


def test_sentence_embeddings_are_normalized_means(encoder):
  """The modules of all-MiniLM-L6-v2: pooling of all tokens' means, then the length of one."""
  texts = ["The cat sat.", "A dog on the mat, and a cat"]
  got = encoder.encode(texts)
  means = np.stack([hidden_states(encoder, encoder.tokenize(text)).mean(0) for text in texts])
  np.testing.assert_allclose(encoder.encode(texts, normalize=False), means, atol=1e-4)
  unit = means / np.linalg.norm(means, axis=1, keepdims=True)
  np.testing.assert_allclose(got @ got.T, unit @ unit.T, atol=1e-5)
  np.testing.assert_allclose(encoder.encode(texts[1]), got[1], atol=1e-6)
  assert encoder.encode([]).shape == (0, 16)


def test_embeddings_of_minilm_are_those_of_its_publishers():
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  folder, texts = (
    shared.minilm(),
    ["The cat sits outside", "A much longer sentence, about films", "Café: 测试"],
  )
  inputs = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
  with torch.no_grad():
    states = transformers.AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state.numpy()
  mask = inputs["attention_mask"].numpy()[..., None]
  means = (states * mask).sum(1) / mask.sum(1)
  want = means / np.linalg.norm(means, axis=1, keepdims=True)
  np.testing.assert_allclose(lm_jax.load(folder).encode(texts), want, atol=1e-5)


def test_other_poolings(encoder, decoder):
  states = encoder.encode("The cat", pooling=None)
  np.testing.assert_array_equal(encoder.encode("The cat", pooling="first", normalize=False), states[0])
  states = decoder.encode("The cat", pooling=None)
  assert len(states) == len("The cat") + 1
  np.testing.assert_array_equal(decoder.encode("The cat", pooling="last", normalize=False), states[-1])


def test_what_is_too_long_to_encode_is_cut_only_where_asked(encoder):
  text = "The cat " * CONTEXT
  with pytest.raises(ConfigError, match=f"must be at most {CONTEXT}, the model's context"):
    encoder.encode(text)
  ids = encoder.tokenize(text)
  want = encoder.encode([*ids[: CONTEXT - 1], ids[-1]])
  np.testing.assert_allclose(encoder.encode(text, truncate=True), want, atol=1e-6)


def test_an_encoder_reads_brackets(encoder):
  controls = encoder.pretrained.tokenizer.controls
  ids = encoder.tokenize("The [SEP] cat")
  assert ids[0] == controls["[CLS]"] and ids[-1] == controls["[SEP]"]
  assert controls["[SEP]"] not in ids[1:-1] == encoder.tokenize("The [SEP] cat", bare=True)
  assert encoder.detokenize(ids) == "The [SEP] cat"


# --- log-likelihoods ------------------------------------------------------------------------------


def test_loglikelihood_is_that_of_the_logits(decoder):
  context, continuation = "The cat", " sat"
  ids = decoder.tokenize(context + continuation)
  log_p = log_softmax(decoder.logits(ids))
  want = sum(log_p[i - 1, ids[i]] for i in range(len(ids) - len(continuation), len(ids)))
  assert decoder.loglikelihood(context, continuation) == pytest.approx(want, abs=1e-4)
  both = decoder.loglikelihood([context, "The dog"], [continuation, " sat"])
  assert both[0] == pytest.approx(want, abs=1e-4) and len(both) == 2


def test_an_encoder_gives_the_pseudo_log_likelihood(encoder):
  ids, mask = encoder.tokenize("The cat sat"), encoder.pretrained.specials["mask"]
  first = 1 + len(encoder.tokenize("The", bare=True))
  masked = np.array([[*ids[:i], mask, *ids[i + 1 :]] for i in range(first, len(ids) - 1)])
  log_p = log_softmax(encoder.logits(masked))
  want = sum(log_p[i, first + i, ids[first + i]] for i in range(len(masked)))
  assert encoder.loglikelihood("The", " cat sat") == pytest.approx(want, abs=1e-4)


# --- generation -----------------------------------------------------------------------------------


def test_greedy_continuations_are_the_most_likely_tokens(decoder):
  (one,) = decoder.generate("The cat", ignore_end=True, **GREEDY)
  ids = decoder.tokenize("The cat")
  for token, log_p in zip(one.tokens, one.log_p, strict=True):
    want = log_softmax(decoder.logits(ids)[-1])
    assert token == want.argmax()
    assert log_p == pytest.approx(want[token], abs=1e-4)
    ids.append(token)
  assert one.finish == "length" and len(one.tokens) == 12
  assert str(one) == one.text == decoder.detokenize(one.tokens)


def test_one_prompt_or_several_texts_or_ids(decoder):
  one = decoder.generate("The cat", **GREEDY)
  several = decoder.generate(["The cat", "A"], **GREEDY)
  assert isinstance(one[0], Generated)
  assert several[0][0].tokens == one[0].tokens and len(several) == 2
  ids = decoder.tokenize("The cat")
  assert decoder.generate(ids, **GREEDY)[0].tokens == one[0].tokens
  assert decoder.generate([ids], **GREEDY)[0][0].tokens == one[0].tokens
  assert decoder.generate(np.array(ids), **GREEDY)[0].tokens == one[0].tokens
  assert decoder.generate([]) == []


def test_a_seed_gives_the_same_again(decoder):
  first, again, other = (decoder.generate("A", num_return_sequences=3, seed=seed) for seed in (1, 1, 2))
  assert first == again != other
  assert len({one.tokens for one in first}) == 3
  assert decoder.generate("A") == decoder.generate("A")


def test_an_empty_prompt_begins_a_text(decoder):
  assert decoder.generate("", **GREEDY)[0].tokens == decoder.generate([256], **GREEDY)[0].tokens
  bare = LanguageModel(dataclasses.replace(decoder.pretrained, begin=()))
  assert bare.generate("", **GREEDY) == decoder.generate("", **GREEDY)
  nothing = LanguageModel(dataclasses.replace(decoder.pretrained, begin=(), specials={}))
  with pytest.raises(ConfigError, match="prompt 0: is empty"):
    nothing.generate("")


def test_a_stop_ends_the_text_before_it(decoder):
  whole = decoder.generate("The cat", ignore_end=True, **GREEDY)[0]
  stop = whole.text[3:5]
  (one,) = decoder.generate("The cat", ignore_end=True, stop=stop, **GREEDY)
  assert (one.text, one.finish) == (whole.text[: whole.text.index(stop)], "stop")
  assert decoder.generate("The cat", ignore_end=True, stop=["zzz", stop], **GREEDY)[0] == one


@pytest.mark.parametrize("settings", [{}, {"stop": ("e", "ab")}, {"seed": 3}])
def test_streamed_pieces_are_the_text(decoder, settings):
  pieces, counts = [], []
  (one,) = decoder.generate("The", stream=pieces.append, progress=counts.append, **settings)
  assert "".join(pieces) == one.text and all(pieces)
  assert counts == [1]


def test_a_model_without_a_tokenizer_takes_ids(decoder):
  bare = LanguageModel(dataclasses.replace(decoder.pretrained, tokenizer=None))
  one = bare.generate([1, 2], **GREEDY)[0]
  assert one.tokens == decoder.generate([1, 2], **GREEDY)[0].tokens and one.text == ""
  for use in (lambda: bare.generate("text"), lambda: bare.tokenize("text"), lambda: bare.chat([])):
    with pytest.raises(ConfigError, match="the model has no tokenizer"):
      use()


# --- bad input ------------------------------------------------------------------------------------

BAD = {
  "a setting that is none": (lambda m: m.generate("A", temprature=1), "did you mean 'temperature'"),
  "a setting of another type": (lambda m: m.generate("A", max_new_tokens="9"), "must be an integer, not str"),
  "no tokens wanted": (lambda m: m.generate("A", max_new_tokens=0), "generate.max_new_tokens=0: must be"),
  "two streams": (lambda m: m.generate(["A", "B"], stream=print), "stream"),
  "too long": (lambda m: m.generate("A" * 60), "has 61 tokens, which with max_new_tokens=50 do not fit"),
  "no such token": (lambda m: m.generate([300]), "has token 300; must be below vocab_size=257"),
  "half a character": (lambda m: m.generate("\ud800"), "half a surrogate pair"),
  "fractions": (lambda m: m.logits([[0.5]]), "must be integers"),
  "unequal rows": (lambda m: m.logits([[1], [1, 2]]), "must be of one length"),
  "three axes": (lambda m: m.logits([[[1]]]), "must be integers"),
  "no ids": (lambda m: m.logits(np.zeros((1, 0), int)), "must be at least one token"),
  "nothing": (lambda m: m.logits([]), "must be integers [B, T] or [T]"),
  "beyond the vocabulary": (lambda m: m.logits([[257]]), "token=257: must be from 0 to 256"),
  "negative": (lambda m: m.logits([[-1, 5]]), "token=-1: must be from 0 to 256"),
  "beyond the context": (lambda m: m.logits([[1] * 65]), "tokens=65: must be at most 64"),
  "a decoder's first": (lambda m: m.encode("A", pooling="first"), "'mean', 'last' for a decoder"),
  "no such pooling": (lambda m: m.encode("A", pooling="max"), "pooling='max'"),
  "unequal lists": (lambda m: m.loglikelihood(["A"], ["B", "C"]), "as many as there are contexts"),
  "no continuation": (lambda m: m.loglikelihood("A", ""), "has no token of its own"),
  "no folder": (lambda m: lm_jax.load("/nowhere/model"), "model=/nowhere/model: no such file or folder"),
  "other weights": (lambda m: lm_jax.load("/nowhere/model", weights="int3"), "weights='int3': must be"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(decoder, case):
  use, said = BAD[case]
  with pytest.raises(ConfigError) as error:
    use(decoder)
  assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("use", "said"),
  [
    (lambda m: m.generate("A"), "is an encoder, which continues no text"),
    (lambda m: m.encode("A", pooling="last"), "one of None, 'mean', 'first' for an encoder"),
  ],
)
def test_what_an_encoder_cannot_do(encoder, use, said):
  with pytest.raises(ConfigError, match=said):
    use(encoder)


def test_what_a_bare_encoder_cannot_do():
  bare = LanguageModel(small_models.of_pieces(preset="bert", lm_head=False, next_sentence_head=False))
  assert bare.encode("The cat").shape == (16,)
  for use in (lambda: bare.logits([[1]]), lambda: bare.loglikelihood("A", "B")):
    with pytest.raises(ConfigError, match="a bare encoder, without an output layer; use encode"):
      use()
