"""Rows of files: read as Python's own writers wrote them, and what is wrong is named by its line."""

import csv
import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_jax.prompt_tasks import row_files
from lm_jax.strict import ConfigError

ROWS = [{"text": "a", "label": "x"}, {"text": "ü \u2028 \x85 b", "label": "y"}]
# Bytes of the same two rows, in every format.
JSON_LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
FILES = {
  "t.jsonl": JSON_LINES,
  "t.json": json.dumps(ROWS).encode(),
  "t.csv": "text,label\na,x\nü \u2028 \x85 b,y\n".encode(),
  "t.tsv": "text\tlabel\na\tx\nü \u2028 \x85 b\ty\n".encode(),
}


@pytest.fixture
def written(tmp_path):
  def write(name: str, data: bytes | str) -> str:
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)

  return write


def fields(path, **options):
  return [row.fields for row in row_files.read(path, **options)]


def places(path, **options):
  return [row.where.split("/")[-1] for row in row_files.read(path, **options)]


# --- what is read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_all_formats_hold_the_same_rows(name, written):
  data = FILES[name]
  assert fields(written(name, data)) == ROWS
  assert fields(written(f"{name}.gz", gzip.compress(data))) == ROWS
  assert fields(written(name, b"\xef\xbb\xbf" + data)) == ROWS  # as editors on Windows write it
  assert fields(written(name, data.replace(b"\n", b"\r\n"))) == ROWS
  assert fields(written(name, data.rstrip(b"\n"))) == ROWS


def test_the_place_of_a_row_is_its_first_line(written):
  assert places(written("t.jsonl", b'\n{"a": 1}\n  \r\n\n{"a": 2}')) == ["t.jsonl line 2", "t.jsonl line 5"]
  assert places(written("t.csv", 'a,b\n1,"x\ny"\n\n,\n2,z\n')) == ["t.csv line 2", "t.csv line 6"]
  assert places(written("t.json", '[{"a": 1}, {"a": 2}]')) == ["t.json row 1", "t.json row 2"]


def test_quotes_and_line_breaks_are_of_cells_in_csv_and_text_in_tsv(written):
  assert fields(written("t.csv", 'a,b\n"x, ""y""\n z","\tq"\n')) == [{"a": 'x, "y"\n z', "b": "\tq"}]
  assert fields(written("t.tsv", 'a\tb\n"x, ""y"\t"q\n')) == [{"a": '"x, ""y"', "b": '"q'}]


def test_columns_may_be_named_by_the_definition(written):
  assert fields(written("t.tsv", "1\t2\n"), columns=("a", "b")) == [{"a": "1", "b": "2"}]


def test_rows_may_be_a_field_of_a_whole(written):
  path = written("t.json", json.dumps({"version": 1, "examples": ROWS}))
  assert fields(path, records="examples") == ROWS


_cell = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
_tables = st.integers(1, 3).flatmap(
  lambda width: st.lists(st.lists(_cell, min_size=width, max_size=width), min_size=1, max_size=5)
)


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(_tables)
def test_csv_is_read_as_it_was_written(tmp_path_factory, table):
  names = [f"c{i}" for i in range(len(table[0]))]
  out = io.StringIO(newline="")
  csv.writer(out, quoting=csv.QUOTE_ALL).writerows([names, *table])
  path = tmp_path_factory.mktemp("csv") / "t.csv"
  path.write_bytes(out.getvalue().encode())
  kept = [cells for cells in table if any(cells)]
  if kept:
    assert fields(path) == [dict(zip(names, cells, strict=True)) for cells in kept]
  else:
    with pytest.raises(ConfigError, match="has no rows"):
      row_files.read(path)


_values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _cell
_objects = st.dictionaries(_cell, _values | st.lists(_values, max_size=2), max_size=3)


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(st.lists(_objects, min_size=1, max_size=4), st.booleans())
def test_json_is_read_as_it_was_written(tmp_path_factory, rows, ascii_only):
  folder = tmp_path_factory.mktemp("json")
  lines, whole = folder / "t.jsonl", folder / "t.json"
  lines.write_bytes("\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows).encode())
  whole.write_bytes(json.dumps(rows, ensure_ascii=ascii_only, indent=2).encode())
  assert fields(lines) == fields(whole) == rows


# --- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ("name", "data", "options", "message"),
  [
    ("t.jsonl", '{"a": 1}\n{"a": \n', {}, r"t\.jsonl line 2: is not JSON"),
    ("t.jsonl", '{"a": 1}\n[1]\n', {}, r"t\.jsonl line 2: is list, must be an object with fields"),
    ("t.jsonl", '\n"a"\n', {}, r"t\.jsonl line 2: is str, must be an object"),
    ("t.jsonl", '{"a": 1}\n{"a": NaN}', {}, r"line 2: is not JSON \(NaN is no number; .* null\)"),
    ("t.jsonl", '{"a": -Infinity}', {}, "line 1: is not JSON"),
    ("t.jsonl", "[" * 100_000, {}, "line 1: is not JSON"),
    ("t.jsonl", '{"a": ' + "1" * 5000 + "}", {}, "line 1: is not JSON"),
    ("t.jsonl", b'{"a": "x"}\n\n{"a": "\xff"}', {}, r"t\.jsonl line 3: is not UTF-8"),
    ("t.csv", b"\xef\xbb\xbfa\n\xe4\n", {}, r"t\.csv line 2: is not UTF-8"),
    ("t.csv", "a,b\n1,2\n".encode("utf-16"), {}, r"t\.csv line 1: is not UTF-8"),
    ("t.jsonl", "", {}, r"t\.jsonl: has no rows"),
    ("t.csv", "\n\n", {}, r"t\.csv: has no rows"),
    ("t.csv", "a,b\n", {}, r"t\.csv: has no rows"),
    ("t.json", "[]", {}, r"t\.json: has no rows"),
    ("t.json", "", {}, r"t\.json: is not JSON"),
    ("t.json", '[{"a": 1},\n{"a"}]', {}, r"t\.json: is not JSON .*line 2"),
    ("t.json", '[{"a": 1}, 2]', {}, r"t\.json row 2: is int, must be an object"),
    ("t.json", '{"rows": []}', {}, r"must hold a list of rows; name the field that does as `records`"),
    ("t.json", '{"examples": []}', {"records": "exmples"}, r"no field 'exmples'; did you mean 'examples'"),
    ("t.json", "[]", {"records": "rows"}, "has no field 'rows'"),
    ("t.csv", 'a,b\n"x\ny",1\n1,2,3\n', {}, r"t\.csv line 4: has 3 columns, must have 2 \(a, b\)"),
    ("t.tsv", "a\tb\n1\n", {}, r"t\.tsv line 2: has 1 columns, must have 2"),
    ("t.tsv", "1\t2\t3\n", {"columns": ("a", "b")}, r"t\.tsv line 1: has 3 columns"),
    ("t.csv", "a,b\n1,2\n3,\"4", {}, r"t\.csv line 3: is no table"),
    ("t.csv", 'a,b\n"1"x,2\n', {}, r"t\.csv line 2: is no table"),
    ("t.csv", "a,b,a\n1,2,3\n", {}, r"t\.csv line 1: has two columns 'a'; must differ"),
    ("t.tsv", "1\t2\n", {"columns": ("a", "a")}, r"t\.tsv: has two columns 'a'"),
    ("t.text", "a", {}, r"t\.text: must end in one of \.jsonl, \.json, \.csv, \.tsv"),
    ("t.gz", gzip.compress(JSON_LINES, mtime=0), {}, r"t\.gz: must end in one of"),
    ("t.jsonl.gz", JSON_LINES, {}, r"t\.jsonl\.gz: cannot be read"),
    ("t.jsonl.gz", gzip.compress(JSON_LINES, mtime=0)[:-9], {}, r"t\.jsonl\.gz: cannot be read"),
    ("t.jsonl.gz", b"", {}, r"t\.jsonl\.gz: has no rows"),
  ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_its_place(name, data, options, message, written):
  with pytest.raises(ConfigError, match=message) as error:
    row_files.read(written(name, data), **options)
  assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_and_a_folder_are_one_line(tmp_path):
  (tmp_path / "folder.jsonl").mkdir()
  for name in ("none.jsonl", "folder.jsonl"):
    with pytest.raises(ConfigError, match=rf"{name}: cannot be read"):
      row_files.read(tmp_path / name)
