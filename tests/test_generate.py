"""Continuations: as by reading everything again for every token, and as those of transformers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lm_jax import generate, interop, model_config
from lm_jax.generation_config import GenerationConfig
from lm_jax.model import Transformer
from lm_jax.model_config import ModelConfig
from lm_jax.presets import PRESETS
from lm_jax.strict import ConfigError

VOCAB, CONTEXT = 61, 64
PROMPTS = [[5, 9, 2], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19], [40]]
STYLES = {
  "gpt2": PRESETS["gpt2"], "llama": PRESETS["llama"] | {"num_kv_heads": 2},
  "window": PRESETS["llama"] | {"attention_window": 6}, "scanned": PRESETS["gpt2"] | {"scan_layers": True},
}  # fmt: skip


def make(style: str = "llama") -> tuple[ModelConfig, dict]:
  fields = STYLES[style] | {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 48}
  c = model_config.resolve(ModelConfig(**fields), VOCAB, CONTEXT)
  init = jax.jit(Transformer(c).init)
  params = init(jax.random.key(1), jnp.zeros((1, 4), jnp.int32))["params"]
  return c, jax.tree.map(lambda x: 6 * x if x.ndim > 1 else x, params)  # far from uniform


@pytest.fixture(scope="module")
def model():
  return make()


@functools.partial(jax.jit, static_argnums=0)
def all_logits(c: ModelConfig, params: dict, tokens_BT: jax.Array) -> jax.Array:
  return Transformer(c).apply({"params": params}, tokens_BT)


def logits_of(c: ModelConfig, params: dict, tokens: list[int]) -> np.ndarray:
  whole = np.zeros((1, CONTEXT), np.int32)  # what comes after is not seen
  whole[0, : len(tokens)] = tokens
  return np.asarray(all_logits(c, params, whole)[0, len(tokens) - 1], np.float64)


def greedy(c: ModelConfig, params: dict, prompt: list[int], n: int, penalty: float = 1.0) -> list[int]:
  tokens = list(prompt)
  for _ in range(n):
    x = logits_of(c, params, tokens)
    seen = np.array(sorted(set(tokens)))
    x[seen] = np.where(x[seen] > 0, x[seen] / penalty, x[seen] * penalty)
    tokens.append(int(x.argmax()))
  return tokens[len(prompt) :]


@pytest.mark.parametrize("style", STYLES)
def test_greedy_is_that_of_reading_everything_again(style):
  c, params = make(style)
  found = generate.generate(c, params, PROMPTS, GenerationConfig(temperature=0, max_new_tokens=40))
  for prompt, (one,) in zip(PROMPTS, found, strict=True):
    assert list(one.tokens) == greedy(c, params, prompt, 40)
    assert one.finish == "length"
    log_p = [
      x[t] - np.logaddexp.reduce(x)
      for i, t in enumerate(one.tokens)
      for x in [logits_of(c, params, prompt + list(one.tokens[:i]))]
    ]
    np.testing.assert_allclose(one.log_p, log_p, atol=2e-4)


def test_repetition_penalty_counts_the_prompt(model):
  g = GenerationConfig(temperature=0, max_new_tokens=20, repetition_penalty=1.3)
  found = generate.generate(*model, PROMPTS, g)
  wanted = [greedy(*model, prompt, 20, 1.3) for prompt in PROMPTS]
  assert [list(one.tokens) for (one,) in found] == wanted
  assert wanted != [greedy(*model, prompt, 20) for prompt in PROMPTS]


def test_generation_goes_on_to_the_last_position_of_the_context(model):
  prompt = list(range(1, 24))
  g = GenerationConfig(temperature=0, max_new_tokens=CONTEXT - len(prompt))
  ((one,),) = generate.generate(*model, [prompt], g)
  assert list(one.tokens) == greedy(*model, prompt, g.max_new_tokens)


def test_the_end_of_text_ends_it_and_is_no_part_of_it(model):
  g = GenerationConfig(temperature=0, max_new_tokens=20)
  whole = [greedy(*model, prompt, 20) for prompt in PROMPTS]
  end = whole[1][4]
  for continuation, (one,) in zip(whole, generate.generate(*model, PROMPTS, g, end=end), strict=True):
    there = end in continuation
    assert list(one.tokens) == (continuation[: continuation.index(end)] if there else continuation)
    assert one.finish == ("end" if there else "length") and len(one.log_p) == len(one.tokens)
  ignoring = generate.generate(*model, PROMPTS, dataclasses.replace(g, ignore_end=True), end=end)
  assert [list(one.tokens) for (one,) in ignoring] == whole


def test_a_stop_string_ends_it_where_it_is_first_complete(model):
  def decode(tokens) -> str:
    return "".join(f"<{token}>" for token in tokens)

  whole = greedy(*model, PROMPTS[1], 40)
  stop = f"{whole[9]}><{whole[10]}"  # inside of two tokens
  length = next(n for n in range(1, 41) if stop in decode(whole[:n]))
  g = GenerationConfig(temperature=0, max_new_tokens=40, stop=("never", stop))
  ((one,),) = generate.generate(*model, [PROMPTS[1]], g, decode=decode)
  assert list(one.tokens) == whole[:length] and one.finish == "stop"


def test_a_seed_reproduces_and_returns_differ(model):
  g = GenerationConfig(max_new_tokens=12, num_return_sequences=3, seed=7)
  first, again = (generate.generate(*model, PROMPTS, g) for _ in range(2))
  assert first == again
  assert len({one.tokens for returns in first for one in returns}) == 9
  other = generate.generate(*model, PROMPTS, dataclasses.replace(g, seed=8))
  assert first != other


def test_a_sequence_does_not_depend_on_its_batch(model):
  g = GenerationConfig(max_new_tokens=12, num_return_sequences=30, seed=7, top_p=0.95)
  together = generate.generate(*model, PROMPTS, g)  # 90 of them: two batches
  fewer = generate.generate(*model, PROMPTS[:1], dataclasses.replace(g, num_return_sequences=2))
  assert [one.tokens for one in together[0][:2]] == [one.tokens for one in fewer[0]]


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.8, "top_k": 6}])
def test_frequencies_of_pairs_of_tokens_are_the_models_probabilities(model, fields):
  n = 3000
  g = GenerationConfig(max_new_tokens=2, num_return_sequences=n, seed=3, **fields)
  pairs = np.array([one.tokens for one in generate.generate(*model, [PROMPTS[0]], g)[0]])

  def p(tokens: list[int]) -> np.ndarray:
    x = logits_of(*model, tokens) / g.temperature
    x[np.argsort(-x)[g.top_k or VOCAB :]] = -np.inf
    return np.exp(x - np.logaddexp.reduce(x))

  first = p(PROMPTS[0])
  joint = first[:, None] * np.stack([p([*PROMPTS[0], t]) if first[t] else first for t in range(VOCAB)])
  counts = np.zeros((VOCAB, VOCAB))
  np.add.at(counts, tuple(pairs.T), 1)
  assert counts[joint == 0].sum() == 0
  common = joint * n >= 5
  observed = np.append(counts[common], counts[~common].sum())
  expected = np.append(joint[common], joint[~common].sum()) * n
  assert stats.chisquare(observed[expected > 0], expected[expected > 0]).pvalue > 1e-3


def test_new_lengths_and_settings_are_no_new_programs(model):
  def programs() -> int:
    return generate._prefill._cache_size() + generate._decode._cache_size()

  generate.generate(*model, [[1] * 17], GenerationConfig(max_new_tokens=20, top_k=3))
  before = programs()
  for length, g in (
    (19, GenerationConfig(max_new_tokens=25, temperature=0)),
    (32, GenerationConfig(max_new_tokens=9, top_p=0.5, repetition_penalty=1.1, seed=5)),
  ):
    generate.generate(*model, [[1] * length], g)
  assert programs() == before


def test_a_watcher_sees_tokens_come(model):
  seen: dict[tuple[int, int], list[int]] = {}
  order = []

  def watch(prompt, which, tokens, finish):
    before = seen.setdefault((prompt, which), [])
    assert list(tokens[: len(before)]) == before
    seen[prompt, which] = list(tokens)
    order.append((prompt, which, len(tokens), finish))

  g = GenerationConfig(max_new_tokens=30, num_return_sequences=2)
  found = generate.generate(*model, PROMPTS[:2], g, watch=watch)
  assert seen == {(i, r): list(found[i][r].tokens) for i in range(2) for r in range(2)}
  assert len([entry for entry in order if entry[:2] == (0, 0)]) > 2
  assert [entry[3] for entry in order if entry[:2] == (0, 0)][-1] == "length"


@pytest.mark.parametrize(("prompts", "fields", "message"), [
  ([[]], {}, "prompt 0: is empty"),
  ([[1], [61]], {}, "prompt 1: has token 61; must be below vocab_size=61"),
  ([[1] * 60], {}, "prompt 0: has 60 tokens, which with max_new_tokens=20 do not fit .* context of 64"),
  ([[1]], {"max_new_tokens": 64}, "max_new_tokens=64: must be below the model's context of 64"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(model, prompts, fields, message):
  with pytest.raises(ConfigError, match=message):
    generate.generate(*model, prompts, GenerationConfig(**{"max_new_tokens": 20} | fields))


def test_a_long_prompt_loses_its_beginning_only_when_asked(model):
  prompt = np.random.default_rng(0).integers(0, VOCAB, 90).tolist()
  g = GenerationConfig(temperature=0, max_new_tokens=20, truncate=True)
  ((one,),) = generate.generate(*model, [prompt], g)
  assert list(one.tokens) == greedy(*model, prompt[-44:], 20)


def test_an_encoder_is_refused():
  c = model_config.resolve(ModelConfig(**PRESETS["bert"]), VOCAB, CONTEXT)
  with pytest.raises(ConfigError, match="is an encoder"):
    generate.generate(c, {}, [[1]], GenerationConfig())


# --- transformers -------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def peer(request, tmp_path_factory):
  """Returns a random model of transformers, and ours of the folder that it saved."""
  torch = pytest.importorskip("torch", reason="torch is not installed")
  transformers = pytest.importorskip("transformers")
  torch.manual_seed(0)
  sizes = {"vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
  if request.param == "gpt2":
    theirs = transformers.GPT2LMHeadModel(
      transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT, initializer_range=0.4, **sizes
      )
    )
  else:
    theirs = transformers.LlamaForCausalLM(
      transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, max_position_embeddings=CONTEXT, initializer_range=0.4, **sizes,
      )
    )  # fmt: skip
  theirs.eval()
  folder = tmp_path_factory.mktemp(request.param)
  theirs.save_pretrained(folder)
  ours = interop.load(folder)
  return theirs, ours.model, ours.params


def theirs_of(peer, prompts: list[list[int]], end: int | None = None, **fields) -> list[list[int]]:
  """Returns transformers' continuations, without what follows the end of text."""
  import torch

  model, T = peer[0], max(map(len, prompts))
  tokens = torch.tensor([[0] * (T - len(p)) + p for p in prompts])
  mask = torch.tensor([[0] * (T - len(p)) + [1] * len(p) for p in prompts])
  out = model.generate(
    tokens, attention_mask=mask, do_sample=False, eos_token_id=end, pad_token_id=0, **fields
  )
  rows = out[:, T:].tolist()
  return [row[: row.index(end)] if end in row else row for row in rows]


def test_greedy_is_transformers_token_for_token(peer):
  ours = generate.generate(*peer[1:], PROMPTS, GenerationConfig(temperature=0, max_new_tokens=40))
  assert [list(one.tokens) for (one,) in ours] == theirs_of(peer, PROMPTS, max_new_tokens=40)
  g = GenerationConfig(temperature=0, max_new_tokens=30, repetition_penalty=1.4)
  ours = generate.generate(*peer[1:], PROMPTS, g)
  wanted = [theirs_of(peer, [p], max_new_tokens=30, repetition_penalty=1.4)[0] for p in PROMPTS]
  assert [list(one.tokens) for (one,) in ours] == wanted


@pytest.mark.parametrize("fields", [
  {"num_beams": 2}, {"num_beams": 4, "length_penalty": 0.0}, {"num_beams": 3, "length_penalty": 2.0},
  {"num_beams": 3, "early_stopping": True}, {"num_beams": 4, "length_penalty": -0.5},
  {"num_beams": 3, "repetition_penalty": 1.2}, {"num_beams": 5, "max_new_tokens": 1},
])  # fmt: skip
def test_beam_search_is_transformers(peer, fields):
  fields = {"max_new_tokens": 14} | fields
  K, ended = fields["num_beams"], 0
  free = theirs_of(peer, [PROMPTS[0]], num_return_sequences=K, **fields)
  for end in (None, free[0][len(free[0]) // 2], free[-1][0]):
    g = GenerationConfig(num_return_sequences=K, **fields)
    ours = generate.generate(*peer[1:], PROMPTS, g, end=end)
    for prompt, found in zip(PROMPTS, ours, strict=True):
      wanted = theirs_of(peer, [prompt], end, num_return_sequences=K, **fields)
      assert [list(one.tokens) for one in found] == wanted, (end, prompt)
      scores = [one.score for one in found]
      assert scores == sorted(scores, reverse=True)
      ended += sum(one.finish == "end" for one in found)
  assert ended
