"""Log-likelihoods against float64 models and naive loops, whatever else is in a batch."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import special

from lm_jax import scorer, text_config, tokenizers
from lm_jax.model import Transformer
from lm_jax.scorer import CausalScorer, PseudoScorer
from lm_jax.strict import ConfigError

T = 24
BYTES = tokenizers.Bytes()
END, CLS, SEP, MASK = {"end": 256}, 256, 257, 258
ENCODER = {"cls": CLS, "sep": SEP, "mask": MASK}


def decoder(preset: str = "gpt2", **fields) -> tuple:
  model = reference.tiny(preset=preset, vocab_size=260, context_length=T, **fields)
  params = reference.random_params(model)
  return model, params, CausalScorer(model, params, BYTES, END)


def encoder(**fields) -> tuple:
  model = reference.tiny(causal=False, positions="learned", vocab_size=260, context_length=T, **fields)
  params = reference.random_params(model)
  return model, params, PseudoScorer(model, params, BYTES, ENCODER)


MODEL, PARAMS, SCORER = decoder()
MASKED, MASKED_PARAMS, PSEUDO = encoder()

REQUESTS = [
  ("one two", " three"), ("", "three"), ("x", "y"), ("a longer context", " an"), ("x" * 40, " cut"),
  ("é", "é"), ("a ", "b"), ("a  ", "b"), (" ", "b"), ("colon:", "\n\nab"), ("q", "z" * T),
]  # fmt: skip


def expected(read: list[int], targets: list[int], preset: str = "gpt2", **fields) -> tuple[float, bool]:
  """Returns (log p, is greedy) of the last tokens that follow those that are read, in float64."""
  model, params, _ = decoder(preset, **fields)
  w = reference.weights(params, model)
  logits = reference.PRESETS[preset](w, np.array(read), model.num_heads)[-len(targets) :]
  log_p = special.log_softmax(logits, -1)
  return sum(log_p[i, t] for i, t in enumerate(targets)), bool((logits.argmax(-1) == targets).all())


# --- causal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["gpt2", "llama"])
def test_a_continuation_scores_what_float64_says(preset):
  _, _, own = decoder(preset)
  for (context, continuation), found in zip(REQUESTS, own.loglikelihood(REQUESTS), strict=True):
    spaces = len(context) - len(context.rstrip())
    start, whole = (
      list(context.rstrip().encode()) or [256],
      list((context[-spaces:] if spaces else "").encode()),
    )
    targets = whole + list(continuation.encode())
    read = (start + targets[:-1])[-T:]
    log_p, is_greedy = expected(read, targets, preset)
    assert found.log_p == pytest.approx(log_p, rel=1e-4)
    assert (found.num_tokens, found.is_greedy) == (len(targets), is_greedy)
    assert found.cut == max(0, len(start) + len(targets) - 1 - T)


def test_the_most_likely_continuation_is_greedy():
  tokens = list(b"begin")
  for _ in range(3):
    logits = reference.gpt2(reference.weights(PARAMS, MODEL), np.array(tokens), MODEL.num_heads)
    tokens.append(int(logits[-1].argmax()))
  # Any ids make a text here, whatever bytes they are.
  both = scorer.CausalScorer(MODEL, PARAMS, Ids(), END)
  (found,) = both.loglikelihood([(spell(tokens[:5]), spell(tokens[5:]))])
  (other,) = both.loglikelihood([(spell(tokens[:5]), spell([*tokens[5:-1], (tokens[-1] + 1) % 260]))])
  assert (found.is_greedy, other.is_greedy) == (True, False)
  assert found.num_tokens == 3


class Ids(tokenizers.Bytes):
  """A token for every character."""

  def encode(self, text: str) -> list[int]:
    return [ord(c) - 0x4E00 for c in text]


def spell(ids: list[int]) -> str:
  return "".join(chr(0x4E00 + i) for i in ids)


@pytest.mark.parametrize("own", [SCORER, PSEUDO], ids=["causal", "masked"])
def test_scores_do_not_depend_on_the_rest_of_the_batch(own):
  requests = [request for request in REQUESTS if len(request[1]) < T - 2] * 3
  together = own.loglikelihood(requests)
  backwards = own.loglikelihood(requests[::-1])[::-1]
  alone = [own.loglikelihood([request])[0] for request in requests]
  for found in zip(together, backwards, alone, strict=True):
    assert [f.log_p for f in found] == pytest.approx([found[0].log_p] * 3, abs=2e-5)
    assert len({dataclasses.replace(f, log_p=0.0) for f in found}) == 1
  assert own.loglikelihood([]) == []


@pytest.mark.parametrize("num_tokens", [0, 1, T - 1, T, T + 1, 2 * T, 2 * T + 5])
def test_a_text_of_any_length_is_predicted_once_a_token(num_tokens):
  text = ("abcdefghij klmnop. " * 9)[:num_tokens]
  (found,) = SCORER.loglikelihood_rolling([text])
  whole = [256, *text.encode()]
  total = 0.0
  for start in range(0, num_tokens, T):
    end = min(start + T, num_tokens)
    log_p, _ = expected(whole[max(0, end - T) : end], whole[start + 1 : end + 1])
    total += log_p
  assert found.num_tokens == num_tokens
  assert found.log_p == pytest.approx(total, rel=1e-4)


def test_whole_words_are_encoded_before_they_are_split():
  tokenizer = tokenizers.train(text_config.TokenizerConfig(kind="bpe", vocab_size=300), ["the mangrove " * 9])
  requests = [("the", " mangrove"), ("the ", "mangrove"), ("the mangrove", " the")]
  pairs = scorer.encode_pairs(tokenizer, requests)
  assert pairs[0] == pairs[1]
  assert [tokenizer.decode(continuation) for _, continuation in pairs] == [" mangrove", " mangrove", " the"]
  assert len(pairs[0][1]) == 1
  with pytest.raises(ConfigError, match="'grove': has no token of its own"):
    scorer.encode_pairs(tokenizer, [("the man", "grove")])


# --- masked -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["learned", "rope"])
def test_a_pseudo_likelihood_is_what_a_loop_over_masks_gives(positions):
  model, params, own = encoder() if positions == "learned" else encoder(num_kv_heads=2)
  requests = [("one two", " three"), ("", "three"), ("x" * 40, " cut"), ("a  ", "b")]
  for (context, continuation), found in zip(requests, own.loglikelihood(requests), strict=True):
    spaces = len(context) - len(context.rstrip())
    start = list(context.rstrip().encode())
    targets = list((context[len(context) - spaces :] + continuation).encode())
    cut = max(0, len(start) + len(targets) + 2 - T)
    start = start[cut:]
    whole = [CLS, *start, *targets, SEP]
    total, is_greedy = naive(model, params, whole, range(1 + len(start), len(whole) - 1))
    assert found.log_p == pytest.approx(total, rel=1e-4)
    assert (found.num_tokens, found.is_greedy, found.cut) == (len(targets), is_greedy, cut)
  assert cut == 0 < found.num_tokens and own.loglikelihood(requests[2:3])[0].cut > 0


def naive(model, params, whole: list[int], masked) -> tuple[float, bool]:
  tokens = jnp.array([[*whole[:i], MASK, *whole[i + 1 :]] for i in masked])
  logits = np.asarray(Transformer(model).apply({"params": params}, tokens), np.float64)
  total, is_greedy = 0.0, True
  for row, i in enumerate(masked):
    total += special.log_softmax(logits[row, i])[whole[i]]
    is_greedy &= bool(logits[row, i].argmax() == whole[i])
  return total, is_greedy


@pytest.mark.parametrize("num_tokens", [0, 5, T - 2, T - 1, 2 * T])
def test_a_text_of_any_length_has_a_pseudo_likelihood(num_tokens):
  text, most = ("abcdefghij klmnop. " * 9)[:num_tokens], T - 2
  (found,) = PSEUDO.loglikelihood_rolling([text])
  total, tokens = 0.0, list(text.encode())
  for start in range(0, num_tokens, most):
    end = min(start + most, num_tokens)
    part = tokens[max(0, end - most) : end]
    whole = [CLS, *part, SEP]
    total += naive(MASKED, MASKED_PARAMS, whole, range(1 + len(part) - (end - start), 1 + len(part)))[0]
  assert found.num_tokens == num_tokens
  assert found.log_p == pytest.approx(total, rel=1e-4)


# --- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("own", "request_", "match"),
  [
    (SCORER, ("a", "b" * (T + 1)), "continuation 'b+'...: has 25 tokens, the model takes 24"),
    (PSEUDO, ("a", "b" * (T - 1)), "continuation 'b+'...: has 23 tokens, the model takes 22"),
    (SCORER, ("a", ""), "continuation '': has no token"),
    (PSEUDO, ("", ""), "continuation '': has no token"),
  ],
)
def test_what_cannot_be_scored_is_one_line(own, request_, match):
  with pytest.raises(ConfigError, match=match):
    own.loglikelihood([("fine", " too"), request_])


def test_special_tokens_are_asked_for():
  scorer = CausalScorer(MODEL, PARAMS, BYTES, {"cls": 256})
  (found,) = scorer.loglikelihood([("a", "b")])  # nothing is missing where there is a context
  assert found.log_p < 0
  for read in (lambda: scorer.loglikelihood([("", "b")]), lambda: scorer.loglikelihood_rolling(["b"])):
    with pytest.raises(ConfigError, match=r"special tokens \['cls'\]: must have end"):
      read()
  with pytest.raises(ConfigError, match="must have sep, mask"):
    PseudoScorer(MASKED, MASKED_PARAMS, BYTES, {"cls": 256})


def test_a_likelihood_is_a_probability():
  # Over all continuations of one token: they sum to 1.
  own = CausalScorer(MODEL, PARAMS, Ids(), END)
  found = own.loglikelihood([(spell([5, 6]), spell([i])) for i in range(260)])
  assert math.fsum(math.exp(f.log_p) for f in found) == pytest.approx(1, abs=1e-5)
  assert sum(f.is_greedy for f in found) == 1
  assert dataclasses.asdict(found[0]).keys() == {"log_p", "num_tokens", "is_greedy", "cut"}
