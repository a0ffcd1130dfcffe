"""A trained language model: what it is, its parameters and its tokenizer, wherever it came from."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lm_jax.model import Transformer
from lm_jax.model_config import ModelConfig
from lm_jax.param_paths import flat, nested
from lm_jax.strict import ConfigError
from lm_jax.tokenizers import Tokenizer

TOKENIZER = "tokenizer"  # folder of a run, a model or a classifier
LISTED = 10  # differences named in one line


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A language model of text.

  Attributes:
    model: resolved.
    params: of lm_jax.model.Transformer, nested dicts of numpy or jax arrays, float32.
    tokenizer: None where the model came without one; it then takes ids only.
    specials: ids of special tokens: the tokenizer's, those that its task added, and "bos" where the model
      names one, which is not to say that texts begin with it.
    begin: ids that it expects before every text: Llama's BOS, a run's separator; () for GPT-2.
    chat_template: Jinja, as in tokenizer_config.json.
    family: "lm_jax", or the format it was read from: "gpt2", "gpt_neox", "llama", "bert".
    identity: two models with equal identities are the same numbers.
    step: updates that made them; 0: unknown, or none.
  """

  model: ModelConfig
  params: Any
  tokenizer: Tokenizer | None = None
  specials: dict[str, int] = dataclasses.field(default_factory=dict)
  begin: tuple[int, ...] = ()
  chat_template: str | None = None
  family: str = "lm_jax"
  identity: dict[str, Any] = dataclasses.field(default_factory=dict)
  step: int = 0

  def require_tokenizer(self, name: str = "--model") -> Tokenizer:
    """Returns the tokenizer; raises ConfigError, one line, if there is none."""
    if self.tokenizer is None:
      raise ConfigError(f"{name}: the model has no tokenizer, so text cannot be used with it; give token ids")
    return self.tokenizer


def check_tokenizer(model: ModelConfig, tokenizer: Tokenizer | None, where: str) -> None:
  """Raises ConfigError if a tokenizer has ids that the model has no embedding for."""
  if tokenizer is not None and tokenizer.vocab_size > model.vocab_size:
    raise ConfigError(
      f"{where}: its tokenizer has {tokenizer.vocab_size} tokens, but the model's vocab_size is "
      f"{model.vocab_size}"
    )


def shapes(model: ModelConfig) -> Any:
  """Returns the tree of jax.ShapeDtypeStruct of a model's parameters."""
  # The tree does not depend on the length; a short one is quicker to trace.
  tokens = jax.ShapeDtypeStruct((1, min(8, model.context_length)), jnp.int32)
  key = jax.ShapeDtypeStruct((2,), jnp.uint32)
  init = lambda key, tokens: Transformer(model).init(jax.random.wrap_key_data(key), tokens)  # noqa: E731
  return jax.eval_shape(init, key, tokens)["params"]


def block_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
  """Returns {path: shape} of the parameters of a model whose blocks are apart, whatever its depth."""
  # Tables of positions that are no parameters would be made in the sizes of a model that may be broken.
  positions = "learned" if model.positions == "learned" else "none"
  alike: dict[str, Any] = {"num_layers": 1, "scan_layers": False, "remat": "none", "positions": positions}
  one = flat(shapes(dataclasses.replace(model, **alike)))
  found = {}
  for path, leaf in one.items():
    owner, _, rest = path.partition("/")
    owners = [f"block_{i}/{rest}" for i in range(model.num_layers)] if owner == "block_0" else [path]
    found |= dict.fromkeys(owners, tuple(leaf.shape))
  return found


def untrained(p: Pretrained, seed: int = 0) -> Pretrained:
  """Returns the same model as its `initializer` draws it, a control."""
  tokens = jnp.zeros((1, min(8, p.model.context_length)), jnp.int32)
  init = jax.jit(lambda: Transformer(p.model).init(jax.random.key(seed), tokens)["params"])
  return dataclasses.replace(p, params=init(), step=0, identity={**p.identity, "untrained": seed})


def unstacked(p: Pretrained) -> Pretrained:
  """Returns the model with its blocks apart, block_0, block_1, ..., and not stacked by scan_layers."""
  if not p.model.scan_layers:
    return p
  leaves = {}
  for path, leaf in flat(p.params).items():
    owner, _, rest = path.partition("/")
    parts = {f"block_{i}/{rest}": leaf[i] for i in range(p.model.num_layers)} if owner == "blocks" else None
    leaves |= parts or {path: leaf}
  model = dataclasses.replace(p.model, scan_layers=False)
  return dataclasses.replace(p, model=model, params=nested(leaves))


def check_fit(params: Any, expected: Any, where: str) -> None:
  """Raises ConfigError, "WHERE: every difference", unless two trees have the same names and shapes."""
  have, want = ({path: tuple(x.shape) for path, x in flat(tree).items()} for tree in (params, expected))
  differences = mismatches(have, want)
  if differences:
    raise ConfigError(f"{where}: {listed(differences)}")


def mismatches(have: Mapping[str, tuple[int, ...]], want: Mapping[str, tuple[int, ...]]) -> list[str]:
  """Returns what is missing, extra or misshapen among tensors of some names, given their shapes."""
  differences = [f"{path} is missing" for path in want if path not in have]
  differences += [f"{path} is not the model's" for path in have if path not in want]
  return differences + [
    f"{path} is {list(have[path])}, not {list(want[path])}"
    for path in want
    if path in have and tuple(have[path]) != tuple(want[path])
  ]


def listed(differences: Sequence[str]) -> str:
  """Returns differences as one line: the first ones, and how many more there are."""
  shown = "; ".join(differences[:LISTED])
  return shown + (f"; and {len(differences) - LISTED} more" if len(differences) > LISTED else "")
