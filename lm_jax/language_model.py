"""A language model in one's hands: `lm_jax.load(path)` returns it."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from lm_jax import environment, forward, interop, quantize, text_generation, weights_cost
from lm_jax.conversation import Message
from lm_jax.model_config import ModelConfig
from lm_jax.pretrained import Pretrained
from lm_jax.scorer import CausalScorer, PseudoScorer
from lm_jax.strict import ConfigError, require
from lm_jax.text_generation import Generated, Progress, Stream

Prompt = str | Sequence[int]
Pooling = Literal["mean", "first", "last"]


class LanguageModel:
  """A causal language model, or an encoder, with its parameters on the device.

  Attributes:
    config: what it is: sizes, and all that decides its numbers.
    params: of lm_jax.model.Transformer, nested dicts of arrays, or of lm_jax.quantize.Rows in fewer bits.
    pretrained: both, with the tokenizer, special tokens, and where it came from.
    held: the same, with parameters as they are held for inference: by rows on a CPU, see lm_jax/quantize.py.
  """

  def __init__(self, pretrained: Pretrained, *, donate: bool = False):
    """Puts the parameters on the device; see `load` for a model of a file.

    Args:
      donate: take `pretrained.params` apart meanwhile, so that there is one copy of them and not two.
    """
    params = pretrained.params
    if pretrained.model.causal:
      params = quantize.for_inference(params, "float32", donate=donate)
    self.held = dataclasses.replace(pretrained, params=jax.device_put(params))

  @classmethod
  def load(
    cls,
    path: str | Path,
    *,
    weights: str = "float32",
    report: Callable[[str], None] | None = None,
    name: str = "model",
  ) -> "LanguageModel":
    """Opens a model, see `lm_jax.load`.

    Compiled programs are kept in lm_jax's cache, unless jax was told of another.

    Args:
      report: takes a line about what weights in fewer bits save and cost, which is then measured.
      name: what the path is called in errors.
    """
    kinds = ", ".join(quantize.KINDS)
    require(weights in quantize.KINDS, name.replace("model", "weights"), weights, f"one of {kinds}")
    if jax.config.jax_compilation_cache_dir is None:
      environment.enable_compilation_cache()
    p = interop.load(path, name=name)
    if weights == "float32":
      return cls(p, donate=True)
    narrow = quantize.quantized(p.params, weights)
    if report is not None:
      report(weights_cost.remembered_report(p, narrow))
    return cls(dataclasses.replace(p, params=narrow))

  @property
  def config(self) -> ModelConfig:
    return self.held.model

  @property
  def params(self) -> Any:
    """On a CPU, those of a decoder in float32 are made of `held` anew at each use."""
    held = self.held.params
    return quantize.dequantized(held) if quantize.kind(held) == "float32" else held

  @property
  def pretrained(self) -> Pretrained:
    return dataclasses.replace(self.held, params=self.params)

  def __repr__(self) -> str:
    c = self.config
    kind = "causal" if c.causal else "encoder"
    return (
      f"LanguageModel({self.held.family}, {kind}, {c.num_layers} layers, d_model={c.d_model}, "
      f"vocab_size={c.vocab_size}, context_length={c.context_length})"
    )

  # --- text and tokens ----------------------------------------------------------------------------

  def tokenize(self, text: str, *, bare: bool = False) -> list[int]:
    """Returns a text's ids as the model reads it: a decoder's behind what begins a text, if it has that.

        model.detokenize(model.tokenize("Hello"))  # "Hello"

    An encoder's stand between [CLS] and [SEP]. No string in a text stands for a special token.

    Args:
      bare: the text's own ids only.
    """
    ids = self.held.require_tokenizer("tokenize").encode(text)
    if bare:
      return ids
    if self.config.causal:
      return [*self.held.begin, *ids]
    cls, sep = (self._special(name) for name in ("cls", "sep"))
    return [cls, *ids, sep]

  def detokenize(self, token_ids: Sequence[int]) -> str:
    """Returns the text of ids; special tokens have none."""
    return self.held.require_tokenizer("detokenize").decode(token_ids)

  def _special(self, name: str) -> int:
    if name not in self.held.specials:
      raise ConfigError(f"tokenize: the tokenizer has no special token {name!r}, which the encoder reads")
    return self.held.specials[name]

  # --- generation ---------------------------------------------------------------------------------

  def generate(
    self,
    prompt: Prompt | Sequence[Prompt],
    *,
    stream: Stream | None = None,
    progress: Progress | None = None,
    **settings: Any,
  ) -> list[Generated] | list[list[Generated]]:
    """Returns continuations of a prompt, or a list of them for each of several prompts.

        print(model.generate("Once upon a time", max_new_tokens=20)[0])
        model.generate("Once", num_return_sequences=3, temperature=0.8, top_p=0.9, seed=1)
        model.generate("Once", temperature=0, stop="\\n", stream=lambda text: print(text, end=""))

    Without settings, 50 tokens are drawn from the model's own distribution, and are the same every time.

    Args:
      prompt: text, or token ids, which are read as they are. An empty text is what begins one.
      stream: called with each new piece of text of one continuation of one prompt.
      progress: called with how many continuations are finished, whenever one is.
      settings: fields of lm_jax.generation_config.GenerationConfig: max_new_tokens, num_return_sequences,
        temperature, top_k, top_p, min_p, repetition_penalty, num_beams, length_penalty, early_stopping, stop
        (a text or several), ignore_end, truncate, seed.

    Raises:
      ConfigError: an encoder, a setting that is none, a prompt that does not fit the context.
    """
    g = text_generation.settings_of(settings)
    single, prompts = _prompts(prompt)
    rows = [self._prompt_ids(one) for one in prompts]
    found = text_generation.generate(self.held, rows, g, stream=stream, progress=progress)
    return found[0] if single else found

  def chat(self, messages: Sequence[Message], *, stream: Stream | None = None, **settings: Any) -> Generated:
    """Returns the model's answer in a conversation, which ends where its chat template ends one.

        model.chat([{"role": "user", "content": "Why is the sky blue?"}], temperature=0)

    A model without a template reads "User: ..." and "Assistant: ..." as plain text.

    Args:
      messages: {"role": "system", "user" or "assistant", "content": text}, the oldest first.
      stream: called with each new piece of the answer.
      settings: as of `generate`, for one answer. max_new_tokens is 512 by default, or what the context has
        left; `truncate` leaves out the oldest questions with their answers, an error otherwise.

    Raises:
      ConfigError: an encoder, no tokenizer, messages that the template refuses or that do not fit.
    """
    return text_generation.answer(self.held, messages, settings, stream=stream)

  def _prompt_ids(self, prompt: Prompt) -> list[int]:
    if not isinstance(prompt, str):
      return _ids(prompt, "prompt")
    p = self.held
    ids = [*p.begin, *p.require_tokenizer("generate").encode(prompt)]
    # As GPT-2 begins a text: with the token that ended the one before.
    return ids or [p.specials[name] for name in ("end",) if name in p.specials]

  # --- numbers ------------------------------------------------------------------------------------

  def logits(self, token_ids: Sequence[int] | Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
    """Returns the logits of what follows each token (of an encoder: of what stands there).

        model.logits([[1, 2, 3]]).shape  # (1, 3, model.config.vocab_size)
        model.logits(model.tokenize("Hello")).argmax(-1)

    Args:
      token_ids: int [B, T], or [T] for one sequence; nothing is put before them.

    Returns:
      float32 [B, T, V], or [T, V].

    Raises:
      ConfigError: an encoder without a head, ids outside the vocabulary, more tokens than the context has.
    """
    self._require_head("logits")
    tokens = _rectangle(token_ids, "logits")
    tokens_BT = np.atleast_2d(tokens)
    self._check(tokens_BT, "logits")
    out = forward.logits(self.config, self.held.params, tokens_BT)
    return out if tokens.ndim == 2 else out[0]

  def encode(
    self,
    texts: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]],
    *,
    pooling: Pooling | None = "mean",
    normalize: bool = True,
    truncate: bool = False,
  ) -> np.ndarray | list[np.ndarray]:
    """Returns an embedding of each text, or its hidden states.

        a, b = model.encode(["A cat.", "A dog."])
        similarity = a @ b  # cosine, in [-1, 1]
        model.encode("A cat.", pooling=None)  # [T, D]

    Args:
      texts: one or several; or token ids, which are read as they are.
      pooling: "mean" over tokens (Reimers and Gurevych, arXiv:1908.10084), an encoder's "first" token, a
        decoder's "last" one; None: no pooling.
      normalize: to length 1, where pooled.
      truncate: drop the end of what is longer than the context, which is an error otherwise.

    Returns:
      pooled: float32 [N, D], or [D] for one text. Not pooled: float32 [T, D] for each, of its own length.
    """
    self._check_pooling(pooling)
    single, given = _prompts(texts)
    rows = [self._sequence(one, truncate) for one in given]
    self._check(rows, "encode")
    states = forward.hidden(self.config, self.held.params, rows)
    if pooling is not None:
      states = _pooled(states, pooling, normalize, self.config.d_model)
    return states[0] if single else states

  def loglikelihood(
    self, context: str | Sequence[str], continuation: str | Sequence[str]
  ) -> float | list[float]:
    """Returns log p(continuation | context), nats, or one for each pair of two lists.

        model.loglikelihood("The capital of France is", " Paris")

    An encoder gives the pseudo-log-likelihood (arXiv:1910.14659). A context that is too long loses its first
    tokens.

    Raises:
      ConfigError: a continuation that is empty or longer than the context, lists of unequal lengths.
    """
    single = isinstance(context, str)
    same = isinstance(continuation, str) == single and (single or len(context) == len(continuation))
    require(same, "continuation", continuation, "one text for one context, or as many as there are contexts")
    pairs = [(context, continuation)] if single else list(zip(context, continuation, strict=True))
    found = [one.log_p for one in self._scorer().loglikelihood(pairs)]
    return found[0] if single else found

  def _scorer(self) -> CausalScorer | PseudoScorer:
    p = self.held
    self._require_head("loglikelihood")
    tokenizer = p.require_tokenizer("loglikelihood")
    if p.model.causal:
      return CausalScorer(p.model, p.params, tokenizer, p.specials, p.begin)
    return PseudoScorer(p.model, p.params, tokenizer, p.specials)

  def _sequence(self, text: str | Sequence[int], truncate: bool) -> list[int]:
    if not isinstance(text, str):
      ids = _ids(text, "encode")
      return ids[: self.config.context_length] if truncate else ids
    ids = self.tokenize(text)
    over = len(ids) - self.config.context_length
    if truncate and over > 0:  # an encoder's [SEP] stays
      ids = ids[:-over] if self.config.causal else [*ids[: -over - 1], ids[-1]]
    return ids

  def _require_head(self, what: str) -> None:
    if not self.config.lm_head:
      raise ConfigError(f"{what}: the model is a bare encoder, without an output layer; use encode")

  def _check_pooling(self, pooling: str | None) -> None:
    allowed = (None, "mean", "last" if self.config.causal else "first")
    why = ", whose first token sees no other" if self.config.causal else ""
    kind = "a decoder" if self.config.causal else "an encoder"
    words = ", ".join(map(repr, allowed))
    require(pooling in allowed, "encode: pooling", pooling, f"one of {words} for {kind}{why}")

  def _check(self, rows: Sequence[Sequence[int]] | np.ndarray, what: str) -> None:
    V, most = self.config.vocab_size, self.config.context_length
    for row in rows:
      require(len(row) > 0, f"{what}: token_ids", list(row), "at least one token")
      require(len(row) <= most, f"{what}: tokens", len(row), f"at most {most}, the model's context")
      low, high = min(row), max(row)
      require(0 <= low and high < V, f"{what}: token", int(low if low < 0 else high), f"from 0 to {V - 1}")


def _prompts(given: Any) -> tuple[bool, list[Any]]:
  """Returns (whether one is given, all of them): one is a text, or a list of ids."""
  if isinstance(given, str) or (len(given) and np.ndim(given[0]) == 0 and not isinstance(given[0], str)):
    return True, [given]
  return False, list(given)


def _ids(given: Sequence[int], what: str) -> list[int]:
  array = np.asarray(given)
  integers = array.ndim == 1 and (array.size == 0 or np.issubdtype(array.dtype, np.integer))
  require(integers, f"{what}: token_ids", given, "a text, or a list of integers")
  return array.tolist()


def _rectangle(token_ids: Any, what: str) -> np.ndarray:
  """Returns ids as an integer array, [T] or [B, T]."""
  try:
    tokens = np.asarray(token_ids)
  except ValueError:
    raise ConfigError(f"{what}: token_ids: must be of one length, [B, T]; give others apart") from None
  fits = tokens.ndim in (1, 2) and np.issubdtype(tokens.dtype, np.integer)
  require(fits, f"{what}: token_ids", f"{tokens.dtype} {list(tokens.shape)}", "integers [B, T] or [T]")
  return tokens


def _pooled(states: Sequence[np.ndarray], pooling: str, normalize: bool, width: int) -> np.ndarray:
  """Returns float32 [N, D]."""
  reduce = {"mean": lambda x: x.mean(0), "first": lambda x: x[0], "last": lambda x: x[-1]}[pooling]
  x_ND = np.stack([reduce(x) for x in states]) if states else np.zeros((0, width), np.float32)
  return x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12) if normalize else x_ND
