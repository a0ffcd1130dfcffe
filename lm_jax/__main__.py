"""`lm-jax`, `python -m lm_jax`: the command line, in a process that is set up for speed before it imports."""

import sys

from lm_jax import environment


def main() -> None:
  argv = sys.argv[1:]
  if argv[:1] in (["train"], ["bench"], ["finetune"]):  # the commands that train in this very process
    environment.restart_with_huge_pages(argv)
  if argv[:1] in (["train"], ["bench"]):  # they say when their first step was done
    environment.postpone_garbage_collection()
  if argv[:1] in (["sweep"], ["report"], ["emergence"], ["fit"], ["predict"]):  # they analyze
    environment.one_blas_thread()
  from lm_jax import cli

  cli.main(argv)


if __name__ == "__main__":
  main()
