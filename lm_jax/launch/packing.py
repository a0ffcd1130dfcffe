"""Which cells of a sweep train together: cells of one shape as one program, by what a device is good at."""

from collections.abc import Sequence

from lm_jax import config as configs
from lm_jax import scaling
from lm_jax.config import Config
from lm_jax.sweep import Cell

Pack = tuple[Cell, ...]

# One program for many cells saves their compilation; on a CPU its members go one after another, so that
# more of them only means that all end late.
_MOST_ON_CPU = 8
# On an accelerator its members go side by side, as many as this memory holds: enough to fill the largest
# with models too small to do so alone, and within the smallest.
_ACCELERATOR_BYTES = 8 * 2**30


def pack(cells: Sequence[Cell], num_workers: int, *, accelerator: bool) -> list[Pack]:
  """Returns the cells in packs that each train as one population, in the order of their first ones.

  Cells of one shape are shared out evenly, at least one pack a worker: no worker idles while another has
  several cells.
  """
  by_shape: dict[Config, list[Cell]] = {}
  for cell in cells:
    by_shape.setdefault(configs.shape(cell.config), []).append(cell)
  packs = []
  for shape, group in by_shape.items():
    count = max(-(-len(group) // most_members(shape, accelerator=accelerator)), min(num_workers, len(group)))
    packs += [tuple(group[i::count]) for i in range(count)]
  at = {cell.cell_id: i for i, cell in enumerate(cells)}
  return sorted(packs, key=lambda pack: at[pack[0].cell_id])


def most_members(config: Config, *, accelerator: bool) -> int:
  """Returns how many cells of a shape one program may train."""
  if config.parallel.kind == "mesh" or config.parallel.fsdp * config.parallel.tensor > 1:
    return 1
  if config.runtime.population is not None:
    return config.runtime.population
  if not accelerator:
    return _MOST_ON_CPU
  return max(1, int(_ACCELERATOR_BYTES // scaling.memory_bytes(config)))
