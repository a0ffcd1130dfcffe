"""Pieces of any figure, the numbers behind it, and its files."""

import dataclasses
import io
import itertools
import re
import textwrap
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from lm_jax.analysis.figures.style import (
  FORMATS,
  GREY,
  TEXT_WIDTH,
)

# More are thinned out: they could not be told apart.
MAX_LABELS, MAX_SIZE_TICKS = 20, 14
_PADDING = 0.03  # inches
_KEY_LETTERS = 96  # of the key, that are as wide as the axes of one panel


class Numbers:
  """The numbers that a figure has drawn: each piece adds what it draws, and nothing else does."""

  def __init__(self):
    self._parts: list[pd.DataFrame] = []

  def add(self, table: pd.DataFrame, columns: list[str], **same: object) -> None:
    self._parts.append(table[columns].assign(**same))

  def table(self) -> pd.DataFrame:
    if not self._parts:
      return pd.DataFrame()
    whole = pd.concat([part.astype(object) for part in self._parts], ignore_index=True)
    first = [c for c in ("kind", "task", "metric", "shots", "family", "label") if c in whole]
    return whole[first + [c for c in whole if c not in first]]


@dataclasses.dataclass(frozen=True)
class Drawing:
  """A figure with the numbers behind it; `stem` is what its files are called without their endings."""

  stem: str
  figure: Figure
  numbers: pd.DataFrame


def some(n: int, most: int) -> list[int]:
  """Returns the places of at most `most` of n things, evenly, with the first and the last."""
  return sorted(set(np.linspace(0, n - 1, min(n, most)).round().astype(int).tolist())) if n else []


def label_ends(ax: Axes, ends: list[tuple[float, str, str]], size: float = 7) -> None:
  """Writes (y, text, color) right of the axes at the lines' last heights, pushed apart where they meet."""
  ends = sorted((e for e in ends if np.isfinite(e[0])), key=lambda e: e[0])
  ends = [ends[i] for i in some(len(ends), MAX_LABELS)]
  low, high = ax.get_ylim()
  y = np.array([(e[0] - low) / (high - low) for e in ends])
  gap = 1.25 * size / 72 / (ax.get_figure().get_figheight() * 0.72)
  for i in range(1, len(y)):
    y[i] = max(y[i], y[i - 1] + gap)
  if len(y) and y[-1] > 1.02:
    y[-1] = 1.02
    for i in range(len(y) - 2, -1, -1):
      y[i] = min(y[i], y[i + 1] - gap)
  for at, (_, text, color) in zip(y, ends, strict=True):
    ax.annotate(text, (1.02, at), xycoords="axes fraction", va="center", color=color, fontsize=size,
                annotation_clip=False)  # fmt: skip


def key(ax: Axes, text: str) -> None:
  """Says below the axes what the marks are, so that the figure can be read without its page."""
  ax.annotate(
    textwrap.fill(text, _KEY_LETTERS), (0, 0), xycoords="axes fraction", xytext=(0, -34), fontsize=6,
    textcoords="offset points", color=GREY, annotation_clip=False, va="top",
  )  # fmt: skip


def log_x(ax: Axes, values: pd.Series) -> None:
  # Within a factor of two the axis is as good as linear, and reads better so.
  if not len(values) or (values <= 0).any() or values.max() < 2 * values.min():
    return
  ax.set_xscale("log")
  if values.max() < 10 * values.min():
    some_powers(ax.xaxis)
  else:
    powers(ax.xaxis)


def powers(axis: Axis) -> None:
  """Numbers a logarithmic axis as matplotlib would."""
  axis.set_major_formatter(_Powers())
  axis.set_minor_formatter(_Powers())


def some_powers(axis: Axis, multiples: Sequence[float] = (1, 2, 3, 5, 7)) -> None:
  """Numbers these multiples of powers of ten: an axis of hardly a decade would be left with one number."""
  axis.set_major_locator(mpl.ticker.LogLocator(subs=multiples))
  axis.set_major_formatter(_Powers(labelOnlyBase=False, minor_thresholds=(np.inf, np.inf)))
  axis.set_minor_formatter(mpl.ticker.NullFormatter())


class _Powers(mpl.ticker.LogFormatterSciNotation):
  """Powers of ten as plain text, 3×10⁵, which need not be parsed as mathematics when laid out."""

  def __call__(self, x: float, pos: int | None = None) -> str:
    text = super().__call__(x, pos).removeprefix(r"$\mathdefault{").removesuffix("}$").replace(r"\times", "×")
    return re.sub(r"\^\{(.*?)\}", lambda match: match[1].translate(_SUPERSCRIPT), text)


_SUPERSCRIPT = str.maketrans("-−0123456789", "⁻⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _shared_words(labels: pd.Series) -> str:
  """Returns the words that all labels begin with: of sizes at one place, what is the same of them."""
  words = zip(*(label.split(" ") for label in labels), strict=False)
  return " ".join(w[0] for w in itertools.takewhile(lambda w: len(set(w)) == 1, words))


def size_axis(ax: Axes, means: pd.DataFrame, x: str) -> None:
  """Names the sizes above the axes, some of them where there are many."""
  names = means.groupby(x)["label"].agg(_shared_words)
  names = names.iloc[some(len(names), MAX_SIZE_TICKS)]
  top = ax.secondary_xaxis("top")
  top.set_xticks(names.index.to_numpy(), names.tolist(), fontsize=6, color=GREY, rotation=35, ha="left",
                 rotation_mode="anchor")  # fmt: skip
  top.xaxis.set_minor_locator(mpl.ticker.NullLocator())
  top.tick_params(length=2, color=GREY)
  top.spines["top"].set_visible(False)


def new_figure(columns: int = 1, height: float = 3.1, width: float = TEXT_WIDTH) -> tuple[Figure, list[Axes]]:
  figure = Figure(figsize=(width, height))
  return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def file_part(name: str, index: int) -> str:
  """Returns a task's name as part of a file's name: letters, digits, "_" and "-" only, unique by index."""
  kept = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in name)
  return kept if kept == name else f"{kept}-{index}"


def encoded(figure: Figure, formats: tuple[str, ...] = FORMATS) -> dict[str, bytes]:
  """Returns {ending: content}."""
  # Layout and extent are found once for all: they take longer than all else of a figure.
  FigureCanvasAgg(figure)
  engine = figure.get_layout_engine()
  if engine is not None:  # one that was laid out before has none
    engine.execute(figure)
  extent = figure.get_tightbbox().padded(_PADDING)
  # With no engine at all, not even an idle one, nothing is drawn a second time to find the layout.
  with mpl.rc_context({"figure.constrained_layout.use": False}):
    figure.set_layout_engine(None)
    return {ending: _encode(figure, ending, extent) for ending in formats}


def _encode(figure: Figure, ending: str, extent: Bbox) -> bytes:
  buffer = io.BytesIO()
  dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}
  figure.savefig(buffer, format=ending, bbox_inches=extent, metadata=dates[ending])
  return buffer.getvalue()
