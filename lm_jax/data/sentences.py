"""Where sentences begin in a stream of tokens, and pairs of them for next-sentence prediction."""

import numpy as np

_ENDS, _CLOSES = ".!?", "\"')]”’»"
_TOKENS_AT_A_TIME = 2**24


def sentence_starts(tokens: np.ndarray, document_starts: np.ndarray, pieces: list[str]) -> np.ndarray:
  """Returns int64 positions at which sentences begin, ascending, with every document's first.

  A sentence ends at a token that ends in . ! or ?, with closing quotes and brackets after it, if the next
  one begins with white space.

  Args:
    pieces: the text of every token, for the ids that occur.
  """
  ends = np.array([piece.rstrip(_CLOSES).endswith(tuple(_ENDS)) for piece in pieces])
  closes = np.array([bool(piece) and not piece.strip(_CLOSES) for piece in pieces])
  opens = np.array([piece[:1].isspace() for piece in pieces])
  found = [document_starts[:-1]]
  for start in range(0, len(tokens), _TOKENS_AT_A_TIME):
    # Two tokens of the part before are read again, for a sentence that begins at the first of this one.
    before = max(start - 2, 0)
    part = np.asarray(tokens[before : start + _TOKENS_AT_A_TIME])
    ended = ends[part]
    ended[1:] |= closes[part[1:]] & ended[:-1]
    found.append(before + 1 + np.flatnonzero(ended[:-1] & opens[part[1:]]))
  return np.unique(np.concatenate(found))


class Pairs:
  """Pairs of stretches A and B for next-sentence prediction (arXiv:1810.04805, section 3.1 and A.2).

  Item i begins at the first sentence at or after token i x `most`; A and B are whole sentences, `most`
  tokens together, or what a single sentence leaves. Half the time B is what follows A in the document;
  else it is from elsewhere: from another document where there are several.
  """

  def __init__(self, tokens: np.ndarray, document_starts: np.ndarray, sentences: np.ndarray, most: int):
    self._tokens, self._documents, self._sentences, self._most = tokens, document_starts, sentences, most

  def __len__(self) -> int:
    return max(1, len(self._tokens) // self._most)

  def __getitem__(self, i: int) -> tuple["Pairs", int]:
    return self, i * self._most

  def draw(self, position: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, bool]:
    """Returns (A, B, whether B followed A): tokens without separators, `most` of them at most."""
    first = min(np.searchsorted(self._sentences, position), len(self._sentences) - 1)
    document, start = self._document(self._sentences[first]), int(self._sentences[first])
    # Without the separator at its end.
    last = int(self._documents[document + 1]) - 1
    end = min(last, start + self._most)
    # So that B is not a word or two.
    latest = end - self._most // 8
    inside = self._sentences[first + 1 : np.searchsorted(self._sentences, latest)]
    if not len(inside):
      # One long sentence: its two halves.
      inside = np.array([start + max(1, (end - start) // 2)])
    split = int(rng.choice(inside))
    A = self._tokens[start:split]
    follows = bool(rng.random() < 0.5) and split < end
    if follows:
      return A, self._tokens[split:end], True
    other = self._elsewhere(document, start, rng)
    end = int(self._documents[self._document(other) + 1]) - 1
    return A, self._tokens[other : min(end, other + self._most - len(A))], False

  def _document(self, position: int) -> int:
    return int(np.searchsorted(self._documents, position, side="right")) - 1

  def _elsewhere(self, document: int, start: int, rng: np.random.Generator) -> int:
    """Returns where a sentence of another document begins, or one far enough away in the only one."""
    for _ in range(100):
      other = int(self._sentences[rng.integers(len(self._sentences))])
      its = self._document(other)
      empty = other >= self._documents[its + 1] - 1
      apart = its != document if len(self._documents) > 2 else abs(other - start) >= 2 * self._most
      if apart and not empty:
        return other
    return other
