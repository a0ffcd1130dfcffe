"""What few-shot evaluation asks of a model: likelihoods, written answers, and whether a prompt fits."""

from collections.abc import Sequence
from typing import Protocol

from lm_jax import text_generation
from lm_jax.generation_config import GenerationConfig
from lm_jax.pretrained import Pretrained
from lm_jax.scorer import CausalScorer, Likelihood, Progress, PseudoScorer
from lm_jax.strict import ConfigError


class Reader(Protocol):
  """A model, or what stands for one."""

  def loglikelihood(
    self, requests: Sequence[tuple[str, str]], progress: Progress | None
  ) -> list[Likelihood]: ...

  def excess(self, requests: Sequence[tuple[str, str | int]]) -> list[int]:
    """Returns by how many tokens each (context, what comes after) is too long, 0 or less where it fits.

    Args:
      requests: after a context comes a text, or so many tokens that the model writes.
    """
    ...

  def write(self, contexts: Sequence[str], g: GenerationConfig, progress: Progress | None) -> list[list[str]]:
    """Returns `g.num_return_sequences` answers to every context."""
    ...


class ModelReader:
  """A causal model reads as it was trained to; of a masked one a text's likelihood is the pseudo-one."""

  def __init__(self, p: Pretrained):
    """Takes a model with its parameters on the device; raises ConfigError for one without a tokenizer."""
    self._p, self._tokenizer = p, p.require_tokenizer("evaluate")
    if p.model.causal:
      self._scorer = CausalScorer(p.model, p.params, self._tokenizer, p.specials, p.begin)
    else:
      self._scorer = PseudoScorer(p.model, p.params, self._tokenizer, p.specials)
    # A causal model does not read the last token of what it scores; around an encoder's text are two more.
    self._room = p.model.context_length + 1 - len(p.begin) if p.model.causal else p.model.context_length - 2

  def loglikelihood(
    self, requests: Sequence[tuple[str, str]], progress: Progress | None = None
  ) -> list[Likelihood]:
    return self._scorer.loglikelihood(requests, progress)

  def excess(self, requests: Sequence[tuple[str, str | int]]) -> list[int]:
    texts = [context + (after if isinstance(after, str) else "") for context, after in requests]
    lengths = map(len, self._tokenizer.encode_batch(texts))
    written = [after - 1 if isinstance(after, int) else 0 for _, after in requests]
    return [n + more - self._room for n, more in zip(lengths, written, strict=True)]

  def write(
    self, contexts: Sequence[str], g: GenerationConfig, progress: Progress | None = None
  ) -> list[list[str]]:
    p = self._p
    if not p.model.causal:
      raise ConfigError("evaluate: an encoder writes no text; give it tasks of choices")
    rows = [[*p.begin, *ids] for ids in self._tokenizer.encode_batch(contexts)]
    # There it is called with how many are finished altogether.
    found = text_generation.generate(p, rows, g, progress=progress and (lambda _: progress(1)))
    return [[one.text for one in of] for of in found]
