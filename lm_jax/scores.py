"""A measured value on its way to a record."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Score:
  """One aggregated value, the part of a Record that evaluation knows; fields as there."""

  metric: str
  value: float | None
  stderr: float | None
  n_items: int
  n_shots: int | None = None
  prompt_id: str | None = None
  chance: float | None = None
  task: str | None = None  # where it is another than the run's
