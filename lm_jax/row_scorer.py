"""Log-likelihoods of tokens in many texts: few programs, each run on batches of rows of one shape.

Texts that are short are packed into a row, side by side, as separate tries. The sizes of a shape are from a
grid, so that programs are found again in the compilation cache. Which of the grid's lengths are used depends
on the texts there are: padding costs time, and so does compiling. What a text scores depends on it by the
order of sums alone.
"""

import dataclasses
import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
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
MANY = 1 / 4  # texts of which more tokens are predicted have programs of their own
# Fitted on a CPU: FLOPs of products in the time of one attention weight's softmax, and of compiling a layer.
FLOPS_PER_WEIGHT, FLOPS_PER_PROGRAM_LAYER = 50, 1.2e10
STRETCHES = (1, 2, 4)  # lengths of rows that are tried, in lengths of the longest text in them

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

  def __call__(self, rows: Sequence[Row], done: Callable[[int], None] | None = None) -> list[Scored]:
    """Returns what the rows score; `done` is called with the index of each, as it is."""
    results: list[Scored | None] = [None] * len(rows)
    jobs = _jobs(self._plan(rows), rows, self._config, self._cost)
    for _, jobs_of_group in itertools.groupby(jobs, key=lambda job: id(job.group)):
      of_group = list(jobs_of_group)
      cache = self._read_stem(of_group[0])
      for job in of_group:
        for row, scored in self._run(job, cache):
          results[row] = scored
          if done is not None:
            done(row)
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
    self.tokens_read += sum(asked.size for packed in job.batch for asked in packed)
    filled = _fill(job.batch, job.shape)
    # No token of a causal model sees what is after it, so padding there needs no mask.
    documents_BT = None if self._config.causal else filled.document_BT
    tree = Tree(filled.depth_BT, filled.end_BT, np.int32(len(job.group.stem))) if job.shape.is_tree else None
    scores = _score(
      self._config, self._params, cache, filled.tokens_BT, tree, documents_BT, filled.positions_BP,
      filled.candidates_BPC,
    )  # fmt: skip
    log_p_BPC, is_best_BPC = map(np.asarray, scores)
    for b, packed in enumerate(job.batch):
      first = 0
      for asked in packed:
        for row, p, c in asked.places:
          yield row, (log_p_BPC[b, first + p, c], is_best_BPC[b, first + p, c])
        first += len(asked.nodes)


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
  where: dict[str, Any] = {"slots": tree, "documents_BT": documents_BT, "positions_BP": positions_BP}
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

  @property
  def size(self) -> int:
    return len(self.trie.tokens)


Packed = list[_Asked]  # in one row


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
  batch: Sequence[Packed]


def _jobs(groups: Sequence[Group], rows: Sequence[Row], c: ModelConfig, cost: Cost) -> list[_Job]:
  """Returns the dispatches, those of one group together and the largest first.

  What does not fit in memory fails at once, and not at the end.
  """
  kinds: dict[tuple, list[tuple[int, _Asked]]] = defaultdict(list)
  for g, group in enumerate(groups):
    slots = min(round_up(len(group.stem), MIN_SLOTS), c.context_length) if group.stem else 0
    for asked in (_asked(rows, trie) for trie in group.tries):
      is_long = asked.size > shared_prefixes.MAX_TRIE
      is_tree = c.causal and not (is_long and not slots and len(asked.trie.rows) == 1)
      is_many = len(asked.nodes) > MANY * asked.size
      kinds[slots, is_tree, is_long, is_many].append((g, asked))
  found = [
    job
    for (slots, is_tree, is_long, _), some in kinds.items()
    for job in _of_kind(slots, is_tree, not is_long, some, c, cost)
  ]
  found.sort(key=lambda job: -job[1].length)
  first = {g: i for i, (g, _, _) in reversed(list(enumerate(found)))}
  found.sort(key=lambda job: first[job[0]])
  return [_Job(groups[g], shape, batch) for g, shape, batch in found]


def _of_kind(
  slots: int, is_tree: bool, packs: bool, asked: Sequence[tuple[int, _Asked]], c: ModelConfig, cost: Cost
) -> Iterator[tuple[int, _Shape, Sequence[Packed]]]:
  """Yields (group, shape, batch) of what has programs in common."""
  most_tokens = min(shared_prefixes.MAX_TRIE, c.context_length) if packs else c.context_length
  lengths = choose_lengths([one.size for _, one in asked], cost, most_tokens, slots, packs=packs)
  by_length: dict[int, dict[int, list[_Asked]]] = defaultdict(lambda: defaultdict(list))
  for g, one in asked:
    by_length[next(length for size, length in lengths if one.size <= size)][g].append(one)
  for T, by_group in by_length.items():
    bins = {g: pack(some, T) if packs else [[one] for one in some] for g, some in by_group.items()}
    everything = [packed for some in bins.values() for packed in some]
    P = min(round_up(max(sum(len(one.nodes) for one in packed) for packed in everything), 1, 1), T)
    C = round_up(max(len(some) for packed in everything for one in packed for some in one.candidates), 1, 1)
    most = min(MAX_ROWS, MAX_TOKENS // T)
    if is_tree:
      most = min(most, MAX_WEIGHTS // (c.num_heads * T * (T + slots)))
    B = choose_rows([len(some) for some in bins.values()], max(1, most), T)
    for g, some in bins.items():
      for start in range(0, len(some), B):
        yield g, _Shape(T, P, C, B, slots, is_tree), some[start : start + B]


def pack(asked: Sequence[_Asked], length: int) -> list[Packed]:
  """Returns rows of at most `length` tokens: the longest texts first, each where the least room is left."""
  bins: list[Packed] = []
  with_room: list[list[int]] = [[] for _ in range(length + 1)]
  for one in sorted(asked, key=lambda one: -one.size):
    room = next((room for room in range(one.size, length + 1) if with_room[room]), length)
    if not with_room[room]:
      with_room[room].append(len(bins))
      bins.append([])
    at = with_room[room].pop()
    bins[at].append(one)
    with_room[room - one.size].append(at)
  return bins


def round_up(n: int, least: int, steps: int = 4) -> int:
  """Returns the first of a grid that is at least n: `least`, and `steps` to each doubling."""
  if n <= least:
    return least
  unit = max(1, (1 << ((n - 1).bit_length() - 1)) // steps)
  return -(-n // unit) * unit


def choose_lengths(
  sizes: Sequence[int], cost: Cost, most: int, before: int = 0, *, packs: bool = True
) -> list[tuple[int, int]]:
  """Returns [(largest text, length of rows)], ascending, where padding and compiling cost least.

  Args:
    sizes: tokens of all texts.
    most: tokens of a row; no text has more.
    before: tokens that each is read after.
    packs: whether short texts share a row. Then rows are taken to be full but for one that is half empty
      for each text that is longer than half of it.
  """
  size_N = np.sort(np.asarray(sizes))
  total_N = np.concatenate([[0], np.cumsum(size_N)])
  grid = sorted({min(round_up(size, MIN_LENGTH), most) for size in set(sizes)})
  ends = [0, *np.searchsorted(size_N, grid, "right").tolist()]  # texts up to each of the grid's lengths

  def read(start: int, end: int, length: int) -> float:
    half = int(np.searchsorted(size_N, length / 2, "right")) if packs else start
    rows = max(end - max(start, half), -(-int(total_N[end] - total_N[start]) // length))
    return rows * float(cost.read(length, before))

  best: list[tuple[float, int, int]] = [(0.0, 0, 0)]  # of texts up to a size: (cost, those before, length)
  for end in range(1, len(grid) + 1):
    lengths = {min(grid[end - 1] * n, most) for n in (STRETCHES if packs else (1,))}
    best.append(
      min(
        (best[start][0] + cost.program + read(ends[start], ends[end], length), start, length)
        for start in range(end)
        for length in lengths
      )
    )
  chosen, end = [], len(grid)
  while end:
    _, start, length = best[end]
    chosen.append((grid[end - 1], length))
    end = start
  return chosen[::-1]


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


@dataclasses.dataclass(frozen=True)
class _Filled:
  """Arrays of a batch, int32; 0 is padding. Texts of a row are documents 1, 2, ..."""

  tokens_BT: np.ndarray
  depth_BT: np.ndarray
  end_BT: np.ndarray
  document_BT: np.ndarray
  positions_BP: np.ndarray
  candidates_BPC: np.ndarray


def _fill(batch: Sequence[Packed], shape: _Shape) -> _Filled:
  B, T, P, C = shape.rows, shape.length, shape.predictions, shape.candidates
  filled = _Filled(*np.zeros((4, B, T), np.int32), np.zeros((B, P), np.int32), np.zeros((B, P, C), np.int32))
  for b, packed in enumerate(batch):
    start = p = 0
    for document, asked in enumerate(packed, 1):
      here = slice(start, start + asked.size)
      filled.tokens_BT[b, here], filled.depth_BT[b, here] = asked.trie.tokens, asked.trie.depths
      filled.end_BT[b, here], filled.document_BT[b, here] = start + asked.trie.ends, document
      filled.positions_BP[b, p : p + len(asked.nodes)] = start + asked.nodes
      for some in asked.candidates:
        filled.candidates_BPC[b, p, : len(some)] = some
        p += 1
      start += asked.size
  return filled
