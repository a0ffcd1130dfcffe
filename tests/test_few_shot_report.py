"""The report of few-shot results shows what the results say: what is drawn is recomputed from items."""

import dataclasses
import functools
import hashlib
import html.parser
import io
import json
import re
import shutil
import xml.etree.ElementTree

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import reference
from scipy import special

from lm_jax import cli, confidence, few_shot_runs, few_shot_scores, pretrained, tokenizers, uncertainty
from lm_jax.analysis import few_shot_frame
from lm_jax.analysis.few_shot_report import (
  few_shot_confidence_figures,
  few_shot_figures,
  few_shot_look,
  few_shot_report,
)
from lm_jax.analysis.figures import figure_parts
from lm_jax.analysis.figures.style import FORMATS
from lm_jax.few_shot_settings import Settings
from lm_jax.pretrained import Pretrained
from lm_jax.scorer import Likelihood
from lm_jax.strict import ConfigError

NUM_ITEMS, BINS = 60, 10
EVIL = '<img src=x onerror="alert(1)">&{{tasks}}'
TASK = """
test: rows.jsonl
query: "T: {{text}}\\nL:"
choices: [bad, good]
gold: label
templates:
  words: {choices: [awful, great]}
  long: {query: "Text: {{text}}\\nLabel:"}
"""


class Skilled:
  """Tells the right choice by `skill` nats from a wrong one, and has random opinions beside that."""

  def __init__(self, skill):
    self._skill = skill

  def excess(self, requests):
    return [0] * len(requests)

  def loglikelihood(self, requests, progress=None):
    return [Likelihood(self._log_p(*request), 3, False) for request in requests]

  def _log_p(self, context, choice):
    right = int(re.findall(r"row (\d+)", context)[-1]) % 2 == (choice in (" good", " great"))
    noise = int(hashlib.sha256((context + choice).encode()).hexdigest()[:8], 16) / 2**32
    return self._skill * right - 4 * noise - 5

  def write(self, contexts, g, progress=None):
    return [["a b"] * g.num_return_sequences for _ in contexts]


def made(name, d_model=16, step=0) -> Pretrained:
  config = reference.tiny(vocab_size=257, context_length=160, positions="learned", d_model=d_model)
  model = pretrained.untrained(Pretrained(config, None, tokenizers.Bytes(), {"end": 256}, (256,)))
  return dataclasses.replace(model, identity={"name": name, "step": step}, step=step, family="llama")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
  folder = tmp_path_factory.mktemp("task")
  rows = [{"text": f"row {i}", "label": i % 2} for i in range(NUM_ITEMS)]
  (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  (folder / "small.yaml").write_text(TASK)
  return folder / "small.yaml"


def ask(folder, task, name="m", skill=1.0, *, d_model=16, step=0, **settings):
  """Returns the rows of a made model on the task, kept in a folder."""
  s = Settings((str(task),), **({"shots": (0, 2)} | settings))
  model = made(name, d_model, step)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(few_shot_scores, "_RESAMPLES", 10)  # of errors that no test here looks at
    return few_shot_runs.run(model, s, name=name, folder=folder, quiet=True, reader=Skilled(skill))


@pytest.fixture(scope="module")
def folder(task, tmp_path_factory):
  """Two models of two sizes, three seeds and templates: not to be written to."""
  where = tmp_path_factory.mktemp("results")
  for name, skill, width in (("models/small", 0.5, 16), ("models/large", 2.0, 32)):
    ask(where, task, name, skill, d_model=width, seeds=(0, 1, 2), templates=("all",))
  return where


def lines(ax, width=None):
  return [line for line in ax.lines if width is None or line.get_linewidth() == width]


def items_of(folder, key):
  return pd.read_parquet(folder / "items" / f"{key}.parquet")


def by_hand(items):
  """Returns confidence and correct of each item."""
  p = np.array([np.exp(x) / np.exp(x).sum() for x in items["log_p"]])
  return p.max(1), p.argmax(1) == items["gold"].to_numpy()


def drawn(figure):
  """Draws a figure, so that what cannot be drawn fails here."""
  image = matplotlib.image.imread(io.BytesIO(figure_parts.encoded(figure, formats=("png",))["png"]))
  assert image[..., :3].std() > 0.01
  return figure


# --- what is read ---------------------------------------------------------------------------------------


def test_means_are_the_summaries_of_the_run_itself(task, tmp_path):
  rows = ask(tmp_path, task, seeds=(0, 1, 2), templates=("all",))
  means = few_shot_frame.means(few_shot_frame.load(tmp_path)).set_index(["n_shots", "metric"])
  summaries = [row for row in rows if row["prompt_id"] == "all"]
  assert len(summaries) > 10
  for row in summaries:
    mean = means.loc[row["n_shots"], row["metric"]]
    for ours, theirs in (
      ("value", "value"), ("stderr", "stderr"), ("n_items", "n_items"), ("n_seeds", "n_seeds"),
      ("n_templates", "n_templates"), ("chance", "chance"), ("variance_items", "variance_items"),
      ("variance_seeds", "variance_seeds"), ("variance_templates", "variance_templates"),
    ):  # fmt: skip
      expected = np.nan if row[theirs] is None else row[theirs]
      assert mean[ours] == pytest.approx(expected, nan_ok=True), (row["metric"], ours)
  ece = [row for row in rows if row["metric"] == "ece" and row["n_shots"] == 2]
  values = [row["value"] for row in ece]
  assert means.loc[2, "ece"][["value", "low", "high"]].tolist() == pytest.approx(
    [np.mean(values), min(values), max(values)]
  )
  assert np.isnan(means.loc[2, "ece"]["stderr"])


def test_one_cell_is_its_own_row(task, tmp_path):
  rows = ask(tmp_path, task, shots=(2,))
  means = few_shot_frame.means(few_shot_frame.load(tmp_path)).set_index("metric")
  assert len(rows) == len(means)
  for row in rows:
    mean = means.loc[row["metric"]]
    assert (mean["value"], mean["stderr"], mean["n_items"]) == (row["value"], row["stderr"], NUM_ITEMS)


def test_a_missing_seed_leaves_variances_missing(task, tmp_path):
  ask(tmp_path, task, shots=(2,), seeds=(0, 1))
  rows = ask(tmp_path, task, shots=(2,), templates=("words",))
  results = few_shot_frame.load(tmp_path)
  mean = few_shot_frame.means(results).set_index("metric").loc["accuracy"]
  cells = results.rows[results.rows["metric"] == "accuracy"]["value"]
  assert len(rows) and len(cells) == 3 and mean["value"] == pytest.approx(np.mean(cells))
  assert np.isnan(mean["stderr"]) and np.isnan(mean["variance_seeds"])


def test_of_the_same_asked_again_most_items_count(task, tmp_path, pixels_only):
  del pixels_only
  ask(tmp_path, task, shots=(0,))
  (few, *_), (all_of_them, *_) = ask(tmp_path, task, shots=(0,), limit=7), ask(tmp_path, task, shots=(0,))
  results = few_shot_frame.load(tmp_path)
  assert set(results.rows["key"]) == {all_of_them["key"]}
  assert results.left_out[["key", "instead"]].values.tolist() == [[few["key"], all_of_them["key"]]]
  page = few_shot_report.write(tmp_path).read_text()
  assert "1 results are not shown" in page and few["key"] in page


def test_ways_of_asking_stay_apart(task, tmp_path, pixels_only):
  del pixels_only
  gold, flipped = (ask(tmp_path, task, shots=(2,), labels=labels) for labels in ("gold", "flipped"))
  path = tmp_path / "results.jsonl"
  results = few_shot_frame.load(tmp_path)
  assert set(results.rows["series"]) == {"m, labels gold", "m, labels flipped"}
  assert {row["key"] for row in gold + flipped} == set(results.rows["key"])
  # A folder may know other ways of asking, which we have not seen, or none.
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  for row in rows:
    own = row.pop("labels") == "gold"
    row |= {"order": None if own else "reversed", "label_words": ["no", "yes"] if own else None}
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  results = few_shot_frame.load(tmp_path)
  assert set(results.rows["series"]) == {'m, label words ["no", "yes"]', "m, order reversed"}
  assert few_shot_report.write(tmp_path).exists()
  for row in rows:
    del row["order"], row["label_words"]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["key"] == gold[0]["key"]))
  assert set(few_shot_frame.load(tmp_path).rows["series"]) == {"m"}


def test_names_are_the_ends_of_paths_unless_two_share_it(task, folder, tmp_path):
  assert set(few_shot_frame.load(folder).rows["name"]) == {"small", "large"}
  for name in ("a/model", "b/model"):
    ask(tmp_path, task, name, shots=(0,))
  assert set(few_shot_frame.load(tmp_path).rows["name"]) == {"a/model", "b/model"}


def test_order_is_that_of_sizes_and_not_of_hashes(folder):
  rows = few_shot_frame.load(folder).rows
  assert list(rows["name"].drop_duplicates()) == ["small", "large"]
  assert list(rows["prompt_id"].drop_duplicates()) == ["default", "long", "words"]
  assert rows.loc[rows["n_shots"] == 2, "seed"].drop_duplicates().tolist() == [0, 1, 2]
  assert rows["metric"].iloc[:2].tolist() == ["accuracy", "accuracy_norm"]


def test_most_confident_mistakes(folder):
  results = few_shot_frame.load(folder)
  table = few_shot_frame.mistakes(results, most=5)
  for series in ("small", "large"):
    best, wrong_of = {}, {}
    for key in results.rows.loc[results.rows["series"] == series, "key"].unique():
      items = items_of(folder, key)
      for item, sure, right in zip(items["item"], *by_hand(items), strict=True):
        wrong_of.setdefault(item, []).append(not right)
        if not right:
          best[item] = max(sure, best.get(item, 0))
    own = table[table["series"] == series]
    assert own["confidence"].tolist() == pytest.approx(sorted(best.values(), reverse=True)[:5])
    for row in own.itertuples():
      assert best[row.item] == pytest.approx(row.confidence) and row.gold != row.chosen
      assert (row.n_wrong, row.n_asked) == (sum(wrong_of[row.item]), len(wrong_of[row.item]))
      assert row.n_asked == 3 + 9


BAD = {
  "not JSON": ("results.jsonl", "{", r"results\.jsonl: line 1 is not JSON"),
  "not a row": ("results.jsonl", "[1]", r"line 1 is no row of lm-jax evaluate; it lacks key, model"),
  "a column is absent": ("results.jsonl", '{"key": "a"}', r"it lacks model, task, n_shots"),
  "empty": ("results.jsonl", "", r"results\.jsonl: holds no results yet"),
  "value is a word": ("results.jsonl", None, r"value: must be a number or null in every row"),
  "items are gone": ("items", None, r"parquet: is not there, though results\.jsonl has rows of it"),
  "items are no parquet": ("items", "x", r"parquet: cannot be read as Parquet"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_folder_is_one_clear_line(task, tmp_path, case):
  where, text, words = BAD[case]
  rows = ask(tmp_path, task, shots=(0,))
  path = tmp_path / where
  if where == "items":
    path /= f"{rows[0]['key']}.parquet"
    path.unlink() if text is None else path.write_text(text)
  else:
    path.write_text(json.dumps(rows[0] | {"value": "high"}) + "\n" if text is None else text)
  with pytest.raises(ConfigError, match=words) as caught:
    few_shot_frame.load(tmp_path)
  assert "\n" not in str(caught.value)


# --- what is drawn --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(folder):
  results = few_shot_frame.load(folder)
  return results, few_shot_frame.means(results)


def test_scores_against_shots(loaded):
  results, means = loaded
  figure = few_shot_figures.against_shots(results.rows, means, ["accuracy", "choice_prob"])
  for ax, metric in zip(drawn(figure).axes, ("accuracy", "choice_prob"), strict=True):
    assert len(lines(ax, 0.5)) == 2 * 9  # models; seeds and templates
    for container, series in zip(ax.containers, ("small", "large"), strict=True):
      keys = results.rows.loc[results.rows["series"] == series].drop_duplicates("key")
      expected = [
        np.mean([results.items[key][metric].mean() for key in keys.loc[keys["n_shots"] == k, "key"]])
        for k in (0, 2)
      ]
      line, _, (bars,) = container
      assert line.get_xdata().tolist() == [0, 2] and line.get_ydata() == pytest.approx(expected)
      own = means[(means["series"] == series) & (means["metric"] == metric)].sort_values("n_shots")
      half = [np.diff(segment[:, 1]).item() / 2 for segment in bars.get_segments()]
      assert half == pytest.approx(own["stderr"].tolist())
      low, high = ax.get_ylim()
      assert all(low <= y <= high for segment in bars.get_segments() for y in segment[:, 1])
    assert [line.get_ydata()[0] for line in lines(ax, 0.9)] == [0.5]  # chance
  assert "60 items" in figure._supxlabel.get_text()
  assert [text.get_text() for text in figure.legends[0].get_texts()] == ["small", "large"]


def test_reliability_diagram(folder, loaded):
  calibration = pytest.importorskip("sklearn.calibration")
  results, _ = loaded
  figure = drawn(few_shot_confidence_figures.reliability(results, results.rows))
  rows = results.rows[(results.rows["prompt_id"] == "default") & (results.rows["seed"].fillna(0) == 0)]
  for i, series in enumerate(("small", "large")):
    for j, k in enumerate((0, 2)):
      ax, below = figure.axes[4 * i + j], figure.axes[4 * i + 2 + j]
      cell = rows[(rows["series"] == series) & (rows["n_shots"] == k)].set_index("metric")
      sure, right = by_hand(items_of(folder, cell["key"].iloc[0]))
      accuracy, mean = calibration.calibration_curve(right, sure, n_bins=BINS, strategy="quantile")
      ((line, _, (bars,)),) = ax.containers
      np.testing.assert_allclose(line.get_xydata(), np.stack([mean, accuracy], 1))
      for segment, share in zip(bars.get_segments(), accuracy, strict=True):
        assert segment[:, 1] == pytest.approx(_wilson(share, NUM_ITEMS // BINS))
      assert f"ECE {cell.loc['ece', 'value']:.3f}" in [text.get_text() for text in ax.texts]
      assert sum(bar.get_height() for bar in below.patches) == NUM_ITEMS
      assert len(lines(ax, 0.5)) == (2 if k == 0 else 8)  # other seeds and templates


def _wilson(share, n, z=1.959963984540054):
  middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
  half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
  return [middle - half, middle + half]


def test_selective_accuracy(folder, loaded):
  results, _ = loaded
  figure = drawn(few_shot_confidence_figures.selective(results, results.rows))
  for ax, k in zip(figure.axes, (0, 2), strict=True):
    for line, series in zip(lines(ax, 1.4), ("small", "large"), strict=True):
      own = results.rows[(results.rows["series"] == series) & (results.rows["n_shots"] == k)]
      curves = []
      for key in own["key"].unique():
        sure, right = by_hand(items_of(folder, key))
        curves.append(np.cumsum(right[np.argsort(-sure)]) / np.arange(1, NUM_ITEMS + 1))
      np.testing.assert_allclose(line.get_xdata(), np.arange(1, NUM_ITEMS + 1) / NUM_ITEMS)
      np.testing.assert_allclose(line.get_ydata(), np.mean(curves, 0))
      metrics = own.groupby("metric")["value"].mean()
      assert line.get_ydata()[-1] == pytest.approx(metrics["accuracy"])
      assert line.get_label() == f"AURC {metrics['aurc']:.3f}"
      assert f"{1 - np.mean(curves):.3f}" == f"{metrics['aurc']:.3f}"
    assert [line.get_ydata()[0] for line in lines(ax, 0.9)] == [0.5]


def test_spread_over_prompts(loaded):
  results, _ = loaded
  figure = drawn(few_shot_figures.over_prompts(results, results.rows, "accuracy"))
  above, below = figure.axes[1], figure.axes[3]
  own = results.rows[(results.rows["n_shots"] == 2) & (results.rows["metric"] == "accuracy")]
  dots = [line for line in above.lines if line.get_linestyle() == "None"]
  for line, series in zip(dots, ("small", "large"), strict=True):
    assert sorted(line.get_xdata()) == sorted(own.loc[own["series"] == series, "value"])
  names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
  assert names == list(results.rows["prompt_id"].drop_duplicates()) and len(names) == 3
  widths = [bar.get_width() for bar in below.patches]
  expected = []
  for series in ("small", "large"):
    cells = own[own["series"] == series]
    score_NST = np.array([
      [
        results.items[cells.loc[(cells["seed"] == seed) & (cells["prompt_id"] == name), "key"].item()]
        .set_index("item")["accuracy"].sort_index()
        for name in names
      ]
      for seed in (0, 1, 2)
    ]).transpose(2, 0, 1)  # fmt: skip
    v = uncertainty.variance_components(score_NST)
    expected += [np.sqrt(max(x, 0)) for x in (v.template, v.seed, v.seed_template)]
    expected.append(few_shot_figures.standard_deviations(v)["items"])
  assert widths == pytest.approx(expected)
  once = results.rows[(results.rows["prompt_id"] == "default") & results.rows["seed"].isin([0])]
  assert few_shot_figures.over_prompts(results, once, "accuracy") is None


def test_standard_deviations_are_those_that_scores_are_made_with():
  rng = np.random.default_rng(0)
  N, S, T, sd = 200, 60, 60, {"seed": 0.2, "template": 0.4, "seed_template": 0.1, "items": 0.05}
  score_NST = (
    sd["seed"] * rng.standard_normal((1, S, 1)) + sd["template"] * rng.standard_normal((1, 1, T))
    + sd["seed_template"] * rng.standard_normal((1, S, T))
    + sd["items"] * np.sqrt(N / 2) * rng.standard_normal((N, 1, 1))
    + sd["items"] * np.sqrt(N / 2) * rng.standard_normal((N, S, T))
  )  # fmt: skip
  found = few_shot_figures.standard_deviations(uncertainty.variance_components(score_NST))
  assert found == pytest.approx(sd, rel=0.25)
  alone = few_shot_figures.standard_deviations(uncertainty.variance_components(score_NST[:, :1, :]))
  assert set(alone) == {"template", "items"}


def test_scores_against_parameters(loaded):
  _, means = loaded
  figure = drawn(few_shot_figures.against_size(means, ["accuracy", "nll"]))
  for ax, metric in zip(figure.axes, ("accuracy", "nll"), strict=True):
    for (line, *_), k in zip(ax.containers, (0, 2), strict=True):
      own = means[(means["metric"] == metric) & (means["n_shots"] == k)].sort_values("params_total")
      assert line.get_xdata().tolist() == own["params_total"].tolist()
      assert line.get_ydata().tolist() == own["value"].tolist()
  assert len(set(means["params_total"])) == 2
  assert few_shot_figures.against_size(means[means["series"] == "small"], ["accuracy"]) is None
  assert few_shot_figures.against_step(means, ["accuracy"]) is None


def test_scores_against_steps_and_only_the_last_step_is_compared(task, tmp_path, pixels_only):
  del pixels_only
  for step, skill in ((10, 0.1), (20, 1.0), (40, 3.0)):
    ask(tmp_path, task, "run", skill, step=step)
  results = few_shot_frame.load(tmp_path)
  means = few_shot_frame.means(results)
  figure = drawn(few_shot_figures.against_step(means, ["accuracy"]))
  (ax,) = figure.axes
  values = []
  for (line, *_), k in zip(ax.containers, (0, 2), strict=True):
    own = means[(means["metric"] == "accuracy") & (means["n_shots"] == k)].set_index("step")["value"]
    assert line.get_xdata().tolist() == [10, 20, 40]
    assert line.get_ydata().tolist() == [own[step] for step in (10, 20, 40)]
    values.append(own)
  assert values[0][40] > values[0][10]
  assert set(few_shot_frame.last_steps(results.rows)["step"]) == {40}
  page = few_shot_report.write(tmp_path)
  assert (page.parent / "figures/score_vs_step.small.png").exists()
  assert "<td" in page.read_text() and ">Step<" in page.read_text()


def test_a_discontinuous_metric_stands_beside_a_continuous_one():
  assert few_shot_look.pair(["accuracy", "nll", "choice_prob", "ece"]) == ["accuracy", "choice_prob"]
  assert few_shot_look.pair(["exact_match", "nll"]) == ["exact_match", "nll"]
  assert few_shot_look.pair(["rougeL", "exact_match", "f1"]) == ["exact_match", "f1"]
  assert few_shot_look.pair(["bleu", "chrf"]) == ["chrf", "bleu"]
  assert few_shot_look.pair(["recall_at_1", "recall_at_5"]) == ["recall_at_1", "recall_at_5"]
  assert few_shot_look.pair(["pass_at_1"]) == ["pass_at_1"]


def test_a_few_of_many_numbers_of_shots_hold_both_ends():
  assert few_shot_look.some([4, 0, 1]) == [0, 1, 4]
  assert few_shot_look.some(range(9)) == [0, 3, 5, 8]


def test_answers_are_the_choices_with_the_largest_p(loaded):
  results, _ = loaded
  for items in results.items.values():
    found = few_shot_frame.answers(items)
    p = special.softmax(np.stack(items["log_p"]), axis=1)
    assert found["confidence"].tolist() == pytest.approx(p.max(1).tolist())
    assert (found["correct"] == (items["accuracy"] == 1)).all()
    ece = confidence.expected_calibration_error(found["confidence"].to_numpy(), found["correct"].to_numpy())
    key = next(key for key, table in results.items.items() if table is items)
    rows = results.rows[(results.rows["key"] == key) & (results.rows["metric"] == "ece")]
    assert rows["value"].item() == pytest.approx(ece)


# --- what is written ------------------------------------------------------------------------------------


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
def pixels_only(monkeypatch):
  one = functools.partial(figure_parts.encoded, formats=("png",))
  monkeypatch.setattr(figure_parts, "encoded", one)


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
