"""Attention against a literal float64 reference: who sees whom, in blocks, in loops, and fused."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from lm_jax import attention, layers, model_config, scaling
from lm_jax.strict import ConfigError


def normal(*shape: int, seed: int = 0) -> np.ndarray:
  return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def qkv(B: int, T: int, N: int, K: int, H: int) -> tuple[np.ndarray, ...]:
  return normal(B, T, N, H), normal(B, T, K, H, seed=1), normal(B, T, K, H, seed=2)


def reference_attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, visible: np.ndarray) -> np.ndarray:
  q, k, v = (x.astype(np.float64) for x in (q, k, v))
  return np.stack([reference.attend(*sequence) for sequence in zip(q, k, v, visible, strict=True)])


def limits(T: int, names: str) -> dict:
  """Returns what limits attention in two sequences, of its parts named; no two documents stand alike."""
  rng = np.random.default_rng(T)
  cuts = [np.sort(rng.choice(np.arange(1, T), min(2, T - 1), replace=False)) for _ in range(2)]
  documents = np.stack([np.searchsorted(c, np.arange(T), side="right") for c in cuts]).astype(np.int32)
  values = {"window": max(1, T // 3), "documents_BS": documents, "prefix_BS": rng.random((2, T)) < 0.3}
  return {key: value for key, value in values.items() if key.split("_")[0] in names.split()}


def visible(T: int, causal: bool, limits: dict) -> np.ndarray:
  """Returns [2, T, T] by the rule of one query and one key."""
  none = [None, None]
  documents, prefix = (limits.get(name, none) for name in ("documents_BS", "prefix_BS"))
  return np.stack([
    reference.visible(T, causal=causal, window=limits.get("window"), documents=d, prefix=p)
    for d, p in zip(documents, prefix, strict=True)
  ])  # fmt: skip


# A prefix is for causal models; every other combination of limits is for both.
CASES = [
  (causal, names)
  for causal in (True, False)
  for names in (
    "",
    "window",
    "documents",
    "window documents",
    "prefix",
    "prefix documents",
    "window prefix documents",
  )
  if causal or "prefix" not in names
]
every_case = pytest.mark.parametrize(("causal", "names"), CASES)
# Where each is compiled several times: nothing, and all that there is.
some_cases = pytest.mark.parametrize(
  ("causal", "names"),
  [(True, ""), (False, ""), (True, "window documents"), (False, "window documents"),
   (True, "window prefix documents")],
)  # fmt: skip


def value_and_grads(f, cotangent, *x):
  def total(*x):
    out = f(*x)
    return (out * cotangent).sum(), out

  function = jax.jit(jax.value_and_grad(total, tuple(range(len(x))), has_aux=True))
  # Compiled in a fraction of the time, for one run.
  (_, out), grads = function.lower(*x).compile({"xla_backend_optimization_level": 0})(*x)
  return out, *grads


def plain(visible_BTS, q, k, v):
  """Autodiff's attention of equally many heads, of a mask given whole."""
  k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
  scores = jnp.einsum("BTNH,BSNH->BNTS", q, k) / math.sqrt(q.shape[-1])
  chances = jax.nn.softmax(jnp.where(visible_BTS[:, None], scores, -jnp.inf), axis=-1)
  return jnp.einsum("BNTS,BSNH->BTNH", chances, v)


# --- who sees whom ----------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_attend(causal, names, num_kv_heads):
  T = 7
  x, given = qkv(2, T, 4, num_kv_heads, 6), limits(T, names)
  out = attention.attend(*map(jnp.asarray, x), causal=causal, **on_device(given))
  np.testing.assert_allclose(out, reference_attend(*x, visible(T, causal, given)), rtol=0, atol=2e-6)


def on_device(limits: dict) -> dict:
  return {name: value if name == "window" else jnp.asarray(value) for name, value in limits.items()}


def test_every_limit_takes_something_away_or_gives():
  """Or the tests of combinations would be tests of less."""
  counts = {case: visible(7, case[0], limits(7, case[1])).sum() for case in CASES}
  for causal, names in CASES:
    for name in names.split():
      less = (causal, " ".join(n for n in names.split() if n != name))
      if less in counts:
        assert (counts[causal, names] > counts[less]) == (name == "prefix")
        assert counts[causal, names] != counts[less]


def test_documents_of_one_token_each_get_their_own_values():
  q, k, v = qkv(1, 5, 2, 2, 4)
  out = attention.attend(*map(jnp.asarray, (q, k, v)), causal=False, documents_BS=jnp.arange(5)[None])
  np.testing.assert_allclose(out, v, rtol=0, atol=1e-6)


def test_attend_to_more_keys_than_queries():
  q, k, v = normal(2, 1, 4, 6), normal(2, 7, 2, 6, seed=1), normal(2, 7, 2, 6, seed=2)
  expected = reference_attend(q, k, v, np.ones((2, 1, 7), bool))
  out = attention.attend(*map(jnp.asarray, (q, k, v)), causal=False)
  np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6)


def test_positions_count_from_the_start_of_each_document():
  documents = jnp.asarray([[3, 3, 3, 0, 0, 7], [1, 1, 1, 1, 1, 1], [0, 1, 2, 2, 0, 0]], jnp.int32)
  expected = [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 0, 1]]
  np.testing.assert_array_equal(attention.document_positions(documents), expected)


# --- blocks and loops ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3])
@some_cases
def test_blocks_of_queries_change_neither_attention_nor_its_gradient(causal, names, size):
  T = 7
  x, given = qkv(2, T, 4, 2, 6), limits(T, names)
  model = reference.tiny(attention_block=size, causal=causal, attention_window=given.get("window"))
  blocks = model.query_blocks(T, "prefix" in names)
  ours = functools.partial(attention.attend, causal=causal, blocks=blocks, **on_device(given))
  compare_with_plain(ours, x, visible(T, causal, given))


def compare_with_plain(ours, x, visible_BTS):
  cotangent = normal(*x[0].shape, seed=3)
  expected = value_and_grads(functools.partial(plain, jnp.asarray(visible_BTS)), cotangent, *x)
  for a, b in zip(value_and_grads(ours, cotangent, *x), expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=5e-6)


@pytest.mark.parametrize("size", [1, 3, 17])
@some_cases
def test_weights_computed_again_change_neither_attention_nor_its_gradient(causal, names, size):
  """Small windows are of few keys beside T, so that the loop takes those in reach of its queries."""
  T = 17
  x, given = qkv(2, T, 4, 2, 6), limits(T, names)
  given |= {"window": 4} if "window" in given else {}
  ours = functools.partial(attention.attend, causal=causal, recompute=size, **on_device(given))
  compare_with_plain(ours, x, visible(T, causal, given))


@pytest.mark.parametrize("window", [None, 5, 300, 900])
@pytest.mark.parametrize("causal", [True, False])
def test_a_long_sequence_attends_as_one_block_would(causal, window):
  """1100 tokens: beyond the length where weights are kept, and no multiple of anything."""
  T = 1100
  model = reference.tiny(
    causal=causal, attention_window=window, num_heads=2, num_kv_heads=1, context_length=T
  )
  x, cotangent = qkv(1, T, 2, 1, 8), normal(1, T, 2, 8, seed=3)
  documents = jnp.asarray(np.searchsorted([5, 700], np.arange(T), side="right")[None], jnp.int32)
  assert model.recomputed_queries(T) is not None
  ours = value_and_grads(lambda *x: layers.attend(model, *x, documents), cotangent, *x)
  how = {"causal": causal, "window": window, "documents_BS": documents}
  for a, b in zip(ours, value_and_grads(lambda *x: attention.attend(*x, **how), cotangent, *x), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


@pytest.mark.parametrize("recompute", [None, 2])
def test_scale_of_attention(recompute):
  q, k, v = qkv(1, 5, 2, 2, 6)
  out = attention.attend(*map(jnp.asarray, (q, k, v)), causal=True, scale=0.1, recompute=recompute)
  expected = reference_attend(q * (0.1 * math.sqrt(6)), k, v, np.tril(np.ones((1, 5, 5), bool)))
  np.testing.assert_allclose(out, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("window", [None, 1, 2, 5, 50])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("size", "backend"), [(1, "cpu"), (3, "cpu"), (7, "cpu"), (100, "cpu"), (1, "gpu")])
def test_query_blocks_cover_each_query_once_and_all_it_may_see(size, backend, causal, window, prefix):
  T = 7
  model = reference.tiny(attention_block=size, causal=causal, attention_window=window)
  blocks = model.query_blocks(T, prefix, backend)
  assert [t for start, end, *_ in blocks for t in range(start, end)] == list(range(T))
  seen = reference.visible(T, causal=causal, window=window, prefix=np.full(T, prefix))
  for start, end, first, stop in blocks:
    keys = np.flatnonzero(seen[start:end].any(0))
    one_block = len(blocks) == 1 and (first, stop) == (0, T)
    assert (first, stop) == (keys.min(), keys.max() + 1) or one_block
  assert len(blocks) == 1 or not (prefix or backend == "gpu")


@pytest.mark.parametrize("length", [1, 63, 64, 65, 1000, 1024, 1025, 4096, 5000, 100_000])
@pytest.mark.parametrize("size", [8, 64, 200])
@pytest.mark.parametrize("window", [None, 100, 3000])
@pytest.mark.parametrize(("backend", "most"), [("cpu", 16), ("gpu", 1)])
def test_there_are_few_query_blocks_of_whole_loops(backend, most, length, size, window):
  model = reference.tiny(attention_block=size, attention_window=window)
  blocks = model.query_blocks(length, backend=backend)
  assert len(blocks) <= (most if length <= 1024 else 4)
  assert all((end - start) % size == 0 for start, end, *_ in blocks[:-1])


def test_pairs_of_a_window_grow_with_the_length_and_not_with_its_square():
  full, windowed = (reference.tiny(attention_window=window) for window in (None, 256))
  pairs = {m: [scaling.attention_pairs(m, T) for T in (4096, 16384, 65536)] for m in (full, windowed)}
  assert pairs[windowed] == [T * (256 - 1 + 64) for T in (4096, 16384, 65536)]
  assert pairs[full][2] > 15 * pairs[full][1]


def test_keys_laid_out_for_a_window_are_few_copies():
  for window in (1, 64, 100, 256, 1000, 5000):
    rows = reference.tiny(attention_window=window).recomputed_queries(100_000)
    assert (model_config.window_reach(window, True)[0] + rows) / rows <= 5
    assert rows <= max(64, window / 4 + 64)


# --- numbers at their limits ------------------------------------------------------------------------


def test_attention_of_bfloat16_is_near_that_of_float32():
  """Its output has 8 bits; scores rounded to as many would be wrong by up to exp(5 / 256)."""
  q, k, v = (jnp.asarray(normal(2, 6, 2, 16, seed=s), jnp.bfloat16) for s in range(3))
  out = attention.attend(4 * q, k, v, causal=True)
  wide = [np.asarray(x, np.float32) for x in (4 * q, k, v)]
  expected = reference_attend(*wide, np.broadcast_to(np.tril(np.ones((6, 6), bool)), (2, 6, 6)))
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=0.01, atol=0.01)


def test_attend_survives_large_scores():
  q, k, v = 100 * normal(1, 4, 1, 8), 100 * normal(1, 4, 1, 8, seed=1), normal(1, 4, 1, 8, seed=2)
  expected = reference_attend(q, k, v, np.tril(np.ones((1, 4, 4), bool)))
  out = attention.attend(*map(jnp.asarray, (q, k, v)), causal=True)
  np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


# --- cuDNN --------------------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("T", [6, 7])
def test_arguments_of_fused_attention(T, causal, names, scale):
  """By the same function without cuDNN: shapes, grouping, masks and scale are those of `attend`."""
  x = [jnp.asarray(y) for y in qkv(2, T, 4, 2, 8)]
  same = {"causal": causal, "scale": scale, **on_device(limits(T, names))}
  out = attention.attend_fused(*x, implementation="xla", **same)
  np.testing.assert_allclose(out, attention.attend(*x, **same), rtol=0, atol=2e-6)


@pytest.mark.skipif(attention.attention_backend() != "gpu", reason="cuDNN's attention needs an NVIDIA GPU")
@every_case
@pytest.mark.parametrize("T", [64, 63])
def test_cudnn_attention_and_its_gradient(T, causal, names):
  if not attention.can_be_fused(T, causal=causal, masked=bool({"documents", "prefix"} & set(names.split()))):
    pytest.skip("cuDNN's attention has no gradient for an odd number of tokens")
  if model_config.cudnn_obstacle("bfloat16", 32, causal=causal, window=limits(T, names).get("window")):
    pytest.skip("cuDNN has windows to one side only")
  x = [jnp.asarray(y, jnp.bfloat16) for y in qkv(2, T, 4, 2, 32)]
  how = {"causal": causal, **on_device(limits(T, names))}

  def value_and_grad(f, inputs):
    ones = jnp.ones(inputs[0].shape)
    return [np.asarray(y, np.float32) for y in value_and_grads(functools.partial(f, **how), ones, *inputs)]

  fused = value_and_grad(attention.attend_fused, x)
  exact = value_and_grad(attention.attend, [y.astype(jnp.float32) for y in x])
  for a, b in zip(fused, exact, strict=True):
    np.testing.assert_allclose(a, b, rtol=0.03, atol=0.03)


# --- which attention -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("requested", "backend", "dtype", "head_dim", "expected"),
  [
    ("auto", "gpu", "bfloat16", 64, "cudnn"),
    ("auto", "gpu", "float16", 128, "cudnn"),
    ("auto", "gpu", "float32", 64, "blocks"),
    ("auto", "gpu", "bfloat16", 36, "blocks"),
    ("auto", "gpu", "bfloat16", 136, "blocks"),
    ("auto", "cpu", "bfloat16", 64, "blocks"),
    ("auto", "tpu", "bfloat16", 64, "blocks"),
    ("blocks", "gpu", "bfloat16", 64, "blocks"),
    ("cudnn", "gpu", "bfloat16", 64, "cudnn"),
  ],
)
def test_attention_kernel(requested, backend, dtype, head_dim, expected):
  assert attention.attention_kernel(requested, backend, dtype, head_dim) == expected


def test_a_window_to_both_sides_is_in_blocks():
  both = {"causal": False, "window": 8}
  assert attention.attention_kernel("auto", "gpu", "bfloat16", 64, **both) == "blocks"
  assert attention.attention_kernel("auto", "gpu", "bfloat16", 64, causal=True, window=8) == "cudnn"
  message = "must be auto or blocks for attention_window=8 with causal=false: cuDNN"
  with pytest.raises(ConfigError, match=message):
    attention.attention_kernel("cudnn", "gpu", "bfloat16", 64, **both)
  with pytest.raises(ConfigError, match=message):
    reference.tiny(attention="cudnn", dtype="bfloat16", head_dim=8, causal=False, attention_window=8)


@pytest.mark.parametrize(
  ("backend", "dtype", "head_dim", "why"),
  [
    ("cpu", "bfloat16", 64, "on cpu: cuDNN needs an NVIDIA GPU"),
    ("compute capability 7.0", "bfloat16", 64, "on compute capability 7.0: cuDNN needs"),
    ("gpu", "float32", 64, "for dtype=float32: "),
    ("gpu", "bfloat16", 36, "for head_dim=36: "),
  ],
)
def test_cudnn_where_it_cannot_be_used_says_why(backend, dtype, head_dim, why):
  with pytest.raises(ConfigError, match=f"config.model.attention='cudnn': must be auto or blocks {why}"):
    attention.attention_kernel("cudnn", backend, dtype, head_dim)
