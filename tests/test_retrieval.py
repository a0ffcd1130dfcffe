"""Retrieval: BM25 as written down, documents as they lie in folders, and questions over a knowledge base."""

import collections
import io
import itertools
import json
import math
import random
import re
import sys

import numpy as np
import pytest
import shared as shared_data
import small_models
from test_cli import assert_refused, call

from lm_jax import few_shot, few_shot_scores, interop, prompt_tasks
from lm_jax.few_shot_prompts import Asked
from lm_jax.few_shot_scores import Result
from lm_jax.prompt_tasks import FewShotTask, Item, retrieval
from lm_jax.prompt_tasks.retrieval import Document, KnowledgeBase
from lm_jax.reader import ModelReader
from lm_jax.strict import ConfigError

pytest.importorskip("bm25s")

ANIMALS = (
  Document("cat", "Cats", "The cat sat on the mat. It saw a dog."),
  Document("dog", "", "A dog barks, and another dog barks at the dog."),
  Document("fish", "Fish", "Fish swim."),
  Document("carp", "Fish", "Fish swim."),
)
QUERIES = (
  "Where does the cat sit?",
  "dog",
  "dog dog barks",
  "FISH!",
  "Who swims: fish, or a dog?",
  "zebra",
  "?",
)


def of_ascii(text: str) -> list[str]:
  return re.findall(r"[a-z0-9]+", text.lower())


def bm25(texts: list[str], query: str, words=of_ascii, k1: float = 1.2, b: float = 0.75) -> np.ndarray:
  """Returns Lucene's BM25 of every text, written out word by word."""
  counts = [collections.Counter(words(text)) for text in texts]
  lengths = [of.total() for of in counts]
  mean, n = sum(lengths) / len(lengths), len(texts)
  scores = np.zeros(n)
  for word in words(query):
    there = sum(word in of for of in counts)
    idf = math.log(1 + (n - there + 0.5) / (there + 0.5))
    for i, of in enumerate(counts):
      scores[i] += idf * of[word] / (of[word] + k1 * (1 - b + b * lengths[i] / mean))
  return scores


# --- search -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", QUERIES)
def test_scores_are_those_of_the_formula(query):
  base = KnowledgeBase(ANIMALS)
  want = bm25([f"{d.title} {d.text}" for d in ANIMALS], query)
  np.testing.assert_allclose(base.scores(query), want, rtol=1e-12, atol=1e-15)
  found = base.search(query, 9)
  assert len(found) == np.count_nonzero(want)
  assert [one.passage.id for one in found] == [
    ANIMALS[i].id for i in sorted(range(4), key=lambda i: (-want[i], i)) if want[i] > 0
  ]


def test_what_has_no_word_of_the_query_is_not_found():
  base = KnowledgeBase(ANIMALS)
  assert base.search("zebra", 3) == base.search("?", 3) == []
  assert [one.passage.id for one in base.search("mat", 3)] == ["cat"]


def test_equal_passages_are_in_the_order_of_documents():
  for documents in (ANIMALS, ANIMALS[::-1]):
    found = KnowledgeBase(documents).search("swim", 2)
    assert [one.passage.id for one in found] == [d.id for d in documents if d.id in ("fish", "carp")]
    assert found[0].score == found[1].score > 0


def test_the_order_of_documents_and_of_words_decides_nothing_else():
  rng = random.Random(0)
  vocabulary = [f"w{i}" for i in range(40)]
  documents = [Document(str(i), "", " ".join(rng.choices(vocabulary, k=30))) for i in range(60)]
  base, shuffled = KnowledgeBase(documents), KnowledgeBase(rng.sample(documents, 60))
  for _ in range(20):
    query = rng.choices(vocabulary, k=6)
    one, other = base.search(" ".join(query), 60), shuffled.search(" ".join(query[::-1]), 60)
    assert {f.passage.id: f.score for f in one} == {f.passage.id: f.score for f in other}
    assert [f.score for f in one] == [f.score for f in other]


def test_search_within_documents_finds_their_passages_whatever_the_query():
  base = KnowledgeBase(ANIMALS)
  found = base.search("dog", 3, of=["fish", "cat", "carp"])
  assert [one.passage.id for one in found] == ["cat", "fish", "carp"]
  assert found[1].score == found[2].score == 0


def test_without_the_package_it_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "bm25s", None)
  with pytest.raises(ConfigError, match=r"needs the package bm25s: pip install 'lm_jax\[evaluation\]'$"):
    KnowledgeBase(ANIMALS)


def test_words_are_of_any_language_and_however_encoded():
  assert retrieval.words("Café CAFE\u0301, naïve_1 don't 3½") == [
    "café", "café", "naïve_1", "don", "t", "31", "2",
  ]  # fmt: skip


# --- passages ---------------------------------------------------------------------------------------


def texts(text: str, most: int | None) -> list[str]:
  return [passage.text for passage in retrieval.passages(Document("d", "t", text), most)]


def test_passages_are_whole_paragraphs_that_fit_together():
  assert texts("a b\n\nc d\n \n\ne f g\n\nh", 4) == ["a b\n\nc d", "e f g\n\nh"]
  assert texts(" a b\n\nc d ", None) == ["a b\n\nc d"]
  assert texts(" \n\n ", 4) == texts("", None) == []


def test_a_long_paragraph_is_cut_at_sentences_and_lines_and_a_long_sentence_at_words():
  assert texts("a b. c d e? f\n\ng h", 4) == ["a b.", "c d e? f", "g h"]
  assert texts("a b c\nd e\nf", 4) == ["a b c", "d e\nf"]
  assert texts("a b c d e f g h i. j", 4) == ["a b c d", "e f g h", "i. j"]


def test_passages_keep_every_word_in_order_and_their_limit():
  rng = random.Random(1)
  for _ in range(200):
    text = "".join(rng.choice(["w", "word", "x.", "\n", "\n\n", " \n \n"]) + " " for _ in range(80))
    found = texts(text, 7)
    assert " ".join(found).split() == text.split()
    assert all(0 < len(one.split()) <= 7 for one in found)
    # No two would have been one.
    assert all(len(f"{one} {other}".split()) > 7 for one, other in itertools.pairwise(found))
    assert {p.id for p in retrieval.passages(Document("d", "t", text), 7)} <= {"d"}


# --- documents --------------------------------------------------------------------------------------


def test_documents_of_a_folder(tmp_path):
  (tmp_path / "b").mkdir()
  (tmp_path / ".hidden").mkdir()
  for name in ("b/z.txt", "a.md", ".hidden/x.txt", "b/.y.txt", "c.pdf"):
    (tmp_path / name).write_text(f"text of {name}", encoding="utf-8-sig")
  rows = [
    {"id": 7, "text": "x", "title": "T"},
    {"id": "8", "text": "y", "title": None},
    {"id": "8", "text": "y"},
  ]
  (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  assert retrieval.read(tmp_path) == [
    Document("a.md", "", "text of a.md"), Document("b/z.txt", "", "text of b/z.txt"),
    Document("7", "T", "x"), Document("8", "", "y"),
  ]  # fmt: skip
  assert retrieval.read(tmp_path / "b" / "z.txt") == [Document("z.txt", "", "text of b/z.txt")]
  assert [file.name for file in retrieval.files(tmp_path)[1]] == ["c.pdf"]


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("{", r"d\.jsonl line 1: is not JSON"),
    ('{"id": 1, "text": "a"}\n\n[1]', r"line 3: is list, must be an object"),
    ('{"id": 1, "txt": "a"}', r"line 1: has no field 'text'; did you mean 'txt'\?"),
    ('{"text": "a"}', r"line 1: has no field 'id'; allowed: text"),
    ('{"id": null, "text": "a"}', r"line 1: id is None, must be a text or a whole number"),
    ('{"id": true, "text": "a"}', r"line 1: id is True, must be"),
    ('{"id": 1, "text": ["a"]}', r"line 1: text is \['a'\], must be a text"),
    ('{"id": 1, "text": "a", "title": 2}', r"line 1: title is 2, must be a text"),
    ('{"id": 1, "text": "a"}\n{"id": "1", "text": "b"}',
     r"line 2: has the id '1' of .*line 1, and is another"),
    ('{"id": 1, "text": " ?"}', r"documents: there are 1, and none has a word"),
    ("", "has no rows"),
  ],
)  # fmt: skip
def test_wrong_documents_are_one_line_with_their_place(content, message, tmp_path):
  (tmp_path / "d.jsonl").write_text(content)
  with pytest.raises(ConfigError, match=message) as error:
    retrieval.load(tmp_path / "d.jsonl")
  assert "\n" not in str(error.value)


def test_no_documents_are_one_line(tmp_path):
  (tmp_path / "docs").mkdir()
  (tmp_path / "docs" / "a.pdf").write_bytes(b"\xff")
  for path, message in (
    ("dosc", r"dosc: no such file or folder; did you mean 'docs'\?"),
    ("docs", r"docs: holds no documents: no file of \.txt, \.md, \.jsonl"),
    ("docs/a.pdf", r"a\.pdf: must be a folder, or a file of \.txt"),
  ):
    with pytest.raises(ConfigError, match=message):
      retrieval.load(tmp_path / path)
  (tmp_path / "docs" / "b.txt").write_bytes(b"ab\xff")
  with pytest.raises(ConfigError, match=r"b\.txt: is not UTF-8 \(byte 2\)"):
    retrieval.load(tmp_path / "docs")


# --- tasks ------------------------------------------------------------------------------------------

KNOWLEDGE = {"documents": "docs.jsonl", "search": "{{q}}", "passages": 2, "evidence": "of"}
OPEN = {
  "kind": "generation", "test": "t.jsonl", "answer": "{{a}}", "metrics": ["f1"],
  "query": "{% for p in passages %}{{p.id}}: {{p.text}}\n{% endfor %}Q: {{q}}\nA:",
  "knowledge": KNOWLEDGE,
  "templates": {"closed_book": {"reads": "nothing"}, "gold": {"reads": "evidence"}},
}  # fmt: skip
ROWS = (
  {"q": "What barks?", "a": "the dog", "of": "dog"},
  {"q": "Which fish swim?", "a": "Carp", "of": ["carp"]},
  {"q": "Who sat?", "a": "fish", "of": ["carp", "fish"]},
)
WITHOUT = {"knowledge": KNOWLEDGE | {"evidence": None}, "templates": {}}


@pytest.fixture
def make(tmp_path):
  """Makes a task over ANIMALS of OPEN and of changes to it."""

  def of(template: str = "default", rows=ROWS, **fields) -> FewShotTask:
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(one._asdict()) + "\n" for one in ANIMALS))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(json.dumps(OPEN | fields))
    return prompt_tasks.make(str(tmp_path / "task.yaml"), template)

  return of


def test_rows_read_what_a_search_finds_and_know_where_the_answer_is(make):
  task = make()
  assert task.items[0].query == "dog: A dog barks, and another dog barks at the dog.\nQ: What barks?\nA:"
  assert task.items[1].query == "fish: Fish swim.\ncarp: Fish swim.\nQ: Which fish swim?\nA:"
  assert [item.rank for item in task.items] == [1, 2, None]
  assert task.items[1].fields["passages"][0] == {"id": "fish", "title": "Fish", "text": "Fish swim."}


def test_without_evidence_a_passage_holds_the_words_of_a_reference(make):
  # "the dog" is in the second of two, "Carp" in neither, "fish" not in "the cat": titles are not looked at.
  assert [item.rank for item in make(**WITHOUT).items] == [1, None, None]
  rows = [{"q": "mat barks", "a": "THE, mat"}, {"q": "mat barks", "a": "do"}, {"q": "mat", "a": "mat it"}]
  # Words, and not parts of them; in a row, across sentences as the reading of DPR has it.
  assert [item.rank for item in make(rows=rows, **WITHOUT).items] == [2, None, 1]


def test_templates_read_the_evidence_or_nothing_and_ask_the_same_items(make):
  default, closed, gold = (make(template=name) for name in ("default", "closed_book", "gold"))
  assert closed.items[0].query == "Q: What barks?\nA:"
  assert gold.items[2].query == "fish: Fish swim.\ncarp: Fish swim.\nQ: Who sat?\nA:"
  assert [i.id for i in default.items] == [i.id for i in closed.items] == [i.id for i in gold.items]
  assert (default.passages, closed.passages, gold.passages) == (2, 0, 0)
  for task in (closed, gold):
    assert few_shot_scores.of_retrieval(task, task.items[0]) == {}


def test_demonstrations_read_passages_too(make):
  prompt = make().prompt(make().items[0], 1, 0)
  assert prompt.count("Q: ") == 2
  assert re.match(r"(fish: Fish swim\.|cat: The cat sat)", prompt)


def test_the_digest_is_of_all_that_recall_is_of(make):
  same = make()
  assert same.digest == make().digest
  # The last row's answer is not found; where that is so for another reason, prompts alone do not tell.
  moved = make(rows=(*ROWS[:2], ROWS[2] | {"of": "cat"}))
  assert [i.query for i in moved.items] == [i.query for i in same.items]
  assert moved.items[2].rank == 1
  assert (
    len(
      {
        same.digest,
        moved.digest,
        make(knowledge=KNOWLEDGE | {"passages": 3}).digest,
        make(template="gold").digest,
      }
    )
    == 4
  )


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"knowledge": {"pasages": 2}}, r"\.knowledge\.pasages: no such field; did you mean 'passages'"),
    ({"knowledge": 5}, r"\.knowledge=5: must be a group of fields \(documents, search"),
    ({"knowledge": {"search": "{{q}}"}}, r"\.knowledge\.documents='': must be a folder or file"),
    ({"knowledge": {"documents": "docs.jsonl"}}, r"\.knowledge\.search='': must be a template"),
    ({"knowledge": KNOWLEDGE | {"passages": 0}}, r"\.passages=0: must be greater than 0"),
    ({"knowledge": KNOWLEDGE | {"words": -1}}, r"\.words=-1: must be greater than 0"),
    ({"knowledge": KNOWLEDGE | {"documents": "doc.jsonl"}},
     r"\.knowledge\.documents='doc\.jsonl': no such file or folder; did you mean 'docs\.jsonl'"),
    ({"knowledge": KNOWLEDGE | {"search": "{{p}}"}},
     r"line 1: .*\.knowledge\.search=.*'p' is undefined"),
    ({"knowledge": KNOWLEDGE | {"search": "{{p"}}, r"\.knowledge\.search='{{p': is no template"),
    ({"knowledge": KNOWLEDGE | {"text": "txt"}}, r"line 1: has no field 'txt'; did you mean 'text'"),
    ({"knowledge": KNOWLEDGE | {"evidence": "'dg'"}},
     r"line 1: evidence 'dg' is no document of the knowledge base; did you mean 'dog'"),
    ({"knowledge": KNOWLEDGE | {"evidence": "[]"}}, r"line 1: evidence is \[\], must be the id"),
    ({"knowledge": WITHOUT["knowledge"]}, r"\.templates\.gold\.reads='evidence': must be of a task with"),
    ({"knowledge": None}, r"\.templates\.closed_book\.reads='nothing': must be left out without `knowledge`"),
    ({"reads": "all"}, r"\.reads='all': must be one of retrieved, evidence, nothing"),
    ({"kind": "continuation", "metrics": []}, r"\.knowledge: must be of kind generation only"),
    ({"rows": [{"q": "a", "a": "b", "of": "dog", "passages": []}]}, r"line 1: has a field 'passages'"),
    ({"rows": [{"q": "dog", "a": "%"}], **WITHOUT},
     r"line 1: no reference has a word to look for"),
  ],
)  # fmt: skip
def test_a_wrong_knowledge_base_is_one_line(changes, message, make):
  with pytest.raises(ConfigError, match=message) as error:
    make(**changes)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("rank", "passages", "want"),
  [
    (1, 1, {"recall_at_1": 1, "reciprocal_rank": 1}),
    (2, 4, {"recall_at_1": 0, "recall_at_3": 1, "recall_at_4": 1, "reciprocal_rank": 1 / 2}),
    (4, 5, {"recall_at_1": 0, "recall_at_3": 0, "recall_at_5": 1, "reciprocal_rank": 1 / 4}),
    (None, 3, {"recall_at_1": 0, "recall_at_3": 0, "reciprocal_rank": 0}),
  ],
)  # fmt: skip
def test_scores_of_retrieval(rank, passages, want):
  task = FewShotTask("t", (), (), kind="generation", passages=passages)
  item = Item("i", "q", references=("a",), rank=rank)
  assert few_shot_scores.of_retrieval(task, item) == want
  results = [
    Result(Asked(item, 0, (), ("q",)), few_shot_scores.of_written(task, item, ["a"]), written=("a",))
  ]
  means = {score.metric: score.value for score in few_shot_scores.means(task, results, 0)}
  assert means == {"exact_match": 1, **want}


# --- the known task ---------------------------------------------------------------------------------


def test_recall_on_xquad_is_that_of_the_formula(shared):
  path = shared_data.folder("data", "tasks", "xquad", "xquad.en.jsonl")
  rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
  documents = list(dict.fromkeys(row["context"] for row in rows))
  assert (len(rows), len(documents)) == (1190, 240)
  task = prompt_tasks.make("xquad_en_open")
  ranks = {item.fields["id"]: item.rank for item in task.items}
  base = KnowledgeBase([Document(text, "", text) for text in documents], None)
  for row in random.Random(0).sample(rows, 40):
    want = bm25(documents, row["question"], retrieval.words)
    np.testing.assert_allclose(base.scores(row["question"]), want, rtol=1e-12)
    rank = sorted(range(240), key=lambda i: (-want[i], i)).index(documents.index(row["context"])) + 1
    assert ranks[row["id"]] == (rank if rank <= 3 else None)
  recall = {k: np.mean([rank is not None and rank <= k for rank in ranks.values()]) for k in (1, 3)}
  assert recall[1] == pytest.approx(1094 / 1190) and recall[3] == pytest.approx(1162 / 1190)


def test_xquad_gold_is_the_task_with_its_paragraph(shared):
  gold, closed = (prompt_tasks.make("xquad_en_open", name) for name in ("gold", "closed_book"))
  for item in gold.items:
    assert item.query == f"{item.fields['context'].strip()}\n\nQuestion: {item.fields['question']}\nAnswer:"
  assert all(item.query == f"Question: {item.fields['question']}\nAnswer:" for item in closed.items)


def test_a_model_is_asked_over_a_knowledge_base(make):
  reader = ModelReader(interop.load(shared_data.folder("models", "stories260K")))
  scores = few_shot.evaluate(make(max_new_tokens=4), reader, [0, 1], None, 0)
  found = {(score.metric, score.n_shots): (score.value, score.n_items) for score in scores}
  for k in (0, 1):
    assert found["recall_at_1", k] == (pytest.approx(1 / 3), 3)
    assert found["recall_at_2", k] == (pytest.approx(2 / 3), 3)
    assert found["reciprocal_rank", k] == (pytest.approx((1 + 1 / 2) / 3), 3)
    assert 0 <= found["f1", k][0] <= 1


# --- lm-jax answer ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
  """Returns a folder of models: bytes, chat (with a template), encoder."""
  root = tmp_path_factory.mktemp("models")
  small_models.save(small_models.of_bytes(context_length=160), root / "bytes")
  small_models.save(small_models.of_pieces(context_length=128), root / "chat")
  small_models.save(small_models.of_pieces(preset="bert"), root / "encoder")
  return root


@pytest.fixture
def answering(models, tmp_path, monkeypatch, capsys):
  """Returns a function that runs `lm-jax answer` where models and documents can be named."""
  for path in models.iterdir():
    (tmp_path / path.name).symlink_to(path)
  (tmp_path / "docs").mkdir()
  (tmp_path / "empty").mkdir()
  for document in ANIMALS[:3]:
    (tmp_path / "docs" / f"{document.id}.txt").write_text(document.text)
  monkeypatch.chdir(tmp_path)

  def run(*words: str, typed: str | None = None):
    if typed is not None:
      monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    return call(capsys, "answer", *words)

  return run


WORDS = ["--model=bytes", "--documents=docs", "--max_new_tokens=8"]


def as_json(answering, *words: str, **kwargs) -> list[dict]:
  code, out, _ = answering(*words, "--json", **kwargs)
  assert (code, out.count("\n")) == (0, 1)
  return json.loads(out)["answers"]


def test_answers_are_the_models_after_the_passages_and_name_them(answering, models):
  import lm_jax

  first, second = as_json(answering, *WORDS, "--question=What barks?", "--question=Fish?")
  assert [(one["question"], one["passages_left_out"]) for one in (first, second)] == [
    ("What barks?", 0), ("Fish?", 0),
  ]  # fmt: skip
  for one, document in ((first, ANIMALS[1]), (second, ANIMALS[2])):
    (source,) = one["sources"]
    assert (source["id"], source["text"]) == (f"{document.id}.txt", document.text)
    prompt = f"{document.text}\n\nQuestion: {one['question']}\nAnswer:"
    want = lm_jax.load(models / "bytes").generate(prompt, temperature=0, max_new_tokens=8, stop="\n")
    assert one["answer"] == str(want[0]).strip()
  assert first["sources"][0]["score"] == pytest.approx(bm25([d.text for d in ANIMALS[:3]], "barks")[1])


def test_what_a_person_sees(answering):
  code, out, err = answering(*WORDS, typed="What barks?\n\nzebra\n")
  assert code == 0
  assert err.splitlines()[0] == "lm-jax: 3 documents, 3 passages"
  shown = out.split("\n\n")
  assert shown[0].startswith("question: What barks?\nanswer: ")
  assert re.search(r"\n  \d\.\d\d  dog\.txt$", shown[0])
  assert shown[1] == "question: zebra\nno answer: no passage of the documents has a word of it\n"
  assert answering(*WORDS, "--quiet", typed="zebra")[2] == ""


def test_passages_that_do_not_fit_are_left_out_and_counted(answering):
  words = [*WORDS, "--question=dog cat swim", "--max_new_tokens=40"]
  (one,) = as_json(answering, *words)
  assert one["passages_left_out"] == 3 - len(one["sources"]) > 0
  (alone,) = as_json(answering, *words, "--passages=1")
  assert alone["passages_left_out"] == 0
  assert one["sources"][0] == alone["sources"][0]
  code, out, _ = answering(*words)
  assert code == 0
  assert out.endswith(f"  {one['passages_left_out']} more of 3 found: the context has no room\n")
  asked = [*words, "--max_new_tokens=150"]
  assert "do not fit the model's context of 160" in only_error(answering(*asked))


def only_error(run: tuple[int, str, str]) -> str:
  """Returns the last line of a run that failed after it told of the documents."""
  code, out, err = run
  assert (code, out) == (2, "")
  first, last = err.splitlines()
  assert first == "lm-jax: 3 documents, 3 passages"
  return f"{last}\n"


def test_a_model_with_a_chat_template_is_asked_by_it(answering, models):
  from lm_jax.language_model import LanguageModel

  (one,) = as_json(answering, "--model=chat", "--documents=docs", "--max_new_tokens=6", "--question=barks")
  content = f"{ANIMALS[1].text}\n\nAnswer this question from the text above: barks"
  messages = [{"role": "user", "content": content}]
  want = LanguageModel.load(models / "chat").chat(messages, temperature=0, max_new_tokens=6)
  assert one["answer"] == str(want).strip()


def test_files_that_are_not_read_are_told(answering, tmp_path):
  (tmp_path / "docs" / "a.pdf").write_bytes(b"")
  _, _, err = answering(*WORDS, typed="barks")
  assert err.splitlines()[0] == "lm-jax: 3 documents, 3 passages; 1 other files are not read (.pdf)"


@pytest.mark.parametrize(
  ("words", "said"),
  [
    ("--documents=docs --question=a", "--model=... must be given to lm-jax answer"),
    ("--model=bytes --question=a", "--documents=... must be given to lm-jax answer"),
    ("--model=bytes --documents=doc --question=a", "doc: no such file or folder; did you mean 'docs'?"),
    ("--model=bytes --documents=empty --question=a", "empty: holds no documents"),
    ("--model=bytes --documents=docs --question=", "--question=: has no questions"),
    ("--model=bytes --documents=docs --question=a --passages=0", "--passages=0: must be greater than 0"),
    ("--model=bytes --documents=docs --question=a --temperature=-1",
     "--temperature=-1.0: must be 0 or greater"),
    ("--model=bytes --documents=docs --question=a --top_p=0.5", "--top_p=0.5: must be left out, or --temp"),
    ("--model=bytes --documents=docs --question=a --truncate", "--truncate: no such flag of lm-jax answer"),
    ("--model=encoder --documents=docs --question=a --quiet", "--model=encoder: is an encoder"),
  ],
)  # fmt: skip
def test_bad_input(answering, words, said):
  assert_refused(*answering(*words.split()), said)
