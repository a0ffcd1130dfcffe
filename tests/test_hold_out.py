"""Passages are the text, wherever it is cut; what is held out depends on the text alone."""

import hypothesis
import hypothesis.strategies as st
import pytest

from lm_jax.data import hold_out, passages
from lm_jax.data.passages import Document, cut

_TEXT = st.text(st.sampled_from("ab \n\té€😀"), max_size=600)


def _documents(texts, split=None):
  return [Document(split, f"text {i}", lambda text=text: [text.encode()]) for i, text in enumerate(texts)]


def _split(texts, total_bytes=1 << 30):
  """Returns {split: documents}."""
  rule = hold_out.choose(_documents(texts), total_bytes)
  found = {"train": [], "test": []}
  for piece in hold_out.divide(_documents(texts), rule):
    if piece.is_first:
      found[piece.split].append("")
    found[piece.split][-1] += piece.text
  return found


def _many(count):
  return [f"This is text {i}.\n" for i in range(count)]


@hypothesis.given(_TEXT, st.integers(1, 50), st.integers(64, 128))
def test_pieces_are_the_text_and_no_longer_than_asked(text, chunk, size):
  encoded = text.encode()
  chunks = [encoded[i : i + chunk] for i in range(0, len(encoded), chunk)]
  pieces = list(cut(chunks, size))
  assert "".join(piece.decode() for piece in pieces) == text
  assert all(0 < len(piece) <= size for piece in pieces)
  assert all(len(piece) >= size // 2 - 3 for piece in pieces[:-1])
  assert pieces == list(cut([encoded], size))


@pytest.mark.parametrize(
  "text, first",
  [
    ("a" * 60 + "\n\n" + "b" * 20 + "\n" + "c c" * 30, "a" * 60 + "\n\n"),
    ("a" * 70 + "\n" + "c c" * 30, "a" * 70 + "\n"),
    ("a" * 70 + " " + "c" * 90, "a" * 70 + " "),
    ("\n\n" + "a" * 200, "\n\n" + "a" * 98),  # the first half is too short a piece
    ("a" * 99 + "😀" * 20, "a" * 99),
  ],
)
def test_pieces_end_with_paragraphs_else_lines_else_words_else_characters(text, first):
  assert next(cut([text.encode()], 100)).decode() == first


def test_no_text_is_no_piece():
  assert list(cut([], 64)) == list(cut([b"", b""], 64)) == []


def test_a_document_has_its_split_by_its_text_alone():
  texts = _many(400)
  splits = _split(texts)
  assert splits["test"] and sorted(splits["train"] + splits["test"]) == sorted(texts)
  fewer = list(reversed(texts[100:300]))
  assert _split(fewer)["test"] == [text for text in fewer if text in splits["test"]]


def test_one_in_twenty_is_held_out():
  assert 0.035 < len(_split(_many(4000))["test"]) / 4000 < 0.065


def test_documents_that_are_the_same_are_in_one_split():
  splits = _split(_many(100) * 3)
  assert not set(splits["train"]) & set(splits["test"])


@pytest.mark.parametrize("first", range(0, 400, 20))
def test_of_twenty_documents_one_at_least_is_held_out(first):
  splits = _split(_many(400)[first : first + 20])
  assert splits["train"] and splits["test"]
  assert all(text.startswith("This") and text.endswith(".\n") for text in splits["test"])


def test_of_fewer_documents_passages_are_held_out():
  lines = [f"line {i} of a long text\n" for i in range(4000)]
  splits = _split(["".join(lines)], total_bytes=90_000)
  held_out = "".join(splits["test"])
  assert 0.01 < len(held_out) / len("".join(lines)) < 0.15
  assert sorted("".join(splits["train"] + splits["test"]).splitlines(True)) == sorted(lines)
  # A document is text without gaps.
  for text in splits["train"] + splits["test"]:
    assert text in "".join(lines)


def test_a_document_that_has_a_split_keeps_it_whole():
  documents = _documents(["a\n" * 100_000, "b"], "test") + _documents(_many(30), "train")
  rule = hold_out.choose(documents, 1 << 20)
  pieces = list(hold_out.divide(documents, rule))
  assert [p.text for p in pieces if p.split == "train"] == _many(30)
  assert [p.is_first for p in pieces if p.split == "test"] == [True, False, False, False, True]


def test_numbers_count_the_documents_of_a_split():
  pieces = [passages.Piece("train", is_first, "x") for is_first in (True, False, True, True, False)]
  assert [passage.document for passage in passages.number(pieces)] == [0, 0, 1, 2, 2]


@pytest.mark.parametrize(
  "named, expected",
  [
    (
      {"a": "train", "b": "test", "c": "validation", "d": None},
      {"a": "train", "b": "test", "c": "validation"},
    ),
    ({"a": "train", "c": "validation"}, {"a": "train", "c": "test"}),
    ({"a": "train", "d": None}, {"a": None}),
    ({"b": "test", "d": None}, {"b": "test", "d": "train"}),
    ({"c": "validation", "d": None}, {"c": "test", "d": "train"}),
    ({"b": "test", "c": "validation"}, {"b": "test", "c": "validation"}),
    ({"d": None, "e": None}, {"d": None, "e": None}),
  ],
)
def test_names_decide_splits_where_they_can(named, expected):
  assert hold_out.settle_splits(named) == expected
