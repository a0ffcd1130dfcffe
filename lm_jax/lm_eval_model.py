"""A model for lm-evaluation-harness: `lm_eval --model lm_jax --model_args pretrained=DIR --tasks ...`.

It encodes, cuts and stops as the harness's own `hf` model does, so that both give the same weights the same
scores (arXiv:2405.14782). Importing this module registers it; `lm_eval` finds it by an entry point.
"""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import Collator, normalize_gen_kwargs, postprocess_generated_text

from lm_jax import chat_template, environment, interop, quantize, scaling
from lm_jax.generate import generate
from lm_jax.generation_config import GenerationConfig
from lm_jax.pretrained import Pretrained
from lm_jax.scorer import CausalScorer
from lm_jax.strict import ConfigError, nearest, require
from lm_jax.tokenizers.library import LibraryTokenizer

logger = logging.getLogger(__name__)

MAX_GEN_TOKS = 256  # where a task does not say, as the harness's `hf` model
AUTO_BATCH_SIZE = 16  # prompts
ARGUMENTS = (
  "pretrained", "max_length", "batch_size", "max_batch_size", "dtype", "weights", "add_bos_token",
  "prefix_token_id", "seed",
)  # fmt: skip
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "num_beams", "length_penalty")
# Words of `hf` that change nothing here: its own caches, and sampling that `temperature` says as well.
IGNORED = ("do_sample", "use_cache")


@register_model("lm_jax")
class LmJax(TemplateLM):
  """A causal language model that `interop.load` opens.

  Requests to score are put in batches of their own sizes, see lm_jax/row_scorer.py.
  """

  def __init__(
    self,
    pretrained: str | Path | Pretrained,
    max_length: int | None = None,
    batch_size: int | str = 1,
    max_batch_size: int | None = None,
    device: str | None = None,
    dtype: str = "auto",
    weights: str = "float32",
    add_bos_token: bool | None = None,
    prefix_token_id: int | None = None,
    seed: int = 0,
    **unknown: Any,
  ):
    """Takes `--model_args`, whose names are those of the `hf` model where it has them.

    Args:
      pretrained: what `interop.load` opens: a run, a folder, a GGUF file, a name on Hugging Face.
      max_length: tokens that are read at most; default: the model's context length.
      batch_size: prompts that are continued at a time, "auto": as many as `max_batch_size` or 16.
      device: of no effect; jax's devices are chosen by JAX_PLATFORMS.
      dtype: of activations and products: float32 or bfloat16; "auto": the model's.
      weights: how these are held: float32, bfloat16 or int8, see lm_jax/quantize.py.
      add_bos_token: whether texts begin with the BOS token; default: as the tokenizer does.
      prefix_token_id: what is before a text that has nothing before it; default: BOS, or the end of text.
      seed: of sampling.

    Raises:
      ConfigError: for other arguments, no such model, or one that is no causal language model of text.
    """
    super().__init__()
    del device
    if jax.config.jax_compilation_cache_dir is None:
      environment.enable_compilation_cache()
    for name in unknown:
      raise ConfigError(f"--model_args {name}: no such argument{nearest(name, ARGUMENTS)}")
    given = pretrained if isinstance(pretrained, Pretrained) else interop.load(pretrained, name="pretrained")
    self._pretrained = _in_dtype(given, dtype)
    self._text = self._pretrained.require_tokenizer("pretrained")
    model = self._pretrained.model
    require(model.causal, "pretrained", self.tokenizer_name, "a causal language model; this is an encoder")
    self._max_length = max_length or model.context_length
    self._batch_size = (max_batch_size or AUTO_BATCH_SIZE) if "auto" in str(batch_size) else int(batch_size)
    self._prefix, self._seed = prefix_token_id, seed
    self._begin = self._beginning(add_bos_token)
    marked = isinstance(self._text, LibraryTokenizer)
    self._encode = self._text.encode_marked if marked else self._text.encode
    is_ours = self._pretrained.params is not getattr(pretrained, "params", None)
    self._params = quantize.for_inference(self._pretrained.params, weights, donate=is_ours)
    self._pretrained = dataclasses.replace(self._pretrained, params=self._params)
    specials, length = self._pretrained.specials, self._max_length
    self._scorer = CausalScorer(model, self._params, None, specials, [self.prefix_token_id], length)

  # --- what the harness asks about a model --------------------------------------------------------

  @property
  def eot_token_id(self) -> int:
    return self._special("end")

  @property
  def prefix_token_id(self) -> int:
    if self._prefix is not None:
      return self._prefix
    if "bos" in self._pretrained.specials:
      return self._special("bos")
    return self._pretrained.begin[0] if self._pretrained.begin else self.eot_token_id

  @property
  def max_length(self) -> int:
    return self._max_length

  @property
  def batch_size(self) -> int:
    return self._batch_size

  @property
  def tokenizer_name(self) -> str:
    """A name of its own for every tokenizer: the harness keeps prompts by it."""
    return f"{self._pretrained.family}__{self._text.digest}"

  def chat_template(self, chat_template: bool | str = False) -> str | None:
    return self._pretrained.chat_template if chat_template else None

  def get_model_info(self) -> dict[str, Any]:
    """Returns what the harness puts in its results."""
    model = self._pretrained.model
    return {
      "model_num_parameters": scaling.count_params(model).total,
      "model_dtype": model.dtype,
      "model_identity": self._pretrained.identity,
    }

  def apply_chat_template(
    self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
  ) -> str:
    """Returns a conversation as one text; without it, the last message is to be continued."""
    template = self._pretrained.chat_template
    require(template is not None, "--apply_chat_template", True, "left out: the model has no chat template")
    how: dict[str, Any] = {
      "add_generation_prompt": add_generation_prompt,
      "continue_final_message": not add_generation_prompt,
      "specials": {f"{name}_token": text for name, text in self._spellings().items()},
    }
    try:
      return chat_template.render(template, chat_history, **how)
    except ConfigError:
      # As `hf` does: many templates know no system messages.
      plain = [message for message in chat_history if message["role"] != "system"]
      if len(plain) == len(chat_history):
        raise
      logger.warning("The chat template refuses the conversation: system messages left out")
      return chat_template.render(template, plain, **how)

  # --- text and tokens ----------------------------------------------------------------------------

  def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
    """Returns the ids of a text, special tokens that it spells out among them.

    Args:
      add_special_tokens: whether the beginning is put before it; default: unless the text spells it out.
    """
    del kwargs
    adds = not self._spells_beginning(string) if add_special_tokens is None else add_special_tokens
    return [*(self._begin if adds else ()), *self._encode(string)]

  def tok_decode(self, tokens: Sequence[int]) -> str:
    return self._text.decode(tokens)

  def _spells_beginning(self, string: str) -> bool:
    prefix = self._spelling(self.prefix_token_id)
    return bool(prefix) and string.startswith(prefix)

  def _spelling(self, i: int) -> str:
    """Returns what a special token is called in texts; "" where it has no name."""
    return next((name for name, control in self._text.controls.items() if control == i), "")

  def _spellings(self) -> dict[str, str]:
    """Returns the texts of special tokens by Hugging Face's names."""
    names = {"end": "eos"}
    found = {names.get(name, name): self._spelling(i) for name, i in self._pretrained.specials.items()}
    if self._pretrained.begin:
      found.setdefault("bos", self._spelling(self._pretrained.begin[0]))
    return found

  def _beginning(self, add_bos_token: bool | None) -> tuple[int, ...]:
    begin = self._pretrained.begin
    if add_bos_token is None or (add_bos_token and begin):
      return begin
    return (self._special("bos"),) if add_bos_token else ()

  def _special(self, name: str) -> int:
    specials = self._pretrained.specials
    if name not in specials:
      raise ConfigError(
        f"pretrained: its tokenizer has no token {name!r}, only {', '.join(sorted(specials))}"
      )
    return specials[name]

  # --- requests -----------------------------------------------------------------------------------

  def _loglikelihood_tokens(
    self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
  ) -> list[tuple[float, bool]]:
    del kwargs
    nothing = [self.prefix_token_id]
    pairs = [(context or nothing, tokens) for _, context, tokens in requests]
    found = self._scorer.loglikelihood_tokens(pairs)
    cut = sum(one.cut > 0 for one in found)
    if cut:
      logger.warning(
        "%d of %d contexts do not fit %d tokens: cut on the left", cut, len(found), self.max_length
      )
    answers = [(one.log_p, one.is_greedy) for one in found]
    for (texts, _, _), answer in zip(requests, answers, strict=True):
      self.cache_hook.add_partial("loglikelihood", texts, answer)
    return answers

  def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
    texts = [request.args[0] for request in requests]
    found = self._scorer.loglikelihood_rolling_tokens(
      list(map(self.tok_encode, texts)), [self.prefix_token_id]
    )
    for text, one in zip(texts, found, strict=True):
      self.cache_hook.add_partial("loglikelihood_rolling", (text,), one.log_p)
    return [one.log_p for one in found]

  def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
    asked = [request.args for request in requests]
    order = Collator(asked, sort_fn=lambda x: -len(x[0]), group_by="gen_kwargs", group_fn=lambda x: x[1])
    found = []
    for batch in order.get_batched(n=self._batch_size):
      texts, kwargs = [text for text, _ in batch], batch[0][1]
      for text, continuation in zip(texts, self._continued(texts, kwargs), strict=True):
        self.cache_hook.add_partial("generate_until", (text, kwargs), continuation)
        found.append(continuation)
    return order.get_original(found)

  def _continued(self, texts: Sequence[str], gen_kwargs: dict[str, Any]) -> Iterator[str]:
    """Yields the continuations of prompts, which lose their first tokens where they do not fit."""
    config, until = generation(gen_kwargs, self._seed)
    room = self.max_length - config.max_new_tokens
    require(
      room > 0, "max_gen_toks", config.max_new_tokens, f"below the {self.max_length} tokens of the context"
    )
    prompts = [self.tok_encode(text)[-room:] for text in texts]
    p = self._pretrained
    end = p.specials.get("end")
    for (one,) in generate(p.model, self._params, prompts, config, end=end, decode=self.tok_decode):
      yield postprocess_generated_text(self.tok_decode(one.tokens), until, None)


def generation(gen_kwargs: dict[str, Any], seed: int) -> tuple[GenerationConfig, list[str]]:
  """Returns how to go on, and what to stop before, of a task's `generation_kwargs`.

  Raises:
    ConfigError: for a word that has no counterpart here.
  """
  kwargs = dict(normalize_gen_kwargs(gen_kwargs, MAX_GEN_TOKS))
  until, max_new_tokens = [stop for stop in kwargs.pop("until") if stop], kwargs.pop("max_gen_toks")
  greedy = not kwargs.get("do_sample")
  fields = {name: value for name, value in kwargs.items() if name not in IGNORED}
  for name in fields:
    if name not in SAMPLING:
      raise ConfigError(f"generation_kwargs {name}: no such word{nearest(name, SAMPLING)}")
  if greedy:
    fields = {name: value for name, value in fields.items() if name not in ("top_k", "top_p", "min_p")}
    fields["temperature"] = 0.0
  config = GenerationConfig(
    max_new_tokens=max_new_tokens, stop=tuple(until), truncate=True, seed=seed, **fields
  )
  return config, until


def _in_dtype(p: Pretrained, dtype: str) -> Pretrained:
  require(dtype in ("auto", "float32", "bfloat16"), "dtype", dtype, "auto, float32 or bfloat16")
  return p if dtype == "auto" else dataclasses.replace(p, model=dataclasses.replace(p.model, dtype=dtype))
