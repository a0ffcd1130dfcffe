"""What stop rules (lm_jax.launch.stop_rules) left out of a study, in sentences."""

from collections.abc import Mapping
from typing import Any


def sentences(tree: Mapping[str, Any] | None) -> tuple[str, ...]:
  """Returns a sentence a rule, of what sweep.json has as "stop_rules"."""
  if not tree:
    return ()
  said = [_halving(tree)] if tree.get("halving") else []
  count = len(tree["left_out"])
  cells = f"{count} cell{'' if count == 1 else 's'}"
  if (most := tree.get("max_flops")) is not None:
    what = f"{cells} had no room in it and were not begun" if count else "all cells had room in it"
    said.append(f"Budget of {most:.3g} FLOPs: {what}.")
  if (most := tree.get("max_hours")) is not None:
    what = f"it was over with {cells} not done" if count else "it was enough"
    said.append(f"Limit of {most:g} hours for the last launch: {what}.")
  share = tree["flops_spent"] / tree["flops"]
  return (*said, f"Of the FLOPs of all {tree['cells']} cells {share:.0%} were spent.")


def _halving(tree: Mapping[str, Any]) -> str:
  rungs = sorted({rung["step"] for group in tree["halving"] for rung in group["rungs"]})
  if not rungs:
    return "Successive halving of learning rates: no rung has been reached."
  steps = f"step {rungs[0]}" if len(rungs) == 1 else f"{len(rungs)} steps from {rungs[0]} to {rungs[-1]}"
  ended = len(tree["pruned"])
  return (
    f"Successive halving of learning rates: {ended} of {tree['cells']} runs ended early, at {steps}, for the "
    "training loss they had by then. Their scores are missing from every curve; the best learning rate of a "
    "size is one of those that were trained to the end."
  )
