"""A weight gradient of the MLP at d=256 as one product, and with its first factor transposed beforehand.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 taskset -c 1 python experiments/016_profile/weight_gradients.py

In turns, one core, float32; the least of 60 calls each, beside the two other products of the same size.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

M, F, D = 2048, 1024, 256  # tokens, ff, model
CALLS = 60


def transposed_first(a: jax.Array, b: jax.Array) -> jax.Array:
  return jax.lax.optimization_barrier(a.T) @ b


def einsum(equation: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
  return lambda a, b: jnp.einsum(equation, a, b)


def main() -> None:
  keys = jax.random.split(jax.random.key(0), 3)
  x_MF, x_MD, w_DF = (
    jax.random.normal(k, shape) for k, shape in zip(keys, ((M, F), (M, D), (D, F)), strict=True)
  )
  cases = {
    "forward, MD,DF->MF": (einsum("MD,DF->MF"), x_MD, w_DF),
    "input gradient, MF,DF->MD": (einsum("MF,DF->MD"), x_MF, w_DF),
    "weight gradient, MF,MD->FD": (einsum("MF,MD->FD"), x_MF, x_MD),
    "the same, transposed first": (transposed_first, x_MF, x_MD),
    "weight gradient, MD,MF->DF": (einsum("MD,MF->DF"), x_MD, x_MF),
    "this one, transposed first": (transposed_first, x_MD, x_MF),
  }
  programs = {name: (jax.jit(f).lower(a, b).compile(), a, b) for name, (f, a, b) in cases.items()}
  seconds = {name: [] for name in cases}
  for call in range(CALLS + 1):
    for name, (program, a, b) in programs.items():
      start = time.perf_counter()
      jax.block_until_ready(program(a, b))
      if call:  # the first warms up
        seconds[name].append(time.perf_counter() - start)
  for name, of_calls in seconds.items():
    least = min(of_calls)
    print(f"{name}: {1e3 * least:.1f} ms, {2 * M * F * D / least / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
  main()
