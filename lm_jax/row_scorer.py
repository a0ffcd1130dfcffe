"""Log-likelihoods of tokens in many rows: few programs, each run on batches of rows of one shape.

The sizes of a shape are from a grid, so that programs are found again in the compilation cache. Which of the
grid's lengths are used depends on the rows there are: padding costs time, and so does compiling. What a row
scores depends on it by the order of sums alone.
"""

import dataclasses
import functools
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import kv_cache, scaling, shared_prefixes
from lm_jax.model import Transformer
from lm_jax.model_config import ModelConfig
from lm_jax.shared_prefixes import Cost, Group, Row, Trie
from lm_jax.trees import Tree

MIN_LENGTH, MIN_SLOTS = 16, 64  # tokens
MAX_ROWS, MAX_TOKENS, MAX_WEIGHTS = 64, 2**12, 2**26  # of a dispatch; attention weights of a layer of tries
DISPATCH_TOKENS = 64  # what a dispatch takes beside its tokens, in tokens
MANY = 1 / 4  # rows of which more tokens are predicted have programs of their own
# Fitted on a CPU: FLOPs of products in the time of one attention weight's softmax, and of compiling a layer.
FLOPS_PER_WEIGHT, FLOPS_PER_PROGRAM_LAYER = 100, 1.2e10

Scored = tuple[np.ndarray, np.ndarray]  # log p, nats, and whether it is the most likely one, of each target


class RowScorer:
  """Scores rows by one model.

  Attributes:
    tokens_read: since it was made, padding not counted.
  """

  def __init__(self, config: ModelConfig, params: Any):
    """Takes a resolved config."""
    self._config, self._params = config, jax.device_put(params)
    self._cost = cost_of(config)
    self.tokens_read = 0

  def __call__(self, rows: Sequence[Row]) -> list[Scored]:
    results: list[Scored | None] = [None] * len(rows)
    jobs = _jobs(self._plan(rows), rows, self._config, self._cost)
    for _, of_group in itertools.groupby(jobs, key=lambda job: id(job.group)):
      of_group = list(of_group)
      cache = self._read_stem(of_group[0])
      for job in of_group:
        for row, scored in self._run(job, cache):
          results[row] = scored
    return results

  def _plan(self, rows: Sequence[Row]) -> list[Group]:
    if not self._config.causal:
      return shared_prefixes.apart(rows)
    most = min(shared_prefixes.MAX_TRIE, self._config.context_length)
    return shared_prefixes.plan(rows, self._cost, most)

  def _read_stem(self, job: "_Job") -> Any:
    stem = job.group.stem
    if not stem:
      return None
    self.tokens_read += len(stem)
    tokens = np.zeros((1, job.shape.slots), np.int32)
    tokens[0, : len(stem)] = stem
    return _read(self._config, self._params, tokens)

  def _run(self, job: "_Job", cache: Any) -> Iterator[tuple[int, Scored]]:
    self.tokens_read += sum(len(asked.trie.tokens) for asked in job.batch)
    tokens_BT, depth_BT, end_BT, positions_BP, candidates_BPC = _fill(job.batch, job.shape)
    tree = Tree(depth_BT, end_BT, np.int32(len(job.group.stem))) if job.shape.is_tree else None
    # No token of a causal model sees what is after it, so padding there needs no mask.
    documents_BT = None if self._config.causal else (end_BT > 0).astype(np.int32)
    scores = _score(
      self._config, self._params, cache, tokens_BT, tree, documents_BT, positions_BP, candidates_BPC
    )
    log_p_BPC, is_best_BPC = map(np.asarray, scores)
    for b, asked in enumerate(job.batch):
      for row, p, c in asked.places:
        yield row, (log_p_BPC[b, p, c], is_best_BPC[b, p, c])


def cost_of(c: ModelConfig) -> Cost:
  """Returns what reading takes of a model."""
  token = 2.0 * scaling.count_params(c).nonembedding
  pair = float((4 * c.head_dim + FLOPS_PER_WEIGHT) * c.num_heads * c.num_layers)
  return Cost(token, pair, FLOPS_PER_PROGRAM_LAYER * c.num_layers)


@functools.partial(jax.jit, static_argnums=0)
def _read(config: ModelConfig, params: Any, tokens_1S: jax.Array) -> Any:
  """Returns the "cache" collection with the keys and values of tokens."""
  cache = kv_cache.empty(config, jnp.zeros(1, jnp.int32), tokens_1S.shape[1])
  return kv_cache.read(config, params, tokens_1S, cache, label_positions=(0,))[1].layers


@functools.partial(jax.jit, static_argnums=0)
def _score(
  config: ModelConfig,
  params: Any,
  cache: Any,
  tokens_BT: jax.Array,
  tree: Tree | None,
  documents_BT: jax.Array | None,
  positions_BP: jax.Array,
  candidates_BPC: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns log p of candidates in nats, and whether they are the most likely tokens, both [B, P, C]."""
  variables = {"params": params} | ({} if cache is None else {"cache": cache})
  where = {"slots": tree, "documents_BT": documents_BT, "positions_BP": positions_BP}
  return Transformer(config).apply(variables, tokens_BT, candidates_BPC=candidates_BPC, **where)


# --- what is asked of a trie --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Asked:
  """The predictions of a trie: at the tokens `nodes`, of `candidates` each.

  Attributes:
    places: (row, index of nodes, index of candidates) of each row's targets.
  """

  trie: Trie
  nodes: np.ndarray
  candidates: tuple[tuple[int, ...], ...]
  places: tuple[tuple[int, np.ndarray, np.ndarray], ...]


def _asked(rows: Sequence[Row], trie: Trie) -> _Asked:
  at: dict[int, dict[int, int]] = {}  # {node: {candidate: its index}}
  order: dict[int, int] = {}
  places = []
  for row, path in zip(trie.rows, trie.paths, strict=True):
    p, c = [], []
    for node, target in zip(path.tolist(), rows[row].targets, strict=True):
      p.append(order.setdefault(node, len(order)))
      candidates = at.setdefault(node, {})
      c.append(candidates.setdefault(target, len(candidates)))
    places.append((row, np.array(p), np.array(c)))
  return _Asked(trie, np.array(list(order), np.int32), tuple(map(tuple, at.values())), tuple(places))


# --- shapes and batches -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Shape:
  """Of a program: B rows of T tokens, P predictions a row, C candidates each, and S slots of a stem."""

  length: int  # T
  predictions: int  # P
  candidates: int  # C
  rows: int  # B
  slots: int  # S; 0: no stem
  is_tree: bool


@dataclasses.dataclass(frozen=True)
class _Job:
  """A dispatch."""

  group: Group
  shape: _Shape
  batch: Sequence[_Asked]


def _jobs(groups: Sequence[Group], rows: Sequence[Row], c: ModelConfig, cost: Cost) -> list[_Job]:
  """Returns the dispatches, those of one group together and the largest first.

  What does not fit in memory fails at once, and not at the end.
  """
  kinds: dict[tuple, list[tuple[int, _Asked]]] = defaultdict(list)
  for g, group in enumerate(groups):
    slots = min(round_up(len(group.stem), MIN_SLOTS, 1), c.context_length) if group.stem else 0
    for asked in (_asked(rows, trie) for trie in group.tries):
      is_tree = bool(slots) or len(asked.trie.rows) > 1
      is_many = len(asked.nodes) > MANY * len(asked.trie.tokens)
      kinds[slots, is_tree, is_many].append((g, asked))
  found = [job for kind, asked in kinds.items() for job in _of_kind(kind[0], kind[1], asked, c, cost)]
  found.sort(key=lambda job: -job[1].length)
  first = {g: i for i, (g, _, _) in reversed(list(enumerate(found)))}
  found.sort(key=lambda job: first[job[0]])
  return [_Job(groups[g], shape, batch) for g, shape, batch in found]


def _of_kind(
  slots: int, is_tree: bool, asked: Sequence[tuple[int, _Asked]], c: ModelConfig, cost: Cost
) -> Iterator[tuple[int, _Shape, Sequence[_Asked]]]:
  """Yields (group, shape, batch) of what has programs in common."""
  sizes = [min(round_up(len(one.trie.tokens), MIN_LENGTH), c.context_length) for _, one in asked]
  length_of = choose_lengths(sizes, cost, slots)
  by_length: dict[int, dict[int, list[_Asked]]] = defaultdict(lambda: defaultdict(list))
  for (g, one), size in zip(asked, sizes, strict=True):
    by_length[length_of[size]][g].append(one)
  for T, by_group in by_length.items():
    all_of = [one for some in by_group.values() for one in some]
    P = min(round_up(max(len(one.nodes) for one in all_of), 1, 1), T)
    C = round_up(max(len(some) for one in all_of for some in one.candidates), 1, 1)
    most = min(MAX_ROWS, MAX_TOKENS // T)
    if is_tree:
      most = min(most, MAX_WEIGHTS // (c.num_heads * T * (T + slots)))
    B = choose_rows([len(some) for some in by_group.values()], max(1, most), T)
    for g, some in by_group.items():
      for start in range(0, len(some), B):
        yield g, _Shape(T, P, C, B, slots, is_tree), some[start : start + B]


def round_up(n: int, least: int, steps: int = 4) -> int:
  """Returns the first of a grid that is at least n: `least`, and `steps` to each doubling."""
  if n <= least:
    return least
  unit = max(1, (1 << ((n - 1).bit_length() - 1)) // steps)
  return -(-n // unit) * unit


def choose_lengths(sizes: Sequence[int], cost: Cost, before: int = 0) -> dict[int, int]:
  """Returns {size: length of the rows that it is padded to}, where padding and compiling cost least.

  Args:
    sizes: of all rows.
    before: tokens that each reads after.
  """
  count = Counter(sizes)
  grid = sorted(count)
  best: list[tuple[float, int]] = [(0.0, 0)]  # of the first sizes: (cost, those before their longest rows)
  for end in range(1, len(grid) + 1):
    row = float(cost.read(grid[end - 1], before))
    options = []
    for start in range(end):
      rows = sum(count[size] for size in grid[start:end])
      options.append((best[start][0] + cost.program + rows * row, start))
    best.append(min(options))
  lengths, end = {}, len(grid)
  while end:
    start = best[end][1]
    lengths |= dict.fromkeys(grid[start:end], grid[end - 1])
    end = start
  return lengths


def choose_rows(counts: Sequence[int], most: int, length: int) -> int:
  """Returns how many rows a batch has, so that batches of these counts have little padding.

  Args:
    most: rows of a batch.
    length: tokens of a row.
  """
  sizes = {min(round_up(n, 1), most) for n in range(1, min(max(counts), most) + 1)}

  def padded(B: int) -> int:
    return sum(-(-n // B) for n in counts) * (B * length + DISPATCH_TOKENS)

  return min(sorted(sizes, reverse=True), key=padded)


def _fill(batch: Sequence[_Asked], shape: _Shape) -> tuple[np.ndarray, ...]:
  """Returns tokens, depths and ends [B, T], positions [B, P], candidates [B, P, C]; 0 is padding."""
  B, T, P, C = shape.rows, shape.length, shape.predictions, shape.candidates
  tokens_BT, depth_BT, end_BT = np.zeros((3, B, T), np.int32)
  positions_BP, candidates_BPC = np.zeros((B, P), np.int32), np.zeros((B, P, C), np.int32)
  for b, asked in enumerate(batch):
    n = len(asked.trie.tokens)
    tokens_BT[b, :n], depth_BT[b, :n], end_BT[b, :n] = asked.trie.tokens, asked.trie.depths, asked.trie.ends
    positions_BP[b, : len(asked.nodes)] = asked.nodes
    for p, some in enumerate(asked.candidates):
      candidates_BPC[b, p, : len(some)] = some
  return tokens_BT, depth_BT, end_BT, positions_BP, candidates_BPC
