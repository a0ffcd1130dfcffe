"""The flags that say where the cells of a sweep train."""

from absl import flags

from lm_jax.cli.command_flags import positive
from lm_jax.launch.base import Launcher
from lm_jax.strict import ConfigError, nearest

NAMES = ("launcher", "workers", "order", "ray_address", "slurm", "cpus", "gpus", "hosts", "detach")
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
