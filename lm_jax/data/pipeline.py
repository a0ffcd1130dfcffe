"""Batches of text by Grain: shuffled, mixed, endless, and in any order.

A dataset is a function of its index, so the batch of a step is a function of (seed, step), a run goes on
where it stopped without reading what came before, and hosts read only their own rows. Nothing but indices
is held in memory; text is read where it is needed from memory-mapped files.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

Source = Any  # has __len__ and __getitem__(i)
Make = Callable[[Any, np.random.Generator], dict[str, np.ndarray]]

# Batches made ahead of the step that takes them.
AHEAD = 16


class _Made(grain.transforms.RandomMap):
  def __init__(self, make: Make):
    self._make = make

  def random_map(self, element: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return self._make(element, rng)


def endless(sources: Sequence[Source], weights: Sequence[float], make: Make, seed: int) -> grain.MapDataset:
  """Returns sequences without end: every epoch of every source in another order, mixed by weights.

  Args:
    sources: what `make` turns into a sequence, with random numbers that are a function of (seed, index):
      other ones each epoch.
    weights: shares of the sources, in any unit.
  """
  parts = [
    grain.MapDataset.source(source).seed(_seed(seed, i)).shuffle().repeat()
    for i, source in enumerate(sources)
  ]  # fmt: skip
  mixed = parts[0] if len(parts) == 1 else grain.MapDataset.mix(parts, weights=_shares(weights))
  return mixed.seed(_seed(seed, len(parts))).random_map(_Made(make))


def _seed(seed: int, stream: int) -> int:
  """Returns a seed for Grain, which takes 32 bits, of one of the streams of a seed."""
  return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])


def _shares(weights: Sequence[float]) -> list[float]:
  total = float(sum(weights))
  return [weight / total for weight in weights]


def batches(
  dataset: grain.MapDataset, batch_size: int, rows: slice, first: int
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the batches of steps `first`, `first` + 1, ...: arrays [rows of this host, ...].

  A thread makes them ahead. Row r of step s is the dataset's element s * batch_size + r, whatever rows
  there are on this host.
  """
  start, stop, _ = rows.indices(batch_size)

  def of_step(step: int) -> dict[str, np.ndarray]:
    elements = [dataset[step * batch_size + row] for row in range(start, stop)]
    return {name: np.stack([element[name] for element in elements]) for name in elements[0]}

  steps = grain.MapDataset.range(first, np.iinfo(np.int64).max).map(of_step)
  yield from steps.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD))


def first_batch(dataset: grain.MapDataset, size: int) -> dict[str, np.ndarray]:
  """Returns the first `size` sequences of a dataset."""
  return next(batches(dataset, size, slice(None), 0))
