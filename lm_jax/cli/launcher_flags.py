"""The flags that say where the cells of a sweep train, and when that is enough."""

from typing import TYPE_CHECKING

from absl import flags

from lm_jax.cli.command_flags import positive
from lm_jax.launch.base import Launcher
from lm_jax.strict import ConfigError, nearest

if TYPE_CHECKING:
  from lm_jax.launch.stop_rules import StopRules

NAMES = ("launcher", "workers", "order", "ray_address", "slurm", "cpus", "gpus", "hosts", "detach")
RULES = ("max_flops", "max_hours", "halving")
ORDERS = ("small_first", "large_first")
# Flags that only these launchers have.
_ONLY = {
  "ray_address": ("ray",), "slurm": ("slurm",), "detach": ("slurm",),
  "cpus": ("ray", "slurm"), "gpus": ("ray", "slurm"), "hosts": ("ray", "slurm"),
}  # fmt: skip


def launcher(values: flags.FlagValues) -> Launcher:
  """Returns the launcher that was asked for; raises ConfigError."""
  _check(values)
  if values.launcher == "local":
    from lm_jax.launch import local

    return local.LocalLauncher(values.workers)
  from lm_jax.launch.engine import Request

  request = Request(values.cpus, values.gpus, values.hosts, values.workers, values.detach)
  if values.launcher == "ray":
    from lm_jax.launch import ray

    return ray.launcher(values.ray_address, request)
  from lm_jax.launch import slurm

  return slurm.launcher(values.slurm or (), request)


def rules(values: flags.FlagValues) -> "StopRules":
  """Returns the stop rules that were asked for; raises ConfigError."""
  from lm_jax.launch.stop_rules import StopRules

  for name in ("max_flops", "max_hours"):
    positive(values, name)
  for name in ("max_hours", "halving"):
    if values[name].value and values.detach:
      raise ConfigError(f"--{name}, --detach: give one of them; who goes home decides nothing")
  if values.halving and values.retry_failed:
    raise ConfigError("--halving, --retry_failed: give one of them; learning rates are compared as a group")
  return StopRules(values.max_flops, values.max_hours, values.halving)


def _check(values: flags.FlagValues) -> None:
  for name, allowed in (("launcher", ("local", "ray", "slurm")), ("order", ORDERS)):
    given = getattr(values, name)
    if given not in allowed:
      raise ConfigError(f"--{name}={given}: unknown{nearest(given, allowed)}")
  for name in ("workers", "cpus", "hosts"):
    positive(values, name)
  if values.gpus < 0:
    raise ConfigError(f"--gpus={values.gpus}: must be 0 or greater")
  for name, launchers in _ONLY.items():
    if values[name].present and values.launcher not in launchers:
      raise ConfigError(
        f"--{name}: is for --launcher={' or '.join(launchers)}, this one is --launcher={values.launcher}"
      )
