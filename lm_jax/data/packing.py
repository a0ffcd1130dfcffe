"""How documents become sequences: which stretches of a token stream go together into rows of T tokens.

A stream is what `token_store` holds: documents one after another, each followed by a separator. A row is
one or more stretches [start, end) of it; all rows can be read in any order.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rows:
  """Rows of stretches.

  Attributes:
    starts, ends: int64 [number of stretches], ordered by row.
    first: int64 [rows + 1]; row r has the stretches first[r] .. first[r + 1] - 1.
  """

  starts: np.ndarray
  ends: np.ndarray
  first: np.ndarray

  def __len__(self) -> int:
    return len(self.first) - 1

  def __getitem__(self, row: int) -> list[tuple[int, int]]:
    of_row = slice(self.first[row], self.first[row + 1])
    return list(zip(self.starts[of_row].tolist(), self.ends[of_row].tolist(), strict=True))


def stretches(starts: np.ndarray, ends: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns (starts, ends) of documents, those of more than `most` tokens cut into as few as can be."""
  pieces = -(-(ends - starts) // most)
  start = np.repeat(starts, pieces)
  nth = np.arange(len(start)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
  start = start + nth * most
  return start, np.minimum(start + most, np.repeat(ends, pieces))


def one_a_row(starts: np.ndarray, ends: np.ndarray, most: int) -> Rows:
  """Returns a row for every stretch of at most `most` tokens of the documents [starts, ends)."""
  starts, ends = stretches(starts, ends, most)
  return Rows(starts, ends, np.arange(len(starts) + 1))


def best_fit(starts: np.ndarray, ends: np.ndarray, most: int, capacity: int, overhead: int = 0) -> Rows:
  """Packs stretches of the documents [starts, ends) by best-fit decreasing (Ding et al., arXiv:2404.10830).

  Longest first, each into the row with the least room that holds it: no document is cut that fits into a
  row, and few rows have room left.

  Args:
    most: tokens of a stretch.
    capacity: tokens of a row.
    overhead: tokens that every stretch needs besides its own.
  """
  starts, ends = stretches(starts, ends, most)
  lengths = (ends - starts + overhead).tolist()
  order = np.argsort(-(ends - starts), kind="stable")
  with_room: dict[int, list[int]] = {}  # rows by the room they have left
  sizes = 0  # bit r is set where with_room[r] is not empty
  row_of, num_rows = np.empty(len(starts), np.int64), 0
  for i in order.tolist():
    length = lengths[i]
    fitting = sizes >> length
    if fitting:
      room = length + ((fitting & -fitting).bit_length() - 1)
      rows = with_room[room]
      row = rows.pop()
      if not rows:
        sizes &= ~(1 << room)
    else:
      row, room, num_rows = num_rows, capacity, num_rows + 1
    row_of[i], left = row, room - length
    if left:
      with_room.setdefault(left, []).append(row)
      sizes |= 1 << left
  by_row = np.argsort(row_of, kind="stable")
  first = np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=num_rows))])
  return Rows(starts[by_row], ends[by_row], first)
