"""Successive halving of learning rates: of runs that differ in nothing else, the worse half ends early.

Cells of one config but for learning rate and seeds are a group. On the way there are rungs, at a half of
the steps, a quarter, and so on; at each the better half of the group's learning rates goes on, until two
are left, which are trained to the end (Jamieson and Talwalkar, arXiv:1502.07943). Better is by training
loss just before the rung, the mean over seeds; runs of one seed read the same batches. Before its schedule
has decayed a large learning rate looks worse than it will be: no rung is within twice the warmup, and the
last two are compared at the end only.

All is decided from records, so that the same command decides the same, and goes on from there.
"""

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax import failures, records, rundir, scaling
from lm_jax.config import Config, ParallelConfig, RuntimeConfig
from lm_jax.launch.base import DirectoryOf, Outcome
from lm_jax.rundir import RunDir
from lm_jax.sweep import Cell

# So many learning rates are trained to the end at least.
LAST = 2
# The loss at a rung is that of the steps since this share of them.
_SINCE = 0.75
_WARMUPS = 2


@dataclasses.dataclass(frozen=True)
class Rung:
  """A step, and how many learning rates go on from there."""

  step: int
  kept: int


@dataclasses.dataclass(frozen=True)
class Decision:
  """What was decided at a rung.

  Attributes:
    losses: in nats, by learning rate; infinite where a seed diverged, None where no seed has one.
    kept: the learning rates that go on.
  """

  step: int
  losses: Mapping[float, float | None]
  kept: tuple[float, ...]

  def reason(self, rate: float) -> str:
    """Says why a learning rate does not go on."""
    ranked = sorted(value for value in self.losses.values() if value is not None)
    loss = self.losses[rate]
    if loss is None:
      return f"halving: learning rate {rate:g} has no loss at step {self.step}"
    place = f"{ranked.index(loss) + 1} of {len(self.losses)} learning rates"
    return f"halving: learning rate {rate:g} is {place} at step {self.step}, with training loss {loss:.4g}"


@dataclasses.dataclass(frozen=True)
class Look:
  """How a group stands: what was decided of it, what is to be trained next and how far, and what ended."""

  decisions: tuple[Decision, ...]
  next: tuple[tuple[Cell, int | None], ...]
  pruned: tuple[tuple[Cell, str], ...]


def groups(cells: Sequence[Cell]) -> list["Group"]:
  """Returns the cells in groups, those of one learning rate too, in the order of their first ones."""
  found: dict[Config, list[Cell]] = {}
  for cell in cells:
    found.setdefault(_but_for_learning_rate(cell.config), []).append(cell)
  return [Group(tuple(group)) for group in found.values()]


def _but_for_learning_rate(config: Config) -> Config:
  optimizer = dataclasses.replace(config.optimizer, learning_rate=1.0)
  return dataclasses.replace(
    config, seed=0, data_seed=None, optimizer=optimizer, parallel=ParallelConfig(), runtime=RuntimeConfig()
  )


def rungs(config: Config, num_rates: int) -> list[Rung]:
  """Returns the rungs of a run; none where there are no more than two learning rates."""
  kept = list(_halved(num_rates))
  every, first = config.runtime.log_every, _WARMUPS * config.optimizer.warmup_steps
  found: dict[int, Rung] = {}
  for i, count in enumerate(kept):
    at = max(math.ceil(config.train.num_steps / 2 ** (len(kept) - i)), first)
    step = -(-at // every) * every  # where a loss is written down
    if step < config.train.num_steps:
      found[step] = Rung(step, count)  # of several at one step the last counts
  return list(found.values())


def _halved(count: int) -> Iterator[int]:
  while count > LAST:
    count = max(-(-count // 2), LAST)
    yield count


class Group:
  """Cells that differ in learning rate and seeds only.

  Attributes:
    rates: {learning rate: its cells}, the smallest first.
  """

  def __init__(self, cells: tuple[Cell, ...]):
    self.cells = cells
    found = collections.defaultdict(list)
    for cell in cells:
      found[cell.config.optimizer.learning_rate].append(cell)
    self.rates = {rate: tuple(found[rate]) for rate in sorted(found)}
    self.rungs = rungs(cells[0].config, len(self.rates))

  def flops(self) -> float:
    """Returns what training takes with the runs that halving ends left out, as far as is known before."""
    config = self.cells[0].config
    share, before, rates = 0.0, 0, len(self.rates)
    for rung in (*self.rungs, Rung(config.train.num_steps, 0)):
      share += rates * (rung.step - before) / config.train.num_steps
      before, rates = rung.step, rung.kept
    return scaling.train_flops(config) * share * len(self.cells) / len(self.rates)

  def look(self, directory_of: DirectoryOf, ended: Mapping[str, Outcome]) -> Look:
    """Returns how the group stands.

    Args:
      ended: {cell id: why it is not trained any further}. What failed is compared without, what diverged is
        the worst, and what was stopped is waited for.
    """
    # Where there is no rung, nothing has to be read.
    curves = {cell.cell_id: _losses(Path(directory_of(cell))) for cell in self.cells if self.rungs}
    in_play, decisions, pruned = list(self.rates), [], []
    for rung in self.rungs:
      cells = [cell for rate in in_play for cell in self.rates[rate]]
      waiting = [
        cell for cell in cells
        if max(curves[cell.cell_id], default=0) < rung.step and not _has_failed(cell, ended)
      ]  # fmt: skip
      if waiting:
        following = tuple((cell, rung.step) for cell in waiting if cell.cell_id not in ended)
        return Look(tuple(decisions), following, tuple(pruned))
      losses = {rate: self._loss(rate, rung, curves, ended) for rate in in_play}
      finite = [rate for rate in in_play if losses[rate] is not None and math.isfinite(losses[rate])]
      kept = sorted(sorted(finite, key=losses.__getitem__)[: rung.kept])
      decision = Decision(rung.step, losses, tuple(kept))
      decisions.append(decision)
      pruned += [
        (cell, decision.reason(rate)) for rate in in_play if rate not in kept for cell in self.rates[rate]
      ]
      in_play = kept
    following = tuple(
      (cell, None) for rate in in_play for cell in self.rates[rate]
      if cell.cell_id not in ended and not RunDir(Path(directory_of(cell))).is_done()
    )  # fmt: skip
    return Look(tuple(decisions), following, tuple(pruned))

  def _loss(
    self, rate: float, rung: Rung, curves: Mapping[str, Mapping[int, float]], ended: Mapping[str, Outcome]
  ) -> float | None:
    found = []
    for cell in self.rates[rate]:
      curve = curves[cell.cell_id]
      if max(curve, default=0) < rung.step:
        if ended[cell.cell_id].kind == failures.DIVERGED:
          return math.inf
        continue
      last = [step for step in curve if _SINCE * rung.step < step <= rung.step]
      last = last or [max((step for step in curve if step <= rung.step), default=min(curve))]
      found.append(math.fsum(curve[step] for step in last) / len(last))
    return math.fsum(found) / len(found) if found else None


def _has_failed(cell: Cell, ended: Mapping[str, Outcome]) -> bool:
  return cell.cell_id in ended and ended[cell.cell_id].state == rundir.FAILED


def _losses(directory: Path) -> dict[int, float]:
  """Returns the training losses of a run that are written down, by step."""
  try:
    rows = records.read(RunDir(directory).records)
  except (FileNotFoundError, ValueError):
    return {}
  return {row["step"]: row["value"] for row in rows if (row["split"], row["metric"]) == ("train", "loss")}


def stopping_at(cell: Cell, step: int | None) -> Cell:
  """Returns the cell as a launcher is to train it: to a step, or as its config says."""
  if step is None:
    return cell
  asked = cell.config.runtime.stop_at
  runtime = dataclasses.replace(cell.config.runtime, stop_at=min(step, asked) if asked else step)
  return dataclasses.replace(cell, config=dataclasses.replace(cell.config, runtime=runtime))


def described(group: Group, look: Look) -> dict[str, Any]:
  """Returns what was decided of a group, for sweep.json; a loss that is infinite is "diverged"."""
  cell = group.cells[0]
  return {
    "task": cell.config.task.name, "family": cell.config.family, "label": cell.label,
    "learning_rates": list(group.rates), "seeds": len(group.cells) / len(group.rates),
    "rungs": [
      {"step": d.step, "kept": list(d.kept),
       "losses": [[rate, "diverged" if loss == math.inf else loss] for rate, loss in d.losses.items()]}
      for d in look.decisions
    ],
  }  # fmt: skip
