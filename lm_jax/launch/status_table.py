"""How cells stand, in words and as a table for the terminal."""

import re
import textwrap
from collections.abc import Iterator, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions
from rich.text import Text

from lm_jax.launch.statuses import LOST, STATES, WAITING, Row, state, totals
from lm_jax.rundir import DONE, FAILED, PAUSED, PRUNED, RUNNING, STOPPED

_STYLES = {RUNNING: "cyan", FAILED: "bold red", LOST: "bold yellow", STOPPED: "yellow", PAUSED: "blue",
           WAITING: "dim", PRUNED: "dim", DONE: "green"}  # fmt: skip
# Of the table's columns: name, side, texts.
Column = tuple[str, str, list[str]]


# --- words ----------------------------------------------------------------------------------------


def duration(seconds: float | None) -> str:
  """Returns e.g. "45 s", "3 m 20 s", "2 h 05 m"; "?" for None."""
  if seconds is None:
    return "?"
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  if hours:
    return f"{hours} h {m:02d} m"
  return f"{m} m {s:02d} s" if m else f"{s} s"


def status_line(row: Row) -> str:
  """Returns one line about a cell; what went wrong is told by `notes`."""
  status = row["status"] or {}
  parts = [f"{row['cell_id']} {row['label']} seed {row['seed']}: {state(row)}"]
  if "step" in status:
    parts.append(f"step {status['step']}/{status['num_steps']}")
  if status.get("loss") is not None:
    parts.append(f"loss {status['loss']:.3f}")
  if status.get("tokens_per_s"):
    parts.append(f"{status['tokens_per_s']:,.0f} tokens/s")
  if state(row) == RUNNING:
    parts.append(f"{duration(status.get('eta_s'))} left")
  return _printable(", ".join(parts))


def notes(row: Row) -> list[str]:
  """Returns what is wrong with a cell: its error's kind and lines, or for how long it is silent."""
  status = row["status"] or {}
  if status.get("silent_s"):
    ago = duration(status["silent_s"])
    by_watch = status["silent_by"] == "watch"
    return [f"silent for {ago}" if by_watch else f"last heard of {ago} ago, by its machine's clock"]
  if status.get("unreadable"):
    return [
      _printable(f"{status['unreadable']}; it goes on from its checkpoints when the sweep is run again")
    ]
  if state(row) == LOST:
    return [f"its process ({who(row)}) died without a word; it goes on when the sweep is run again"]
  text = status.get("error")
  if not text:
    return []
  kind = status["kind"].replace("_", " ") if status.get("kind") else ""
  kind = "" if text.lower().startswith(kind) else f"{kind}: "
  return [_printable(line) for line in (kind + text).splitlines() if line.strip()]


def who(row: Row) -> str:
  """Returns the host and the process that runs a cell, or was the last to; "" where none did."""
  status = row["status"] or {}
  return f"{status['host']}:{status['pid']}" if "pid" in status else ""


def summary(rows: Sequence[Row]) -> str:
  """Returns e.g. "8 cells: 2 running, 6 done; 3.1e+12 of 4e+12 FLOPs, about 3 m 20 s left"."""
  return f"{_counts(rows)}; {_amount(rows)}"


def _counts(rows: Sequence[Row]) -> str:
  counts = totals(rows).counts
  cells = f"{len(rows)} cell{'' if len(rows) == 1 else 's'}"
  return f"{cells}: {', '.join(f'{count} {name}' for name, count in counts.items())}"


def _amount(rows: Sequence[Row]) -> str:
  whole = totals(rows)
  flops = f"{whole.flops_done:.3g} of {whole.flops:.3g} FLOPs" if whole.flops else "done"
  return flops + (f", about {duration(whole.left_s)} left" if whole.left_s is not None else "")


def _printable(text: str) -> str:
  """Returns text without what would steer a terminal."""
  return re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text)


# --- the table ------------------------------------------------------------------------------------


class StatusTable:
  """All cells at one moment, for `rich`: what runs comes first, then what went wrong.

  It is as wide as the terminal and no higher: cells that have no room are counted.
  """

  def __init__(self, study: str, rows: Sequence[Row]):
    self._study = _printable(study)
    self._rows = sorted(rows, key=lambda row: STATES.index(state(row)))

  def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
    width = options.max_width
    columns, told = self._layout(width)
    head = Text.assemble((self._study, "bold"), "  ", *self._colored_counts(), told).wrap(console, width)
    yield from head
    yield self._bar(min(width, 100), ascii_only=options.ascii_only)
    # The cursor stands on a line of its own.
    left = max(console.size.height - 4 - len(head), 1)
    widths = [max(cell_len(text) for text in [name, *texts]) for name, _, texts in columns]
    gap = " " * self._gap(widths, width)
    heads = [_justified(name, w, side) for (name, side, _), w in zip(columns, widths, strict=True)]
    yield _cropped(Text(gap.join(heads), "dim"))
    for i, row in enumerate(self._rows):
      under = self._under(row, width, columns)
      left -= 1 + len(under)
      if left < 0 or (left == 0 and i + 1 < len(self._rows)):
        yield _cropped(Text(f"and {_counts(self._rows[i:])}", "dim"))
        return
      yield _cropped(self._line(row, i, columns, widths, gap))
      yield from under

  def _layout(self, width: int) -> tuple[list[Column], str]:
    """Returns the columns that fit: what can be said shorter is, before anything is left out."""
    hosts = {row["status"]["host"] for row in self._rows if _is_told_who(row)}
    # All on one machine: its name is told once.
    told = f", on {_printable(next(iter(hosts)))}" if len(hosts) == 1 else ""
    for short, by in ((False, True), (True, True), (True, False)):
      columns = self._columns(short=short, by=by, one_host=bool(told) and short)
      widths = [max(cell_len(text) for text in [name, *texts]) for name, _, texts in columns]
      if sum(widths) + self._gap(widths, width) * (len(widths) - 1) <= width:
        break
    return columns, told if short and by else ""

  def _gap(self, widths: Sequence[int], width: int) -> int:
    return 2 if sum(widths) + 2 * (len(widths) - 1) <= width else 1

  def _columns(self, *, short: bool, by: bool, one_host: bool) -> list[Column]:
    rows = self._rows
    statuses = [row["status"] or {} for row in rows]
    running = [s if s.get("state") == RUNNING else {} for s in statuses]
    ids = [row["cell_id"] for row in rows]
    columns = [
      ("cell", "left", _abbreviated(ids) if short else ids),
      ("size", "left", [row["label"] for row in rows]),
      ("family", "left", [row.get("family", "") for row in rows]),
      ("seed", "right", [str(row["seed"]) for row in rows]),
      ("state", "left", [state(row) for row in rows]),
      ("step", "right", [f"{s['step']}/{s['num_steps']}" if "step" in s else "" for s in statuses]),
      ("loss", "right", [_number(s.get("loss"), ".3f") for s in statuses]),
      ("tok/s", "right", [_thousands(s.get("tokens_per_s")) for s in running]),
      ("left", "right", [duration(s["eta_s"]) if s.get("eta_s") else "" for s in running]),
    ]  # fmt: skip
    if len({row.get("family") for row in rows}) == 1:  # it tells nothing apart
      del columns[2]
    if by:
      texts = [who(row) if _is_told_who(row) else "" for row in rows]
      columns.append(("pid", "right", [t.rpartition(":")[2] for t in texts]) if one_host else
                     ("run by", "left", texts))  # fmt: skip
    return [(name, side, [_printable(t) for t in texts]) for name, side, texts in columns if any(texts)]

  def _line(self, row: Row, i: int, columns: list[Column], widths: Sequence[int], gap: str) -> Text:
    line, style = Text(), _STYLES[state(row)]
    for k, ((name, side, texts), width) in enumerate(zip(columns, widths, strict=True)):
      quiet = "dim" if state(row) in (WAITING, PRUNED, DONE) else ""
      line.append(gap if k else "").append(
        _justified(texts[i], width, side), style if name == "state" else quiet
      )
    return line

  def _under(self, row: Row, width: int, columns: list[Column]) -> list[Text]:
    """Returns the lines below a cell's own."""
    lines = notes(row)[:1]
    if state(row) == RUNNING and columns[-1][0] not in ("pid", "run by"):
      lines.append(f"run by {who(row)}")
    indent = "  "
    wrapped = [part for line in lines for part in textwrap.wrap(line, max(width - 3, 10), max_lines=3)]
    return [Text(indent + part, _STYLES[state(row)].replace("bold ", "")) for part in wrapped]

  def _colored_counts(self) -> list[tuple[str, str] | str]:
    parts: list[tuple[str, str] | str] = []
    for name, count in totals(self._rows).counts.items():
      parts += [", " if parts else "", (f"{count} {name}", _STYLES[name])]
    return parts

  def _bar(self, width: int, *, ascii_only: bool) -> Text:
    text = f" {totals(self._rows).fraction:4.0%}, {_amount(self._rows)}"
    length = max(width - cell_len(text), 4)
    full = round(length * totals(self._rows).fraction)
    mark = "=" if ascii_only else "━"
    return _cropped(Text.assemble((mark * full, "green"), (mark * (length - full), "bright_black"), text))


def _cropped(text: Text) -> Text:
  text.no_wrap, text.overflow = True, "ellipsis"
  return text


def _is_told_who(row: Row) -> bool:
  return state(row) == RUNNING


def _abbreviated(ids: Sequence[str]) -> list[str]:
  """Returns beginnings of ids that still tell them apart."""
  length = next((n for n in (6, 8, 10) if len({one[:n] for one in ids}) == len(set(ids))), None)
  return [one[:length] for one in ids]


def _justified(text: str, width: int, side: str) -> str:
  return set_cell_size(text, width) if side == "left" else " " * (width - cell_len(text)) + text


def _number(value: float | None, form: str) -> str:
  return "" if value is None else format(value, form)


def _thousands(value: float | None) -> str:
  """Returns e.g. "950", "12.3k", "305k", "1.2M"."""
  if value is None:
    return ""
  for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
    if value >= factor:
      return f"{value / factor:.{0 if value >= 100 * factor else 1}f}{letter}"
  return f"{value:.0f}"
