"""Tokenizers: exact round trips, the ids of other implementations, training, files, and bad ones."""

import dataclasses
import importlib.util
import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax import text_config, tokenizers
from lm_jax.strict import ConfigError
from lm_jax.text_config import TokenizerConfig

TEXTS = [
  "It was the best of times, it was the worst of times.", "Call me Ishmael. Some years ago",
  "naïve café — «voilà»", "1234 + 5678 = 6912", "def f(x):\n  return x  # half\n\n",
]  # fmt: skip
UNUSUAL = [
  "\x00\x01\x7f\x85\xa0\xad", " \t\n\r\n   \u2028\u3000x", "é e\u0301 ﬁ ß İ ı ſ", "日本語 中文 한국어",
  "ไทย नमस्ते עברית عربي",
  "🤦🏽‍♂️ 🏳️‍🌈 a\u200db \u202eabc", "## ###a #b a#b x##y",
  "'s 'S 'Re ’s don't we'll", "\ufffd \ufeffx \U0010fffd",
  "aaa" * 200,
  "<|endoftext|> [MASK] [CLS][SEP] [PAD] [UNK] <s></s> <unk> <pad> ▁x <0x41>", "İstanbul Σ ς Ǆ ǆ ⅷ ½ ① ٣",
]  # fmt: skip


def config(kind: str, vocab_size: int = 600) -> TokenizerConfig:
  return text_config.resolve_tokenizer(TokenizerConfig(kind=kind, vocab_size=vocab_size))


TRAINED = {kind: tokenizers.train(config(kind), TEXTS * 3) for kind in ("bpe", "wordpiece")}
EXACT = {"bytes": tokenizers.Bytes(), **TRAINED}


@pytest.fixture(scope="module")
def gpt2(shared):
  return tokenizers.load(shared / "tokenizers/gpt2-bpe")


@pytest.fixture(scope="module")
def bert(shared):
  return tokenizers.load(shared / "tokenizers/bert-uncased/vocab.txt")


@pytest.fixture(scope="module")
def sentence_piece(tmp_path_factory) -> Path:
  trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
  model, path = io.BytesIO(), tmp_path_factory.mktemp("sp") / "small.model"
  trainer.train(
    sentence_iterator=iter(TEXTS * 3), model_writer=model, vocab_size=320, model_type="bpe", pad_id=3,
    byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    user_defined_symbols=["[MASK]"], control_symbols=["[CLS]"],
  )  # fmt: skip
  path.write_bytes(model.getvalue())
  return path


@pytest.fixture(scope="module", params=[*EXACT, "gpt2", "bert", "sentence_piece"])
def tokenizer(request) -> tokenizers.Tokenizer:
  if request.param in EXACT:
    return EXACT[request.param]
  found = request.getfixturevalue(request.param)
  return tokenizers.load(found) if request.param == "sentence_piece" else found


@pytest.fixture(scope="module")
def corpus(shared) -> list[str]:
  """Returns 210 kB of lines: Wikipedia's markup, verse, children's stories, and what is unusual."""
  names = ("wikitext2/valid.txt", "tinyshakespeare/input.txt", "tinystories_mini/tinystories.txt")
  texts = [(shared / "data/corpora" / name).read_text(encoding="utf-8")[:70_000] for name in names]
  return [line for text in texts for line in text.split("\n\n")] + UNUSUAL


# --- round trips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EXACT)
@settings(max_examples=300, deadline=None)
@given(text=st.text() | st.text("#a' é\n\x00", max_size=40) | st.sampled_from(UNUSUAL))
def test_any_text_round_trips(kind, text):
  tokenizer = EXACT[kind]
  ids = tokenizer.encode(text)
  assert tokenizer.decode(ids) == text
  # Neither an unknown token nor any other special one, whatever the text spells.
  assert set(tokenizer.specials.values()).isdisjoint(ids)


@settings(max_examples=300, deadline=None)
@given(text=st.text() | st.sampled_from(UNUSUAL))
def test_any_text_round_trips_through_gpt2(gpt2, text):
  assert gpt2.decode(gpt2.encode(text)) == text


@pytest.mark.parametrize("kind", EXACT)
def test_every_character_round_trips(kind):
  planes = [*range(0xD800), *range(0xE000, 0x30000), *range(0xE0000, 0xE0200), 0x10FFFF]
  text = "".join(map(chr, planes))
  assert EXACT[kind].decode(EXACT[kind].encode(text)) == text


@pytest.mark.parametrize("kind", TRAINED)
def test_a_word_without_end_round_trips(kind):
  # Longer than the 100 characters at which WordPiece gives up on a word; in time that is not quadratic.
  for text in ("𝔸" * 30_000, "9" * 100_000, "#" * 3_000, " " * 3_000, "\n" * 3_000 + "x"):
    assert TRAINED[kind].decode(TRAINED[kind].encode(text)) == text


def test_batches_are_encoded_as_single_texts_are(tokenizer):
  texts = [*TEXTS, *UNUSUAL, ""]
  assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_special_tokens_and_ids_without_a_token_have_no_text(tokenizer):
  ids = tokenizer.encode("half of it")
  outside = [*tokenizer.specials.values(), tokenizer.vocab_size, tokenizer.vocab_size + 7]
  assert tokenizer.decode([outside[0], *ids, *outside]) == "half of it"


# --- against other implementations ------------------------------------------------------------------


def test_gpt2_ids_are_those_of_tiktoken(shared, gpt2, corpus):
  tiktoken = pytest.importorskip("tiktoken")
  from tiktoken.load import data_gym_to_mergeable_bpe_ranks

  folder = shared / "tokenizers/gpt2-bpe"
  ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "merges.txt"), str(folder / "vocab.json"))
  pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
  special = {"<|endoftext|>": 50256}
  reference = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
  assert gpt2.encode_batch(corpus) == reference.encode_ordinary_batch(corpus)
  assert (gpt2.vocab_size, gpt2.specials) == (50257, {"end": 50256})


def test_bert_ids_are_those_of_transformers_own_python(shared, bert, corpus):
  legacy = pytest.importorskip("transformers.models.bert.tokenization_bert_legacy")
  reference = legacy.BertTokenizerLegacy(str(shared / "tokenizers/bert-uncased/vocab.txt"))
  assert bert.specials == {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}
  # All but a capital sigma at a word's end, which Python lowers by its place and the library does not.
  for text, ids in zip(corpus, bert.encode_batch(corpus), strict=True):
    plain = reference._tokenize(text, split_special_tokens=True)
    assert ids == reference.convert_tokens_to_ids(plain), text


def test_bert_is_the_same_from_its_tokenizer_json(shared, bert, corpus):
  other = tokenizers.load(shared / "tokenizers/bert-uncased/tokenizer.json")
  assert other.encode_batch(corpus) == bert.encode_batch(corpus)
  assert other.specials == bert.specials
  assert other.pieces() == bert.pieces()


def test_bert_keeps_case_where_its_settings_say_so(tmp_path):
  vocab = "[UNK]\nhello\nHello\n"
  (tmp_path / "vocab.txt").write_text(vocab)
  assert tokenizers.load(tmp_path).encode("Hello hello") == [1, 1]
  uncased = tokenizers.load(tmp_path).digest
  (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
  assert tokenizers.load(tmp_path).encode("Hello hello") == [2, 1]
  assert tokenizers.load(tmp_path).digest != uncased


def test_settings_name_special_tokens(tmp_path):
  TRAINED["bpe"].save(tmp_path)
  assert tokenizers.load(tmp_path).specials == {"end": 0}
  (tmp_path / "tokenizer_config.json").write_text(
    '{"cls_token": "!", "eos_token": {"content": "<|endoftext|>"}, "unk_token": "<|endoftext|>"}'
  )
  assert tokenizers.load(tmp_path).specials == {"cls": TRAINED["bpe"].encode("!")[0], "end": 0}


def test_a_sentencepiece_model_is_read_as_its_package_reads_it(sentence_piece):
  import sentencepiece

  reference = sentencepiece.SentencePieceProcessor(model_file=str(sentence_piece))
  tokenizer = tokenizers.load(sentence_piece)
  texts = [text for text in [*TEXTS, *UNUSUAL] if "[MASK]" not in text and "\x00" not in text]
  for text in texts:
    ids = tokenizer.encode(text)
    assert ids == reference.encode(text)
    assert tokenizer.decode(ids) == text.replace("▁", " ")
  spelled = {"unk": "<unk>", "end": "</s>", "pad": "<pad>", "cls": "[CLS]", "mask": "[MASK]"}
  assert tokenizer.specials == {name: reference.piece_to_id(piece) for name, piece in spelled.items()}


# --- training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRAINED)
def test_training_again_gives_the_same_tokenizer(kind):
  text = "".join(Path(tokenizers.files.__file__).read_text(encoding="utf-8"))
  first, second = (tokenizers.train(config(kind, 900), [text, text.upper()]) for _ in range(2))
  assert first.digest == second.digest
  assert first.digest != tokenizers.train(config(kind, 901), [text, text.upper()]).digest


@pytest.mark.parametrize("kind", TRAINED)
def test_training_finds_frequent_words(kind):
  tokenizer = tokenizers.train(config(kind), ["the mangrove and the mangrove"] * 20)
  pieces = tokenizer.pieces()
  assert [pieces[i] for i in tokenizer.encode("the mangrove")] == ["the", " mangrove"]


@pytest.mark.parametrize("kind", TRAINED)
def test_a_vocabulary_is_as_large_as_asked_and_begins_with_the_special_tokens(kind, tmp_path):
  tokenizer = tokenizers.train(config(kind, 5000), ["hello"])
  tokenizer.save(tmp_path)
  for t in (tokenizer, tokenizers.load(tmp_path)):
    assert t.vocab_size == 5000 == len(t.pieces()) == len(t.word_starts())
    assert t.specials == {name: i for i, name in enumerate(text_config.NATIVE[kind])}
    assert t.decode(range(t.vocab_size - 100, t.vocab_size)) == ""


@pytest.mark.parametrize("kind", TRAINED)
def test_the_smallest_vocabulary_round_trips(kind):
  least = len(text_config.NATIVE[kind]) + text_config.BYTE_TOKENS[kind]
  tokenizer = tokenizers.train(config(kind, least), TEXTS)
  assert [tokenizer.decode(tokenizer.encode(text)) for text in UNUSUAL] == UNUSUAL
  with pytest.raises(ConfigError, match=rf"vocab_size={least - 1}: must be at least {least}"):
    tokenizers.train(TokenizerConfig(kind=kind, vocab_size=least - 1), TEXTS)
  with pytest.raises(ConfigError, match=f"at least {least}"):
    config(kind, least - 1)


def test_progress_counts_characters():
  text, counts = "a line\n" * 30_000, []
  tokenizers.train(config("bpe"), [text, "more"], on_progress=counts.append)
  assert counts == sorted(counts)
  assert len(counts) > 3
  assert counts[-1] == len(text) + len("more")


# --- pieces and words -------------------------------------------------------------------------------


def test_pieces_put_together_are_the_text(tokenizer):
  text, pieces = "the unbelievable mangroves of 1984", tokenizer.pieces()
  assert len(pieces) == tokenizer.vocab_size
  assert "".join(pieces[i] for i in tokenizer.encode(text)).removeprefix(" ") == text
  assert {pieces[i] for i in tokenizer.specials.values()} <= {""}


@pytest.mark.parametrize("kind", EXACT)
def test_half_a_character_is_no_piece(kind):
  # (GPT-2 has U+FFFD as a token: its corpus had it.)
  assert not any("\ufffd" in piece for piece in EXACT[kind].pieces())


def test_words_begin_where_a_new_word_begins(tokenizer):
  text = "the unbelievable mangroves of it"
  starts, ids = tokenizer.word_starts(), tokenizer.encode(text)
  assert (starts.shape, starts.dtype) == ((tokenizer.vocab_size,), np.bool_)
  assert starts[list(tokenizer.specials.values())].all()
  words = np.cumsum(starts[ids] | (np.arange(len(ids)) == 0))
  pieces = np.array(tokenizer.pieces())[ids]
  assert ["".join(pieces[words == n]).strip() for n in range(1, words[-1] + 1)] == text.split()


# --- files ------------------------------------------------------------------------------------------


def test_what_is_saved_is_what_is_loaded(tmp_path, tokenizer):
  tokenizer.save(tmp_path)
  again = tokenizers.load(tmp_path)
  assert again.digest == tokenizer.digest
  assert again.specials == tokenizer.specials
  assert again.vocab_size == tokenizer.vocab_size
  assert again.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
  assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
  assert list(EXACT.values()).count(tokenizer) == [t.digest for t in EXACT.values()].count(tokenizer.digest)


def test_a_tokenizer_is_made_from_its_config_unless_its_file_changed(tmp_path):
  TRAINED["bpe"].save(tmp_path)
  resolved = text_config.resolve_tokenizer(TokenizerConfig(kind="file", path=str(tmp_path)))
  assert (resolved.vocab_size, resolved.specials) == (600, ("end",))
  assert tokenizers.make(resolved).encode_batch(TEXTS) == TRAINED["bpe"].encode_batch(TEXTS)
  assert tokenizers.make(config("bytes", 256)).vocab_size == 256
  TRAINED["wordpiece"].save(tmp_path)
  one_line("has changed", tokenizers.make, resolved)
  one_line("must be bytes or file", tokenizers.make, config("bpe"))
  one_line("did you mean 'wordpiece'", tokenizers.train, dataclasses.replace(resolved, kind="wordpeice"), [])


def one_line(match: str, function, *args) -> None:
  with pytest.raises(ConfigError, match=match) as info:
    function(*args)
  assert "\n" not in str(info.value)
  assert info.value.__cause__ is None


VALID = '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}'


@pytest.mark.parametrize(
  ("name", "content", "match"),
  [
    ("tokenizer.json", pickle.dumps({"model": list(range(300))}), "is binary"),
    ("tokenizer.json", VALID[:50].encode(), "is not JSON"),
    ("tokenizer.json", b"", "is not JSON"),
    ("tokenizer.json", b'["model"]', 'no tokenizer.json, which has a "model"'),
    ("tokenizer.json", b'{"model": {"type": "Perceptron"}}', "tokenizer .*tokenizer.json: "),
    ("small.model", b"\x00\x01 not a model", "is not a SentencePiece model"),
    ("small.model", b"", "is not a SentencePiece model"),
    ("vocab.txt", b"a\nb\n", r"\[UNK\] among them"),
    ("vocab.txt", b"\xff\xfe", "is binary"),
    ("weights.pkl", b"", "must be a tokenizer.json, a SentencePiece .model, or a folder"),
    ("merges.txt", b"a b\n", "no tokenizer in this folder"),
  ],
)
def test_a_file_that_is_no_tokenizer_is_one_line(tmp_path, name, content, match):
  (tmp_path / name).write_bytes(content)
  one_line(match, tokenizers.load, tmp_path / name)


@pytest.mark.parametrize(
  ("vocab", "merges", "match"),
  [
    ("[1, 2]", "", "object of tokens and their ids"),
    ('{"a": "b"}', "", "object of tokens and their ids"),
    ('{"a": 0, "b": 1}', "a b c\n", "two tokens a line"),
    ('{"a": 0, "b": 1}', "#version: 0.2\na b\n", "merges.txt: makes 'ab', which is not in vocab.json"),
    ('{"b": 1, "ab": 2}', "#version: 0.2\na b\n", "tokenizer .*: Token `a` out of vocabulary"),
  ],
)
def test_files_of_gpt2_that_disagree_are_one_line(tmp_path, vocab, merges, match):
  (tmp_path / "vocab.json").write_text(vocab)
  (tmp_path / "merges.txt").write_text(merges)
  one_line(match, tokenizers.load, tmp_path)


def test_a_missing_file_is_one_line_with_the_nearest(tmp_path):
  (tmp_path / "tokenizer.json").write_text(VALID)
  assert tokenizers.load(tmp_path).vocab_size == 1
  one_line(
    "no such file or folder; did you mean 'tokenizer.json'", tokenizers.load, tmp_path / "tokeniser.json"
  )
  one_line("no such file or folder; must be", tokenizers.load, tmp_path / "a" / "b")


def test_the_sentencepiece_package_is_asked_for_where_it_is_missing(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "sentencepiece", None)
  (tmp_path / "small.model").write_bytes(b"")
  one_line(r"pip install 'lm_jax\[sentencepiece\]'", tokenizers.load, tmp_path / "small.model")


@pytest.mark.parametrize("kind", EXACT)
def test_half_a_surrogate_pair_is_one_line(kind):
  one_line("U\\+D83E at character 2", EXACT[kind].encode, "ab\ud83e")
  one_line("U\\+D83E at character 2", EXACT[kind].encode_batch, ["a", "ab\ud83e"])
  if kind in TRAINED:
    one_line("U\\+D83E at character 2", tokenizers.train, config(kind), ["a", "ab\ud83e"])


def test_a_config_does_not_pay_for_the_libraries():
  program = "import sys, lm_jax.config; sys.exit(len({'tokenizers', 'sentencepiece'} & set(sys.modules)))"
  assert importlib.util.find_spec("tokenizers")
  subprocess.run([sys.executable, "-c", program], check=True)
