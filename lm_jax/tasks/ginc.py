"""GINC (Xie et al., arXiv:2111.02080): in-context learning that comes of pretraining on a mixture of HMMs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lm_jax import task_configs
from lm_jax.tasks import hidden_markov
from lm_jax.tasks.base import Batch, Split, Task, next_token_batch

# An accelerator's own precision of products would round answers that are nearly tied.
_EXACT = functools.partial(jax.default_matmul_precision, "highest")
# Prompts by which the share of the most frequent answer, and the Bayes curve, are measured; the same always.
_MEASURED_SEED, _CHANCE_PROMPTS, _BAYES_PROMPTS = 2021, 2**14, 2**10


class Ginc(Task):
  """Go on with prompts after pretraining on documents (see `task_configs.Ginc`).

  A training sequence is a window of a document, at a uniform place; every token counts. A test sequence is a
  prompt: a concept and a slot other than the delimiter's are drawn, and each example begins in that slot with
  a value of its own, and follows the concept's moves for k tokens. The first k - 1 are x. An example's last
  token in the prompt is drawn; what is asked for in its place is the most probable one given the example's x,
  the concept and the slot. So one prompt asks for n = 0, 1, ... examples.

  Prompts are not documents: their examples are independent, and the step from a delimiter to the next example
  may be impossible under every concept. That is why the yardstick is what is best on prompts, and no ideal
  model of documents. An answer may be the delimiter, and answers are not equally likely: chance is the share
  of the most frequent one over 16,384 prompts.
  """

  def __init__(self, config: task_configs.Ginc):
    c = config
    self.config = c
    self.mixture = hidden_markov.draw(c)
    self.data_digest = self.mixture.digest()
    self.arrays = jnp.asarray(self.mixture.documents_DL)
    self.choices = np.arange(c.vocab_size, dtype=np.int32)
    self.shots = np.arange(c.max_shots + 1, dtype=np.int32)
    self.answer_length = 1
    self.window = min(4, c.max_shots + 1)
    self._slot_CSS = self.mixture.slot_CSS.astype(np.float32)
    self.chance = self._share_of_the_most_frequent_answer()

  def _share_of_the_most_frequent_answer(self) -> float:
    c, m = self.config, self.mixture
    rng = np.random.default_rng(_MEASURED_SEED)
    x_BK, concept_B, first_B = hidden_markov.draw_examples(m, _CHANCE_PROMPTS, c.example_length - 1, rng)
    slot_BSS = m.slot_CSS[concept_B]
    _, state_BNS = hidden_markov.read(m, x_BK, np.eye(c.num_slots)[first_B], slot_BSS)
    answer_B = hidden_markov.next_token(m, state_BNS, slot_BSS, c.vocab_size).argmax(axis=1)
    return float(np.bincount(answer_B).max() / _CHANCE_PROMPTS)

  def sample(self, key: jax.Array, batch_size: int, arrays=(), split: Split = "train") -> Batch:
    c = self.config
    if split == "train":
      documents_DL = arrays
      document_key, place_key = jax.random.split(key)
      last = c.document_length - c.sequence_length
      document_B1 = jax.random.randint(document_key, (batch_size, 1), 0, c.num_documents)
      first_B1 = jax.random.randint(place_key, (batch_size, 1), 0, last)
      window_BS = documents_DL[document_B1, first_B1 + np.arange(c.sequence_length + 1)[None]]
      return next_token_batch(window_BS, range(c.sequence_length))
    tokens_BQK, answer_BQ = self._draw_prompts(key, batch_size, c.max_shots + 1)
    items_BQI = jnp.pad(tokens_BQK, ((0, 0), (0, 0), (0, 1)), constant_values=c.DELIMITER)
    # The last example's own last token is not read; beyond it a prompt is filled up with delimiters.
    prompt_BS = items_BQI.reshape(batch_size, -1)[:, :-2]
    fill = c.sequence_length + 1 - prompt_BS.shape[1]
    batch = next_token_batch(
      jnp.pad(prompt_BS, ((0, 0), (0, fill)), constant_values=c.DELIMITER), c.label_positions
    )
    return batch.replace(targets=batch.targets.at[:, np.array(c.label_positions)].set(answer_BQ))

  def _draw_prompts(self, key: jax.Array, batch_size: int, num: int) -> tuple[jax.Array, jax.Array]:
    """Draws `num` examples a prompt: their tokens, int32 [B, Q, K], and answers, int32 [B, Q]."""
    c = self.config
    concept_key, slot_key, value_key, *move_keys = jax.random.split(key, 3 + 2 * (c.example_length - 1))
    concept_B1 = jax.random.randint(concept_key, (batch_size, 1), 0, c.num_concepts)
    first_B1 = jax.random.randint(slot_key, (batch_size, 1), 1, c.num_slots)
    value_BQ = jax.random.randint(value_key, (batch_size, num), 0, c.num_values)
    slot_BQ = jnp.broadcast_to(first_B1, value_BQ.shape)
    memory_NS, log_value_NN, log_slot_CSS = map(
      jnp.asarray, (self.mixture.memory_NS, _log(self.mixture.value_NN), _log(self._slot_CSS))
    )
    tokens = [memory_NS[value_BQ, slot_BQ]]
    for value_move, slot_move in zip(move_keys[::2], move_keys[1::2], strict=True):
      value_BQ = jax.random.categorical(value_move, log_value_NN[value_BQ])
      slot_BQ = jax.random.categorical(slot_move, log_slot_CSS[concept_B1, slot_BQ])
      tokens.append(memory_NS[value_BQ, slot_BQ])
    tokens_BQK = jnp.stack(tokens, axis=2)
    slot_B1SS = jnp.asarray(self._slot_CSS)[concept_B1]
    with _EXACT():
      start_B1S = jax.nn.one_hot(first_B1, c.num_slots)
      _, state_BQNS = hidden_markov.read(self.mixture, tokens_BQK[..., :-1], start_B1S, slot_B1SS)
      p_BQV = hidden_markov.next_token(self.mixture, state_BQNS, slot_B1SS, c.vocab_size)
    return tokens_BQK, p_BQV.argmax(axis=2).astype(jnp.int32)

  def bayes_predict(self, batch: Batch) -> jax.Array:
    """Returns the posterior of each answer given the prompt before it, float32 [B, Q, V].

    By the forward algorithm, over all concepts c and first slots a: both are as likely as the prior (uniform)
    times the likelihood of the examples seen and of this one's x. Given both the answer is known.
    """
    c = self.config
    place_QK = np.array(c.label_positions)[:, None] + np.arange(2 - c.example_length, 2)
    # The last example's own last token is not in the prompt; it is read after all answers were given.
    place_QK = np.minimum(place_QK, c.sequence_length - 1)
    tokens_QBK = jnp.moveaxis(batch.tokens[:, place_QK], 1, 0)
    slot_1C1SS = jnp.asarray(self._slot_CSS)[None, :, None]
    start_11AS = jnp.asarray(np.eye(c.num_slots, dtype=np.float32)[1:])[None, None]

    def example(log_p_BCA: jax.Array, tokens_BK: jax.Array) -> tuple[jax.Array, jax.Array]:
      tokens_B11K = tokens_BK[:, None, None]
      with _EXACT():
        p_K, state_BCANS = hidden_markov.read(self.mixture, tokens_B11K[..., :-1], start_11AS, slot_1C1SS)
        p_BCAV = hidden_markov.next_token(self.mixture, state_BCANS, slot_1C1SS, c.vocab_size)
      for p_BCA in p_K:
        log_p_BCA = log_p_BCA + jnp.log(p_BCA)
      posterior_BCA = jax.nn.softmax(log_p_BCA, axis=(1, 2))
      answer_BCAV = jax.nn.one_hot(p_BCAV.argmax(axis=3), c.vocab_size)
      log_y_BCA = jnp.log(jnp.take_along_axis(p_BCAV, tokens_B11K[..., -1:], axis=3)[..., 0])
      return log_p_BCA + log_y_BCA, jnp.einsum("BCA,BCAV->BV", posterior_BCA, answer_BCAV)

    prior_BCA = jnp.zeros((len(batch.tokens), c.num_concepts, c.num_slots - 1))
    _, answer_QBV = jax.lax.scan(example, prior_BCA, tokens_QBK)
    return jnp.moveaxis(answer_QBV, 0, 1)

  def bayes_accuracy(self) -> np.ndarray:
    """Returns the mean of the largest posterior of 1,024 prompts, float64 [Q]; standard error below .016."""
    return self._bayes_accuracy

  @functools.cached_property
  def _bayes_accuracy(self) -> np.ndarray:

    def certainty(key: jax.Array) -> jax.Array:
      return self.bayes_predict(self.sample(key, _BAYES_PROMPTS, split="test")).max(axis=2)

    found = jax.jit(certainty)(jax.random.key(_MEASURED_SEED))
    return np.asarray(found).mean(axis=0, dtype=np.float64)


def _log(p: np.ndarray) -> np.ndarray:
  return np.log(p, out=np.full(p.shape, -np.inf, np.float32), where=p > 0)
