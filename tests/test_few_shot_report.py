"""The report of few-shot results: what it writes, and that names in it are only names."""

import html.parser
import json
import re
import shutil
import xml.etree.ElementTree

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from few_shot_folders import ask
from few_shot_folders import folder as folder
from few_shot_folders import loaded as loaded
from few_shot_folders import pixels_only as pixels_only
from few_shot_folders import task as task

from lm_jax import cli
from lm_jax.analysis.few_shot_report import few_shot_look, few_shot_report
from lm_jax.analysis.figures.style import FORMATS

EVIL = '<img src=x onerror="alert(1)">&{{tasks}}'


class Page(html.parser.HTMLParser):
  """What a page holds: the cells of its tables' rows, and what it would fetch or run."""

  def __init__(self, text):
    super().__init__()
    self.rows, self.sources, self.tags, self.handlers = [], [], [], []
    self._in_cell = False
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.handlers += [name for name, _ in attrs if name.startswith("on")]
    self.sources += [value for name, value in attrs if name in ("src", "href")]
    if tag == "tr":
      self.rows.append([])
    if tag in ("td", "th"):
      self._in_cell = True
      self.rows[-1].append("")

  def handle_endtag(self, tag):
    self._in_cell = self._in_cell and tag not in ("td", "th")

  def handle_data(self, data):
    if self._in_cell:
      self.rows[-1][-1] += data


@pytest.fixture
def copy(folder, tmp_path):
  return shutil.copytree(folder, tmp_path / "copy")


def report(capsys, folder):
  with pytest.raises(SystemExit) as exit_:
    cli.main(["report", f"--workdir={folder}"])
  found = capsys.readouterr()
  return exit_.value.code, found.out, found.err


def test_the_command_writes_figures_tables_and_a_page(copy, capsys):
  (copy / "report/figures").mkdir(parents=True)
  (copy / "report/figures/score_vs_step.small.png").write_text("of an earlier report")
  (copy / "report/figures/mine.png").write_text("not ours")
  code, out, err = report(capsys, copy)
  assert (code, out.strip(), err) == (0, str(copy / "report/index.html"), "")
  stems = ("score_vs_shots", "reliability", "selective_accuracy", "prompt_spread", "score_vs_params")
  names = {f"{stem}.small.{ending}" for stem in stems for ending in FORMATS}
  assert {path.name for path in (copy / "report/figures").iterdir()} == names | {"mine.png"}
  for stem in stems:
    path = copy / f"report/figures/{stem}.small"
    image = matplotlib.image.imread(f"{path}.png")
    assert min(image.shape[:2]) > 200 and image[..., :3].std() > 0.01
    assert xml.etree.ElementTree.parse(f"{path}.svg").getroot().tag.endswith("svg")
    assert (path.parent / f"{path.name}.pdf").read_bytes().startswith(b"%PDF-")
  page = Page((copy / "report/index.html").read_text())
  assert page.tags.count("img") == len(stems) and page.tags.count("script") == 1 and page.handlers == []
  links = {source for source in page.sources if not source.startswith(("data:image/png;base64,", "#"))}
  assert links == {f"figures/{name}" for name in names} | {
    f"tables/{name}.csv" for name in ("scores", "means", "confident_mistakes")
  }
  assert all((copy / "report" / link).is_file() for link in links)
  text = (copy / "report/index.html").read_text()
  assert "Not drawn: Score against training steps (no model was asked at several steps)" in text


def test_tables_hold_every_score(copy, loaded, pixels_only):
  del pixels_only
  _, means = loaded
  page = Page(few_shot_report.write(copy).read_text())
  shown = [row for row in page.rows if len(row) == 9 and row[2] == "Accuracy"]
  own = means[means["metric"] == "accuracy"]
  assert len(shown) == len(own) == 4
  for row, mean in zip(shown, own.itertuples(), strict=True):
    assert row[:2] == [mean.series, str(int(mean.n_shots))]
    assert row[3].startswith(f"{mean.value:.3f} {mean.low:.3f}") and row[4:6] == [
      f"{mean.stderr:.3f}",
      "0.500",
    ]
    assert row[6:] == ["60", str(mean.n_seeds), "3"]
  table = pd.read_csv(copy / "report/tables/means.csv")
  np.testing.assert_allclose(table["value"], means["value"])
  scores = pd.read_csv(copy / "report/tables/scores.csv")
  kept = [json.loads(line) for line in (copy / "results.jsonl").read_text().splitlines()]
  assert len(scores) == len(kept)
  assert scores["value"].sum() == pytest.approx(sum(row["value"] for row in kept))


def test_equal_results_give_equal_files(task, tmp_path):
  ask(tmp_path, task, shots=(1,))
  few_shot_report.write(tmp_path)
  read = {path: path.read_bytes() for path in (tmp_path / "report").rglob("*.*")}
  few_shot_report.write(tmp_path)
  assert len(read) > 9 and read == {path: path.read_bytes() for path in (tmp_path / "report").rglob("*.*")}


def test_names_cannot_inject_markup(task, tmp_path, pixels_only):
  del pixels_only
  ask(tmp_path, task, shots=(0,))
  rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
  names = {"task": EVIL, "model": EVIL, "prompt_id": EVIL, "git_commit": EVIL, "family": EVIL}
  (tmp_path / "results.jsonl").write_text("".join(json.dumps(row | names) + "\n" for row in rows))
  path = tmp_path / "items" / f"{rows[0]['key']}.parquet"
  items = pd.read_parquet(path)
  items["item"] = [f"{EVIL}{i}" for i in range(len(items))]
  items.to_parquet(path)
  text = few_shot_report.write(tmp_path).read_text()
  page = Page(text)
  assert "<img src=x" not in text and page.handlers == [] and page.tags.count("script") == 1
  assert all(source.startswith(("data:image/png", "figures/", "tables/", "#main")) for source in page.sources)
  assert any(f"{EVIL}" in cell for row in page.rows for cell in row)
  assert all("/" not in path.name for path in (tmp_path / "report/figures").iterdir())


def test_tasks_without_choices(tmp_path):
  (tmp_path / "rows.jsonl").write_text(
    "".join(json.dumps({"text": f"row {i}", "answer": "a b" if i % 3 else "c"}) + "\n" for i in range(9))
  )
  (tmp_path / "write.yaml").write_text(
    "kind: generation\ntest: rows.jsonl\nquery: 'T: {{text}}\nA:'\nanswer: answer\n"
    "metrics: [exact_match, f1]\nmax_new_tokens: 5\n"
  )
  rows = ask(tmp_path / "w", tmp_path / "write.yaml", shots=(0, 1))
  assert {row["metric"] for row in rows} == {"exact_match", "f1", "aurc", "auroc"}
  page = few_shot_report.write(tmp_path / "w")
  figures = {path.name.split(".")[0] for path in (page.parent / "figures").iterdir()}
  assert figures == {"score_vs_shots"}
  text = page.read_text()
  assert "Reliability diagram: accuracy against confidence (its items have no choices)" in text
  assert "Most confident mistakes" not in text


def test_a_text_that_goes_on_in_one_way_is_no_choice(tmp_path):
  """The one continuation would be certain, and right."""
  (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(9)))
  path = tmp_path / "goes_on.yaml"
  path.write_text("kind: continuation\ntest: rows.jsonl\nquery: 'T: {{text}}\\nL:'\nanswer: good\n")
  ask(tmp_path / "w", path, shots=(0, 1))
  page = few_shot_report.write(tmp_path / "w")
  assert {path.name.split(".")[0] for path in (page.parent / "figures").iterdir()} == {"score_vs_shots"}
  assert "Most confident mistakes" not in page.read_text()


def test_what_nothing_fits_is_missing_and_not_zero(task, tmp_path):
  rows = ask(tmp_path, task, shots=(0,))
  empty = [row | {"value": None, "stderr": None, "n_items": 0} for row in rows if row["metric"] == "accuracy"]
  (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in empty))
  pd.DataFrame([]).to_parquet(tmp_path / "items" / f"{rows[0]['key']}.parquet")
  text = few_shot_report.write(tmp_path).read_text()
  assert list((tmp_path / "report").glob("figures/*")) == []
  assert "Score against the number of shots (there is no score)" in text
  (row,) = (row for row in Page(text).rows if len(row) == 9 and row[2] == "Accuracy")
  assert row[3] == row[4] == "–" and row[6] == "0"


@pytest.mark.parametrize(
  ("names", "said"),
  [
    ((), "has neither sweep.json .* nor config.json .* nor results.jsonl with cells/"),
    (("results.jsonl",), "has neither sweep.json"),
    (("results.jsonl", "cells/", "sweep.json"), "holds sweep.json of a run or sweep and results.jsonl"),
    (("results.jsonl", "cells/"), "holds no results yet"),
  ],
)
def test_other_folders_are_one_line(tmp_path, capsys, names, said):
  for name in names:
    (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text("")
  code, out, err = report(capsys, tmp_path)
  assert (code, out) == (2, "") and len(err.splitlines()) == 1
  assert re.search(said, err)


def test_colors_and_lines_tell_all_series_apart():
  rows = pd.DataFrame(
    [{"series": f"{n} {v}", "name": str(n), "variant": v} for n in range(12) for v in ("a", "b", "c")]
  )
  styles = few_shot_look.styles(rows)
  assert len(set(styles.values())) == len(styles) == 36
  assert all(mpl.colors.is_color_like(style.color) for style in styles.values())
