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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax import failures, records, rundir, scaling
from lm_jax.config import Config, ParallelConfig, RuntimeConfig
from lm_jax.launch.base import DirectoryOf, Outcome
from lm_jax.rundir import RunDir
from lm_jax.strict import ConfigError
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
    losses: in nats, by learning rate, over the seeds that all have; infinite where one diverged, None where
      there is none: all seeds failed, or none is written down there, and then all go on.
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
    place = f"{ranked.index(loss) + 1} of {len(self.losses)}"
    return f"halving: learning rate {rate:g} ranks {place} at step {self.step}, by training loss ({loss:.4g})"


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

  def most_flops(self, step_of: Callable[[Cell], int]) -> float:
    """Returns the most that is left to train, whichever learning rates go on: the least advanced ones do."""
    config = self.cells[0].config
    steps = {rate: [step_of(cell) for cell in cells] for rate, cells in self.rates.items()}
    in_play = sorted(self.rates, key=lambda rate: sum(steps[rate]))
    left, before = 0, 0
    for rung in (*self.rungs, Rung(config.train.num_steps, 0)):
      left += sum(max(rung.step - max(step, before), 0) for rate in in_play for step in steps[rate])
      before, in_play = rung.step, in_play[: rung.kept]
    return scaling.train_flops(config) * left / config.train.num_steps

  def look(self, directory_of: DirectoryOf, ended: Mapping[str, Outcome]) -> Look:
    """Returns how the group stands.

    Args:
      ended: {cell id: why it is not trained any further}. What failed is compared without, what diverged is
        the worst, and what was stopped is waited for.
    """
    # Where there is no rung, nothing has to be read.
    runs = {cell.cell_id: _Run(cell, Path(directory_of(cell)), ended) for cell in self.cells if self.rungs}
    in_play, decisions, pruned = list(self.rates), [], []
    for rung in self.rungs:
      of_rate = {rate: [runs[cell.cell_id] for cell in self.rates[rate]] for rate in in_play}
      waiting = [run.cell for own in of_rate.values() for run in own if run.is_before(rung)]
      if waiting:
        following = tuple((cell, rung.step) for cell in waiting if cell.cell_id not in ended)
        return Look(tuple(decisions), following, tuple(pruned))
      decision = _decide(rung, of_rate)
      decisions.append(decision)
      pruned += [
        (run.cell, decision.reason(rate))
        for rate, own in of_rate.items() if rate not in decision.kept for run in own
      ]  # fmt: skip
      in_play = list(decision.kept)
    following = tuple(
      (cell, None) for rate in in_play for cell in self.rates[rate]
      if cell.cell_id not in ended and not RunDir(Path(directory_of(cell))).is_done()
    )  # fmt: skip
    return Look(tuple(decisions), following, tuple(pruned))


def _decide(rung: Rung, of_rate: Mapping[float, Sequence["_Run"]]) -> Decision:
  diverged = {rate for rate, runs in of_rate.items() if any(run.diverged_before(rung) for run in runs)}
  found = {
    rate: {run.seeds: run.loss(rung) for run in runs if not run.failed_before(rung)}
    for rate, runs in of_rate.items() if rate not in diverged
  }  # fmt: skip
  found = {rate: by_seed for rate, by_seed in found.items() if by_seed}
  # A seed that one learning rate lacks says nothing of the others: runs of one seed read the same batches.
  common = set.intersection(*map(set, found.values())) if found else set()
  means = {
    rate: None if not common or None in by_seed.values()
    else math.fsum(by_seed[seed] for seed in common) / len(common)
    for rate, by_seed in found.items()
  }  # fmt: skip
  losses = {rate: math.inf if rate in diverged else means.get(rate) for rate in of_rate}
  if None in means.values():  # nothing to compare: nothing ends
    return Decision(rung.step, losses, tuple(of_rate))
  kept = sorted(sorted(means, key=means.__getitem__)[: rung.kept])
  return Decision(rung.step, losses, tuple(kept))


class _Run:
  """A run of a group as it stands."""

  def __init__(self, cell: Cell, directory: Path, ended: Mapping[str, Outcome]):
    self.cell, self.seeds = cell, (cell.config.seed, cell.config.data_seed)
    self._curve = _losses(directory)
    self._step = max(step_of(directory), max(self._curve, default=0))
    self._failure = next((o for o in [ended.get(cell.cell_id)] if o and o.state == rundir.FAILED), None)

  def is_before(self, rung: Rung) -> bool:
    return self._step < rung.step and not self._failure

  def failed_before(self, rung: Rung) -> bool:
    return self._step < rung.step and self._failure is not None

  def diverged_before(self, rung: Rung) -> bool:
    return self.failed_before(rung) and self._failure.kind == failures.DIVERGED

  def loss(self, rung: Rung) -> float | None:
    """Returns the mean loss just before a rung; None where none was written down there."""
    last = [loss for step, loss in self._curve.items() if _SINCE * rung.step < step <= rung.step]
    return math.fsum(last) / len(last) if last else None


def step_of(directory: Path) -> int:
  """Returns how far a run has come."""
  run = RunDir(directory)
  return max((run.status() or {}).get("step", 0), run.saved_step())


def _losses(directory: Path) -> dict[int, float]:
  """Returns the training losses of a run that are written down, by step."""
  try:
    rows = records.read(RunDir(directory).records)
  except (FileNotFoundError, ValueError):
    return {}
  return {row["step"]: row["value"] for row in rows if (row["split"], row["metric"]) == ("train", "loss")}


def check(cells: Sequence[Cell]) -> None:
  """Raises ConfigError where there is nothing to halve."""
  found = groups(cells)
  most = max(len(group.rates) for group in found)
  if most <= LAST:
    raise ConfigError(f"--halving: no size of this sweep has more than {LAST} learning rates that differ in "
                      "nothing else but seeds")  # fmt: skip
  if not any(group.rungs for group in found):
    raise ConfigError("--halving: no rung before the end: config.runtime.log_every, or twice "
                      "config.optimizer.warmup_steps, is as long as config.train.num_steps")  # fmt: skip


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
