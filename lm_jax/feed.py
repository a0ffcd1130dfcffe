"""Batches of a fed task on their way to a device: as many as a dispatch may take, in one transfer."""

from collections.abc import Iterator

import jax
import numpy as np

from lm_jax.tasks.base import Batch, Task


class Feed:
  """The batches of one run, rows of this process; a thread makes those of the next steps meanwhile.

  Args:
    seed: of the training data.
    rows: which of the batch.
    size: K, the most steps of a dispatch.
  """

  def __init__(self, task: Task, seed: int, batch_size: int, rows: slice, size: int):
    self._task, self._key, self._size = task, (seed, batch_size, rows), size
    self._batches: Iterator[Batch] = iter(())
    self._next: int | None = None

  def take(self, first: int, n: int) -> Batch:
    """Returns the batches of steps `first` .. `first` + n - 1 as arrays [K, rows, ...], zeros after them."""
    if first != self._next:
      self._batches = self._task.batches(*self._key, first)
    self._next = first + n
    taken = [next(self._batches) for _ in range(n)]

    def stack(*xs: np.ndarray) -> np.ndarray:
      stacked = np.zeros((self._size, *np.shape(xs[0])), np.asarray(xs[0]).dtype)
      stacked[:n] = xs
      return stacked

    return jax.tree.map(stack, *taken)

  def shapes(self) -> Batch:
    """Returns what `take` returns without the values."""
    one = next(self._task.batches(*self._key, 0))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((self._size, *np.shape(x)), np.asarray(x).dtype), one)
