"""What a model reads of a corpus under each objective and packing: all of it, once an epoch, and no more."""

import types

import numpy as np
import pytest

from lm_jax import config as configs
from lm_jax import text_config
from lm_jax.data.sequences import Sequences
from lm_jax.strict import ConfigError

ENCODER = {"causal": False, "num_segments": 2, "next_sentence_head": True}
SENTENCE = b"Word of it. "


def resolved(**task):
  model = ENCODER if task.get("objective", "").startswith("masked") else {}
  return configs.from_mapping({"task": {"name": "text", "context_length": 32, **task}, "model": model}).task


def corpus(lengths, between, seed=0):
  """Returns a stream of documents of bytes that differ in every place, for text a permutation of them."""
  rng = np.random.default_rng(seed)
  documents = [rng.integers(97, 122, n - 1) for n in lengths]
  tokens = np.concatenate([np.append(d, between) for d in documents]).astype(np.uint16)
  return types.SimpleNamespace(tokens=tokens, starts=np.concatenate([[0], np.cumsum(lengths)]))


def make(config, streams=None, lengths=(40, 7, 90, 33, 1, 12), pieces=None):
  ids = text_config.special_ids(config, {})
  between = ids["sep" if config.is_masked else "end"]
  streams = streams or [corpus([n + 1 for n in lengths], between)]
  pieces = pieces or [chr(i) for i in range(256)]
  return Sequences(config, streams, ids, pieces, np.ones(256, bool)), streams, ids


def epoch(sequences, seed=0):
  dataset = sequences.dataset(seed)
  return [dataset[i] for i in range(sum(map(len, sequences.sources)))]


# --- causal -----------------------------------------------------------------------------------


def test_windows_cover_the_stream():
  sequences, [stream], _ = make(resolved())
  rows = sorted(epoch(sequences), key=lambda row: find(stream.tokens, row["tokens"]))
  targets = np.concatenate([row["targets"] for row in rows])
  np.testing.assert_array_equal(targets, stream.tokens[1 : 1 + len(targets)])
  assert len(targets) > len(stream.tokens) - 34
  assert all((row["weights"] == 1).all() and "documents" not in row for row in rows)


def find(tokens, part):
  windows = np.lib.stride_tricks.sliding_window_view(tokens, len(part))
  (found,) = np.flatnonzero((windows == part).all(1))
  return found


def test_documents_of_a_window_are_told_apart():
  sequences, _, ids = make(resolved(attend_across=False))
  for row in epoch(sequences):
    end = row["tokens"] == ids["end"]
    # The separator begins the document after it.
    np.testing.assert_array_equal(np.diff(row["documents"]), end[1:])
    # So whatever is predicted, is predicted from its own document.
    assert (row["weights"] == 1).all()


@pytest.mark.parametrize("packing", ["documents", "pad"])
@pytest.mark.parametrize("attend_across", [True, False])
def test_every_token_is_predicted_once_from_the_one_before(packing, attend_across):
  sequences, [stream], ids = make(resolved(packing=packing, attend_across=attend_across))
  pairs = []
  for row in epoch(sequences):
    real = row["documents"] > 0
    np.testing.assert_array_equal(row["weights"], real)
    assert (np.diff(real.astype(int)) <= 0).all(), "padding comes last"
    pairs += list(zip(row["tokens"][real].tolist(), row["targets"][real].tolist(), strict=True))
    assert (
      attend_across == (set(row["documents"]) <= {0, 1}) or packing == "pad" or row["documents"].max() == 1
    )
  before = np.concatenate([[ids["end"]], stream.tokens[:-1]])
  assert sorted(pairs) == sorted(zip(before.tolist(), stream.tokens.tolist(), strict=True))


def test_packing_fills_rows_that_padding_leaves_empty():
  lengths = tuple(np.random.default_rng(0).integers(2, 30, 100).tolist())
  packed, padded = (len(epoch(make(resolved(packing=p), lengths=lengths)[0])) for p in ("documents", "pad"))
  assert padded == 100
  assert packed * 32 < 1.1 * (sum(lengths) + 100)


def test_prefixes_are_of_each_row_anew():
  sequences, _, _ = make(resolved(objective="prefix_lm"))
  first, again = (
    {tuple(row["targets"]): int(row["prefix"].sum()) for row in epoch(sequences, seed)} for seed in (0, 1)
  )
  assert first.keys() == again.keys()
  assert first != again


def test_span_corruption_fills_its_sequences():
  config = resolved(objective="span_corruption")
  sequences, _, _ = make(config)
  for row in epoch(sequences):
    assert row["tokens"].max() < config.vocab_size
    assert len(row["tokens"]) == 32
    assert row["weights"].sum() == config.spans.target_length == len(config.label_positions)
    np.testing.assert_array_equal(np.flatnonzero(row["weights"]), config.label_positions)


# --- masked -----------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["stream", "documents", "pad"])
def test_masked_sequences_are_bracketed(packing):
  sequences, [stream], ids = make(resolved(objective="masked_lm", packing=packing, attend_across=False))
  seen = 0
  for row in epoch(sequences):
    real = row["documents"] > 0 if packing != "stream" else np.ones(32, bool)
    text = row["targets"][real]
    assert text[0] == ids["cls"]
    assert text[-1] == ids["sep"]
    assert (row["weights"][~real] == 0).all()
    assert row["weights"][row["positions"]].sum() == row["weights"].sum() > 0
    # Every document that is not cut begins with [CLS]; none holds another's.
    for d in np.unique(row["documents"][real]):
      own = text[row["documents"][real] == d]
      assert (own[:-1] != ids["sep"]).all()
      assert packing == "stream" or own[0] == ids["cls"]
    seen += np.isin(text, range(97, 122)).sum()
  ordinary = np.isin(stream.tokens, range(97, 122)).sum()
  assert seen == ordinary if packing != "stream" else seen > 0.8 * ordinary


def sentences_corpus(num_documents, num_sentences, ids):
  """Returns documents whose sentences carry the numbers of document and sentence as first bytes."""
  documents = []
  for d in range(num_documents):
    text = b"".join(b" %c%c is said." % (65 + d, 97 + s) for s in range(num_sentences))
    documents.append(np.append(np.frombuffer(text, np.uint8), ids["sep"]))
  starts = np.concatenate([[0], np.cumsum([len(d) for d in documents])])
  return types.SimpleNamespace(tokens=np.concatenate(documents).astype(np.uint16), starts=starts)


def test_next_sentences_follow_or_are_from_another_document():
  config = resolved(objective="masked_lm_nsp", context_length=64, mask_rate=0.1)
  ids = text_config.special_ids(config, {})
  stream = sentences_corpus(8, 20, ids)
  sequences, _, _ = make(config, [stream])
  text = stream.tokens.astype(np.int32)
  follows = []
  for seed in range(20):
    for row in epoch(sequences, seed):
      used = int(row["documents"].sum())
      target, segments = row["targets"], row["segments"]
      assert target[0] == ids["cls"]
      assert (target[:used] == ids["sep"]).sum() == 2
      assert target[used - 1] == ids["sep"]
      split = int((segments == 0)[:used].sum())
      assert target[split - 1] == ids["sep"]
      assert (segments[:split] == 0).all()
      assert (segments[split:used] == 1).all()
      a, b = target[1 : split - 1], target[split : used - 1]
      assert len(a)
      assert len(b)
      assert bytes(a[:1].tolist()) == b" ", "A begins with a sentence"
      # Where A and B stand in the corpus, by the letters that only occur there.
      place_a, place_b = find(text, a), find(text, b)
      document = np.searchsorted(stream.starts, [place_a, place_b], side="right")
      if row["next_sentence"]:
        assert place_b == place_a + len(a)
        assert document[0] == document[1]
      else:
        assert document[0] != document[1]
      follows.append(int(row["next_sentence"]))
      assert not row["weights"][target == ids["sep"]].any()
  assert np.mean(follows) == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(len(follows)))


def test_two_corpora_are_mixed_by_weight_or_else_by_size():
  config = resolved(corpus=["one", "other"])
  ids = text_config.special_ids(config, {})
  streams = [corpus([3000], ids["end"]), corpus([9000], ids["end"], seed=1)]
  for weights, share in ((None, 0.75), ([1, 1], 0.5)):
    task = resolved(corpus=["one", "other"], weights=weights)
    dataset = make(task, streams)[0].dataset(0)
    other = {tuple(w) for w in np.lib.stride_tricks.sliding_window_view(streams[1].tokens, 33)}
    drawn = [(*dataset[i]["tokens"], dataset[i]["targets"][-1]) in other for i in range(400)]
    assert np.mean(drawn) == pytest.approx(share, abs=0.01)


def test_a_corpus_too_small_for_a_sequence_is_refused():
  with pytest.raises(ConfigError, match=r"context_length=32: must be smaller for a corpus .* of 11 tokens"):
    make(resolved(), lengths=(10,))
