"""A dev split for a task that has none: a part of its pool, which is then no longer drawn from."""

import dataclasses

from lm_jax.prompt_tasks.items import FewShotTask, hashed
from lm_jax.strict import ConfigError

PARTS = 5  # one of them is held out


def hold_out(task: FewShotTask) -> tuple[FewShotTask, FewShotTask]:
  """Returns (the task that asks a fifth of its pool, the task itself); both draw from the rest of the pool.

  Which fifth is a function of the task and the items' ids. No item of the task itself is in it.

  Raises:
    ConfigError: where the pool has too few items that are not asked, or is what is always `shown`.
  """
  if task.shown:
    raise ConfigError(
      f"task {task.name!r}: has no dev rows, and its demonstrations are `shown`: must have `dev`"
    )
  asked = {item.id for item in task.items}
  others = {item.id: item for item in task.pool if item.id not in asked}
  dev = sorted(others.values(), key=lambda item: (hashed(task.name, "hold out", item.id), item.id))
  dev = tuple(dev[: len(others) // PARTS])
  if not dev:
    raise ConfigError(
      f"task {task.name!r}: has no dev rows, and {len(others)} train rows that are not of test: must have "
      f"`dev`, or {PARTS} train rows or more to hold some out"
    )
  held_out = {item.id for item in dev}
  pool = tuple(item for item in task.pool if item.id not in held_out)
  return dataclasses.replace(task, items=dev, pool=pool), dataclasses.replace(task, pool=pool)
