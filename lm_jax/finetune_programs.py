"""Fine-tuning one classifier on one draw, and scoring it: pure functions, and programs over many draws.

R runs of one method that differ in data only, which examples and which initial head, are one program, as in
population.py: vmapped on an accelerator, mapped one after another on a CPU. The numbers of examples are data
as well (every run has batches of one size), so that one program serves every k.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from lm_jax import lora, metrics, optimizer
from lm_jax.config import OptimizerConfig
from lm_jax.finetune_config import FinetuneConfig
from lm_jax.model import Classifier
from lm_jax.model_config import ModelConfig
from lm_jax.state import stream

HEAD = ("pooler", "classifier")  # parameters that are a classifier's own; an encoder's pooler may be trained
EMBEDDINGS = ("embedding", "positions", "segments")
SCORE_BATCH = 64  # sequences that are scored at a time
ITEM_SCORES = ("accuracy", "nll", "choice_prob", "brier")

# Independent streams of random numbers of one draw.
_PARAMS, _LORA, _DROPOUT = range(3)


class Examples(struct.PyTreeNode):
  """N labeled sequences: tokens int32 [N, T], lengths int32 [N], labels int32 [N]."""

  tokens: jax.Array
  lengths: jax.Array
  labels: jax.Array


class Draw(struct.PyTreeNode):
  """What one run is trained on; a leading axis R makes it many.

  Attributes:
    key: uint32 [2], of the initial head and LoRA factors, and of dropout.
    batches: int32 [max_steps, B], rows of the examples.
    dev: int32 [N], rows of the examples that choose the step.
  """

  key: jax.Array
  batches: jax.Array
  dev: jax.Array


class Result(struct.PyTreeNode):
  """What a run gave, at the step that was best on dev.

  Attributes:
    trained: the trained parameters; `assemble` gives the whole model's.
    step: int32 [], updates that made them; 0 if no look at dev had a finite NLL.
    accuracy, nll: float32 [], on dev.
  """

  trained: Any
  step: jax.Array
  accuracy: jax.Array
  nll: jax.Array


class _State(struct.PyTreeNode):
  step: jax.Array
  trained: Any
  opt_state: Any
  best: Result
  looks_without: jax.Array  # since the best one


@dataclasses.dataclass(frozen=True)
class Method:
  """What is trained. `base` is a pretrained trunk; `params` are a whole classifier's.

  Attributes:
    start: (params, key) -> trained.
    assemble: (base, trained) -> params.
  """

  start: Callable[[Any, jax.Array], Any]
  assemble: Callable[[Any, Any], Any]


def _head(params: Any) -> Any:
  return {name: params[name] for name in HEAD if name in params}


def make_method(c: FinetuneConfig, name: str) -> Method:
  if name == "full":
    return Method(lambda params, key: params, lambda base, trained: trained)
  if name == "head":
    return Method(lambda params, key: _head(params), lambda base, trained: {**base, **trained})

  def start(params: Any, key: jax.Array) -> Any:
    factors = lora.init(params, c.lora.rank, key, c.lora.targets)
    return {"lora": factors, "head": _head(params)}

  def assemble(base: Any, trained: Any) -> Any:
    return {**lora.merge(base, trained["lora"], c.lora.alpha), **trained["head"]}

  return Method(start, assemble)


def optimizer_config(c: FinetuneConfig, method: str) -> OptimizerConfig:
  o = c.optimizer
  return OptimizerConfig(
    name="adamw", learning_rate=getattr(o.learning_rate, method), schedule="linear", final_fraction=0.0,
    warmup_steps=o.warmup_steps, weight_decay=o.weight_decay, beta1=o.beta1, beta2=o.beta2,
    epsilon=o.epsilon, clip_norm=o.clip_norm,
  )  # fmt: skip


def trunk(model: ModelConfig, params: Any, num_classes: int) -> Any:
  """Returns what of a language model's parameters its classifier has too."""
  shapes = jax.eval_shape(lambda: init_params(model, num_classes, np.zeros(2, np.uint32)))
  return {name: params[name] for name in shapes if name in params}


def init_params(model: ModelConfig, num_classes: int, key: jax.Array | np.ndarray) -> Any:
  """Returns a whole classifier's initial parameters."""
  tokens = jnp.zeros((1, model.context_length), jnp.int32)
  return Classifier(model, num_classes).init(stream(key, _PARAMS), tokens)["params"]


def apply(
  model: ModelConfig, num_classes: int, params: Any, tokens_BT: jax.Array, lengths_B: jax.Array,
  dropout_key: jax.Array | None = None,
) -> jax.Array:  # fmt: skip
  """Returns the logits of the classes, float32 [B, C]; with a key, dropout is applied."""
  # A decoder's last token does not see the padding behind it.
  documents = None
  if not model.causal:
    documents = (jnp.arange(tokens_BT.shape[1])[None] < lengths_B[:, None]).astype(jnp.int32)
  return Classifier(model, num_classes).apply(
    {"params": params}, tokens_BT, last_B=lengths_B - 1, documents_BT=documents,
    deterministic=dropout_key is None, rngs=None if dropout_key is None else {"dropout": dropout_key},
  )  # fmt: skip


class Programs:
  """The programs of one method.

  Attributes:
    params_trained: how many parameters it trains.
  """

  def __init__(self, c: FinetuneConfig, model: ModelConfig, num_classes: int, method: str, base: Any,
               *, side_by_side: bool | None = None):  # fmt: skip
    """Makes the programs; nothing is compiled yet.

    Args:
      base: the trunk's parameters, which every run starts from.
      side_by_side: vmap; by device, see above.
    """
    if side_by_side is None:
      side_by_side = jax.devices()[0].platform != "cpu"
    self._base = base
    self._c, self._model, self._num_classes, self._method = c, model, num_classes, make_method(c, method)
    self._optimizer = optimizer_config(c, method)
    self._train = jax.jit(_over_runs(self._train_one, side_by_side))
    self._score = jax.jit(_over_runs(self._score_one, side_by_side))
    self.params_trained = count(jax.eval_shape(self.start, base, np.zeros(2, np.uint32)))

  def train(self, examples: Examples, draws: Draw) -> Result:
    """Trains R runs; every leaf of what it takes of `draws` and returns has a leading axis R."""
    return self._train(draws, self._base, examples)

  def score(self, trained: Any, examples: Examples, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the scores of R runs, {name: float32 [R, N]}, on rows [R, N] of the examples."""
    runs, count = rows.shape
    size = min(SCORE_BATCH, count)
    # The last batch is filled up with rows that are not looked at again.
    filled = np.concatenate([rows, np.broadcast_to(rows[:, :1], (runs, -count % size))], axis=1)
    scores = self._score((trained, filled.reshape(runs, -1, size)), self._base, examples)
    return {name: np.asarray(value).reshape(runs, -1)[:, :count] for name, value in scores.items()}

  def assemble(self, trained: Any) -> Any:
    """Returns the whole parameters of one run."""
    return self._method.assemble(self._base, trained)

  def params_total(self) -> tuple[int, int]:
    """Returns how many parameters the classifier has, in total and without embeddings."""
    key = np.zeros(2, np.uint32)
    shapes = jax.eval_shape(lambda: init_params(self._model, self._num_classes, key))
    return count(shapes), count({name: x for name, x in shapes.items() if name not in EMBEDDINGS})

  # --- of one run -------------------------------------------------------------------------------

  def start(self, base: Any, key: jax.Array) -> Any:
    params = {**init_params(self._model, self._num_classes, key), **base}
    return self._method.start(params, stream(key, _LORA))

  def _logits(
    self, base: Any, trained: Any, examples: Examples, rows: jax.Array, key: jax.Array | None = None
  ) -> jax.Array:
    params = self._method.assemble(base, trained)
    tokens, lengths = examples.tokens[rows], examples.lengths[rows]
    return apply(self._model, self._num_classes, params, tokens, lengths, key)

  def update(self, base: Any, examples: Examples, draw: Draw, step: jax.Array, carry: tuple) -> tuple:
    trained, opt_state = carry
    rows = draw.batches[step]
    key = stream(draw.key, _DROPOUT, step) if self._model.dropout else None

    def loss(trained: Any) -> jax.Array:
      logits = self._logits(base, trained, examples, rows, key)
      return optax.softmax_cross_entropy_with_integer_labels(logits, examples.labels[rows]).mean()

    updates, opt_state = self.optimizer_at(step).update(jax.grad(loss)(trained), opt_state, trained)
    return optax.apply_updates(trained, updates), opt_state

  def optimizer_at(self, step: jax.Array | int) -> optax.GradientTransformation:
    o = self._optimizer
    lengths = {"learning_rate": o.learning_rate, "warmup_steps": o.warmup_steps,
               "num_steps": self._c.max_steps}  # fmt: skip
    h = {name: jnp.float32(value) for name, value in lengths.items()}
    return optimizer.make_optimizer(o, optimizer.learning_rate(o, h, jnp.asarray(step)), o.weight_decay)

  def _train_one(self, draw: Draw, base: Any, examples: Examples) -> Result:
    c = self._c

    def look(s: _State) -> _State:
      """Trains up to the next look at dev, and looks."""
      end = jnp.minimum(s.step + c.eval_every, c.max_steps)
      trained, opt_state = jax.lax.fori_loop(
        s.step, end, lambda i, carry: self.update(base, examples, draw, i, carry), (s.trained, s.opt_state)
      )
      now = self._on_dev(base, trained, examples, draw, end)
      is_better = _is_better(now, s.best)
      best = jax.tree.map(lambda new, old: jnp.where(is_better, new, old), now, s.best)
      return _State(end, trained, opt_state, best, jnp.where(is_better, 0, s.looks_without + 1))

    trained = self.start(base, draw.key)
    none = Result(trained, jnp.int32(0), jnp.float32(-1), jnp.float32(jnp.inf))
    s = _State(jnp.int32(0), trained, self.optimizer_at(0).init(trained), none, jnp.int32(0))
    go_on = lambda s: (s.step < c.max_steps) & (s.looks_without < c.patience)  # noqa: E731
    return jax.lax.while_loop(go_on, look, s).best

  def _on_dev(self, base: Any, trained: Any, examples: Examples, draw: Draw, step: jax.Array) -> Result:
    scores = _token_scores(self._logits(base, trained, examples, draw.dev), examples.labels[draw.dev])
    return Result(trained, step, scores["accuracy"].mean(), scores["nll"].mean())

  def _score_one(self, run: tuple[Any, jax.Array], base: Any, examples: Examples) -> dict[str, jax.Array]:
    trained, rows_batches = run

    def batch(rows: jax.Array) -> dict[str, jax.Array]:
      return _token_scores(self._logits(base, trained, examples, rows), examples.labels[rows])

    return jax.lax.map(batch, rows_batches)


def _over_runs(function: Callable, side_by_side: bool) -> Callable:
  """Returns the function over a leading axis of its first argument; the runs share the others."""

  def over_runs(runs: Any, *shared: Any) -> Any:
    one = lambda run: function(run, *shared)  # noqa: E731
    return jax.vmap(one)(runs) if side_by_side else jax.lax.map(one, runs)

  return over_runs


def _is_better(now: Result, best: Result) -> jax.Array:
  """Compares by accuracy, of which a small dev set has many ties, then by NLL; none is no number."""
  higher = (now.accuracy > best.accuracy) | ((now.accuracy == best.accuracy) & (now.nll < best.nll))
  return higher & jnp.isfinite(now.nll)


def _token_scores(logits_BC: jax.Array, labels_B: jax.Array) -> dict[str, jax.Array]:
  choices = np.arange(logits_BC.shape[-1], dtype=np.int32)
  scores = metrics.token_scores(logits_BC[:, None], labels_B[:, None], choices)
  return {name: scores[name][:, 0] for name in ITEM_SCORES}


def count(tree: Any) -> int:
  """Returns the number of parameters of a tree."""
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))
