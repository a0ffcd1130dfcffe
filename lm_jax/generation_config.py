"""How a language model is asked to go on: how much, how it chooses, and when it stops."""

import dataclasses

from lm_jax.strict import require

WEIGHTS = ("float32", "bfloat16", "int8")  # what matrices are held in, see lm_jax.quantize


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
  """The words and the meanings are those of Hugging Face's `generate`.

  A token is drawn from softmax(logits / temperature) after what is unlikely has been left out: all but the
  `top_k` most likely (Fan et al., arXiv:1805.04833), all but the smallest set of total probability `top_p`
  (Holtzman et al., arXiv:1904.09751), all less likely than `min_p` times the most likely one
  (arXiv:2407.01082), in this order. Tokens that tie with the last one kept are kept.
  """

  max_new_tokens: int = 50
  num_return_sequences: int = 1  # continuations of each prompt
  temperature: float = 1.0  # 0: the most likely token, always
  top_k: int | None = None
  top_p: float | None = None
  min_p: float | None = None
  # Logits of tokens seen before, in the prompt too, are divided by it where positive, else multiplied
  # (Keskar et al., arXiv:1909.05858).
  repetition_penalty: float = 1.0
  # More than 1: beam search; continuations are its best ones, and the fields of sampling must be unset.
  num_beams: int = 1
  length_penalty: float = 1.0  # beams are ranked by log p / length^length_penalty
  early_stopping: bool = False  # beams: stop with the first `num_beams` that are finished
  stop: tuple[str, ...] = ()  # a continuation ends before the first of these
  ignore_end: bool = False  # go on after the end of text, to max_new_tokens
  truncate: bool = False  # drop the beginning of a prompt that is too long, which is an error otherwise
  seed: int = 0

  @property
  def is_greedy(self) -> bool:
    return self.temperature == 0


def check(g: GenerationConfig, path: str = "") -> None:
  """Raises ConfigError, where `path` is what stands before a field's name in it, e.g. "--"."""

  def must(ok: bool, name: str, allowed: str) -> None:
    require(ok, f"{path}{name}", getattr(g, name), allowed)

  for name in ("max_new_tokens", "num_return_sequences", "num_beams", "repetition_penalty", "top_k"):
    value = getattr(g, name)
    must(value is None or value > 0, name, "greater than 0")
  must(g.temperature >= 0, "temperature", "0 or greater")
  must(g.top_p is None or 0 < g.top_p <= 1, "top_p", "in (0, 1]")
  must(g.min_p is None or 0 <= g.min_p <= 1, "min_p", "in [0, 1]")
  must(0 <= g.seed < 2**32, "seed", "in [0, 2**32)")
  must(all(g.stop), "stop", "texts that are not empty")
  if g.num_beams > 1:
    for name in ("top_k", "top_p", "min_p"):
      must(getattr(g, name) is None, name, f"unset for num_beams={g.num_beams}, which draws nothing")
    must(g.temperature in (0, 1), "temperature", f"0 or 1 for num_beams={g.num_beams}, which draws nothing")
    must(g.num_return_sequences <= g.num_beams, "num_return_sequences", f"at most num_beams={g.num_beams}")
  elif g.is_greedy:
    must(g.num_return_sequences == 1, "num_return_sequences", "1 for temperature=0: they would be the same")
