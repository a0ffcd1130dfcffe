"""What few-shot evaluation asks of a model: likelihoods, written answers, and whether a prompt fits."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from lm_jax import conversation, text_generation
from lm_jax.generation_config import GenerationConfig
from lm_jax.pretrained import Pretrained
from lm_jax.prompt_tasks import Conversation
from lm_jax.scorer import CausalScorer, Likelihood, Progress, PseudoScorer
from lm_jax.strict import ConfigError

Prompt = str | Conversation


class Reader(Protocol):
  """A model, or what stands for one."""

  def loglikelihood(
    self, requests: Sequence[tuple[Prompt, str]], progress: Progress | None
  ) -> list[Likelihood]: ...

  def excess(self, requests: Sequence[tuple[Prompt, str | int]]) -> list[int]:
    """Returns by how many tokens each (context, what comes after) is too long, 0 or less where it fits.

    Args:
      requests: after a context comes a text, or so many tokens that the model writes.
    """
    ...

  def write(
    self, contexts: Sequence[Prompt], g: GenerationConfig, progress: Progress | None
  ) -> list[list[str]]:
    """Returns `g.num_return_sequences` answers to every context."""
    ...


class ModelReader:
  """A causal model reads as it was trained to; of a masked one a text's likelihood is the pseudo-one.

  Conversations are read by the model's chat template, and answers in them without the space before.
  """

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
    self, requests: Sequence[tuple[Prompt, str]], progress: Progress | None = None
  ) -> list[Likelihood]:
    if not _are_conversations([context for context, _ in requests]):
      return self._scorer.loglikelihood(requests, progress)
    turns = {context: self._turn(context).tokens for context, _ in requests}
    pairs = [(turns[context], self._answer(after)) for context, after in requests]
    return self._scorer.loglikelihood_tokens(pairs, progress)

  def excess(self, requests: Sequence[tuple[Prompt, str | int]]) -> list[int]:
    written = [after - 1 if isinstance(after, int) else 0 for _, after in requests]
    if _are_conversations([context for context, _ in requests]):
      read = (
        self._turn(context).tokens + (self._answer(after) if isinstance(after, str) else [])
        for context, after in requests
      )
      # What a text begins with is among a turn's tokens.
      lengths = [len(tokens) - len(self._p.begin) for tokens in read]
    else:
      texts = [context + (after if isinstance(after, str) else "") for context, after in requests]
      lengths = [len(ids) for ids in self._tokenizer.encode_batch(texts)]
    return [n + more - self._room for n, more in zip(lengths, written, strict=True)]

  def write(
    self, contexts: Sequence[Prompt], g: GenerationConfig, progress: Progress | None = None
  ) -> list[list[str]]:
    p, end = self._p, None
    if not p.model.causal:
      raise ConfigError("evaluate: an encoder writes no text; give it tasks of choices")
    if _are_conversations(contexts):
      turns = [self._turn(context) for context in contexts]
      rows, end = [turn.tokens for turn in turns], turns[0].end
      g = dataclasses.replace(g, stop=(*g.stop, *turns[0].stop))
    else:
      rows = [[*p.begin, *ids] for ids in self._tokenizer.encode_batch(contexts)]
    # There it is called with how many are finished altogether.
    found = text_generation.generate(p, rows, g, end=end, progress=progress and (lambda _: progress(1)))
    return [[one.text for one in of] for of in found]

  def shown(self, context: Prompt) -> str:
    """Returns a prompt as the model reads it."""
    if isinstance(context, str):
      return context
    return conversation.text(self._p, context.messages)

  def _turn(self, context: Conversation) -> conversation.Turn:
    if not self._p.model.causal:
      raise ConfigError("evaluate --chat: an encoder has no conversations; must be a causal model")
    return conversation.turn(self._p, context.messages)

  def _answer(self, text: str) -> list[int]:
    return conversation.answer_tokens(self._p, text.strip())


def _are_conversations(contexts: Sequence[Prompt]) -> bool:
  return bool(contexts) and isinstance(contexts[0], Conversation)
