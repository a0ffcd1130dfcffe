"""The text of tokens that go on another text, also while it grows."""

from collections.abc import Sequence

from lm_jax.tokenizers import Tokenizer

_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what decoders give for bytes that are no whole character
_BEFORE = "a"


class ContinuationText:
  """Decodes continuations, which end before the first of the `stop` strings.

  Where words carry the space before them, decoders drop that of a text's first word. So tokens are decoded
  after a letter, which is taken off again.
  """

  def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
    self._tokenizer, self._stop = tokenizer, tuple(stop)
    self._before = tokenizer.encode(_BEFORE)
    self._start = tokenizer.decode(self._before)

  def decode(self, tokens: Sequence[int]) -> str:
    """Returns the text of tokens that stand after others, stop strings included."""
    whole = self._tokenizer.decode([*self._before, *tokens])
    return whole[len(self._start) :] if whole.startswith(self._start) else self._tokenizer.decode(tokens)

  def __call__(self, tokens: Sequence[int], *, opens: bool = False) -> str:
    """Returns the text of a whole continuation, up to a stop string.

    Args:
      opens: nothing that can be read stands before it, so that its first word is a text's first.
    """
    text = self._cut(self.decode(tokens))
    return text.removeprefix(" ") if opens and not self._tokenizer.decode(tokens).startswith(" ") else text

  def settled(self, tokens: Sequence[int], *, opens: bool = False) -> str:
    """Returns what more tokens cannot change: no part of a character, and none of what may become a stop."""
    text = self(tokens, opens=opens).rstrip(_INCOMPLETE)
    begun = [n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return text[: len(text) - max(begun, default=0)]

  def _cut(self, text: str) -> str:
    found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
    return text[: min(found)] if found else text
