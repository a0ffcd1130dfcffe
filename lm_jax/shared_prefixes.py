"""Which texts to read as one because they begin alike, and which beginnings to read beforehand.

The texts are token rows of which some tokens are to be predicted. Two ways to read a common beginning once:

* a *branch*: texts that differ in their last few tokens, such as the choices of an item, are one trie that
  is read in one row (lm_jax/trees.py);
* a *stem*: what many tries begin with, such as demonstrations, is read before them into a KV cache.

Both are chosen by what they save. Candidates are the internal nodes of the trie of all texts; as these are
sorted, they are the intervals of an array of common prefixes, found in one pass with a stack (Abouelhoda,
Kurtz and Ohlebusch 2004, algorithm 4.1), children before their parents.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

MAX_TRIE = 1024  # tokens; a row's attention weights are all held at once
MIN_STEM = 32  # tokens; less is not worth a second program


@dataclasses.dataclass(frozen=True)
class Row:
  """Tokens to read, and at how many consecutive positions, from the `first`, which token is expected."""

  tokens: tuple[int, ...]
  first: int
  targets: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of reading, FLOPs.

  Attributes:
    token: the products of a token with the weights.
    pair: a query's scores of a key, in all layers and heads.
    program: what compiling a program takes, as the FLOPs that would take as long.
  """

  token: float
  pair: float
  program: float

  def read(self, tokens: float | np.ndarray, before: float = 0) -> float | np.ndarray:
    """Returns the cost of reading tokens of a row after so many `before` them."""
    return tokens * (self.token + self.pair * (tokens + before))


@dataclasses.dataclass(frozen=True)
class Trie:
  """Rows read as one.

  Attributes:
    rows: their indices.
    tokens, depths, ends: see trees.Tree; without the stem's tokens, but depths count them.
    paths: for each of `rows`, where its predictions are made.
  """

  rows: tuple[int, ...]
  tokens: np.ndarray
  depths: np.ndarray
  ends: np.ndarray
  paths: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Group:
  """Tries that are read after a common `stem`; without one it is ()."""

  stem: tuple[int, ...]
  tries: tuple[Trie, ...]


def plan(rows: Sequence[Row], cost: Cost, most: int = MAX_TRIE) -> list[Group]:
  """Returns all rows, each in one trie.

  Args:
    most: tokens of several rows in one trie.
  """
  if not rows:
    return []
  order = sorted(range(len(rows)), key=lambda i: rows[i].tokens)
  arrays = [np.asarray(rows[i].tokens, np.int32) for i in order]
  common = [common_prefix(a, b) for a, b in itertools.pairwise(arrays)]
  spans = _branch([len(a) for a in arrays], common, cost, most)
  sizes = np.array([span.tokens for span in spans])
  firsts = np.array([min(rows[i].first for i in order[span.start : span.end]) for span in spans])
  between = [common[span.start - 1] for span in spans[1:]]
  groups = []
  for stem in _stems(sizes, firsts, between, cost):
    length, inside = stem.length, spans[stem.start : stem.end]
    tries = tuple(_lay_out(rows, order[s.start : s.end], length) for s in inside)
    groups.append(Group(rows[order[inside[0].start]].tokens[:length], tries))
  return groups


def apart(rows: Sequence[Row]) -> list[Group]:
  """Returns all rows, each in a trie of its own: of a model in which a token sees those after it."""
  return [Group((), tuple(_lay_out(rows, (i,), 0) for i in range(len(rows))))] if rows else []


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
  """Returns how many tokens two texts begin with in common."""
  n = min(len(a), len(b))
  differ = np.flatnonzero(a[:n] != b[:n])
  return int(differ[0]) if len(differ) else n


# --- which nodes of the trie of all texts ---------------------------------------------------------


@dataclasses.dataclass
class _Span:
  """Consecutive texts or tries `start`..`end`, as they are read best.

  Attributes:
    tokens: of their trie.
    cost: of reading them.
    length: of the stem that all of them are read after, 0: none.
    parts: the spans that they are read as; (): as one.
  """

  start: int
  end: int
  tokens: int
  cost: float
  length: int = 0
  parts: "tuple[_Span, ...]" = ()


Node = TypeVar("Node")


class _Folding(Generic[Node]):
  """Folds the intervals of an array of common prefixes, children first."""

  def __init__(self, join: Callable[[int, list[Node]], Node]):
    self._join, self._open = join, []  # [(depth, children)], deeper and deeper

  def close(self, node: Node, depth: int) -> Node:
    """Returns the node that ends here: `node`, or what is deeper than `depth` and it is the last part of."""
    while self._open and self._open[-1][0] > depth:
      own, children = self._open.pop()
      node = self._join(own, [*children, node])
    return node

  def add(self, node: Node, depth: int) -> None:
    """Takes the next leaf, which has `depth` tokens in common with the one after it."""
    node = self.close(node, depth)
    if self._open and self._open[-1][0] == depth:
      self._open[-1][1].append(node)
    else:
      self._open.append((depth, [node]))


def _fold(leaves: Sequence[Node], common: Sequence[int], join: Callable[[int, list[Node]], Node]) -> Node:
  folding = _Folding(join)
  for leaf, depth in zip(leaves, common, strict=False):
    folding.add(leaf, depth)
  return folding.close(leaves[-1], -1)


def _chosen(root: _Span) -> list[_Span]:
  """Returns the spans that are read as one, in order."""
  found, left = [], [root]
  while left:
    span = left.pop()
    if span.parts:
      left.extend(reversed(span.parts))
    else:
      found.append(span)
  return found


def _branch(lengths: Sequence[int], common: Sequence[int], cost: Cost, most: int) -> list[_Span]:
  """Returns which texts are one trie each."""

  def join(depth: int, parts: list[_Span]) -> _Span:
    start, end = parts[0].start, parts[-1].end
    tokens = depth + sum(part.tokens - depth for part in parts)
    apart, as_one = sum(part.cost for part in parts), cost.read(tokens)
    fits = tokens <= max(most, max(lengths[start:end]))
    if fits and as_one <= apart:
      return _Span(start, end, tokens, as_one)
    return _Span(start, end, tokens, apart, parts=tuple(parts))

  leaves = [_Span(i, i + 1, n, cost.read(n)) for i, n in enumerate(lengths)]
  return _chosen(_fold(leaves, common, join))


def _stems(sizes: np.ndarray, firsts: np.ndarray, common: Sequence[int], cost: Cost) -> list[_Span]:
  """Returns which tries are read after one stem each.

  Args:
    sizes: tokens of each trie.
    firsts: where its first prediction is, which is made after the stem.
  """

  def join(depth: int, parts: list[_Span]) -> _Span:
    start, end = parts[0].start, parts[-1].end
    apart = sum(part.cost for part in parts)
    length = min(depth, int(firsts[start:end].min()))
    if length >= MIN_STEM:
      after = cost.read(length) + 2 * cost.program + cost.read(sizes[start:end] - length, length).sum()
      if after < apart:
        return _Span(start, end, 0, after, length)
    return _Span(start, end, 0, apart, parts=tuple(parts))

  leaves = [_Span(i, i + 1, 0, cost.read(n)) for i, n in enumerate(sizes)]
  return _without_stem_as_one(_chosen(_fold(leaves, common, join)))


def _without_stem_as_one(spans: list[_Span]) -> list[_Span]:
  """Returns the spans with neighbors that have no stem put together."""
  merged: list[_Span] = []
  for span in spans:
    if merged and not merged[-1].length and not span.length:
      merged[-1] = dataclasses.replace(merged[-1], end=span.end)
    else:
      merged.append(span)
  return merged


# --- laying out ---------------------------------------------------------------------------------


def _lay_out(rows: Sequence[Row], indices: Sequence[int], stem: int) -> Trie:
  """Returns the trie of sorted rows without the `stem` tokens that they all begin with."""
  tokens: list[int] = []
  depths: list[int] = []
  ends: list[int] = []
  path: list[int] = []  # where the tokens of the last row stand
  last: tuple[int, ...] = ()
  paths = []
  for i in indices:
    row = rows[i].tokens[stem:]
    shared = common_prefix(np.asarray(last), np.asarray(row))
    for index in path[shared:]:
      ends[index] = len(tokens)
    del path[shared:]
    for depth in range(shared, len(row)):
      path.append(len(tokens))
      tokens.append(row[depth])
      depths.append(stem + depth)
      ends.append(-1)
    first = rows[i].first - stem
    paths.append(np.array(path[first : first + len(rows[i].targets)], np.int32))
    last = row
  for index in path:
    ends[index] = len(tokens)
  arrays = (np.array(x, np.int32) for x in (tokens, depths, ends))
  return Trie(tuple(indices), *arrays, tuple(paths))
