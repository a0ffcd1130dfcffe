"""The text of continuations: exact, and never shown before it is settled."""

import pytest
import small_models
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax import tokenizers
from lm_jax.continuation_text import ContinuationText
from lm_jax.tokenizers.library import LibraryTokenizer

BYTES = tokenizers.Bytes()
STOPS = st.lists(st.text(st.sampled_from("ab\né"), min_size=1, max_size=3), max_size=2)
TEXTS = st.text(st.sampled_from("abcé\n💡\N{HEBREW LETTER ALEF}"), max_size=20)


@settings(deadline=None)
@given(TEXTS, STOPS)
def test_what_is_settled_stays_and_is_whole_characters(text, stops):
  continued, tokens = ContinuationText(BYTES, stops), BYTES.encode(text)
  final, shown = continued(tokens), ""
  for n in range(len(tokens) + 1):
    settled = continued.settled(tokens[:n])
    assert settled.startswith(shown) and final.startswith(settled)
    assert "\N{REPLACEMENT CHARACTER}" not in settled
    shown = settled
  assert final == min((text.split(stop)[0] for stop in stops), key=len, default=text)


@settings(deadline=None)
@given(TEXTS, STOPS)
def test_no_more_is_held_back_than_could_become_a_stop(text, stops):
  continued, tokens = ContinuationText(BYTES, stops), BYTES.encode(text)
  held = continued(tokens)[len(continued.settled(tokens)) :]
  assert held == "" or any(stop.startswith(held) for stop in stops)


def test_half_a_character_is_held_back():
  continued = ContinuationText(BYTES)
  bulb = BYTES.encode("a💡")
  assert [continued.settled(bulb[:n]) for n in range(1, 6)] == ["a", "a", "a", "a", "a💡"]
  assert continued(bulb[:3]) == "a\N{REPLACEMENT CHARACTER}"  # the end of a text shows what is there


def metaspace() -> LibraryTokenizer:
  """A BPE whose words carry the space before them, and whose decoder drops that of a text's first word."""
  import tokenizers as library
  from tokenizers import decoders, models, pre_tokenizers, trainers

  inner = library.Tokenizer(models.BPE(unk_token="<unk>"))
  inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
  inner.train_from_iterator(
    small_models.TEXT, trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>"], show_progress=False)
  )
  return LibraryTokenizer(inner, {"tokenizer.json": inner.to_str().encode()})


@pytest.mark.parametrize("make", [metaspace, small_models.bpe])
def test_a_continuation_joins_what_is_before_it(make):
  tokenizer, text = make(), "The cat sat on the mat"
  continued, ids = ContinuationText(tokenizer), tokenizer.encode(text)
  assert continued(ids, opens=True) == text
  for n in range(1, len(ids)):
    assert tokenizer.decode(ids[:n]) + continued(ids[n:]) == text


def test_the_decoder_alone_would_lose_a_space():
  tokenizer = metaspace()
  ids = tokenizer.encode("The cat sat")
  starts = [i for i in range(1, len(ids)) if tokenizer.pieces()[ids[i]].startswith(" ")]
  assert any(tokenizer.decode(ids[:i]) + tokenizer.decode(ids[i:]) != "The cat sat" for i in starts)
