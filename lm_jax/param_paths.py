"""Parameters by their paths: a tree as {"block_0/mlp/up/kernel": leaf}, and back."""

from collections.abc import Mapping
from typing import Any

import jax


def flat(tree: Any) -> dict[str, Any]:
  """Returns {"block_0/attention/query/kernel": leaf, ...}."""
  return {name(path): x for path, x in jax.tree_util.tree_flatten_with_path(tree)[0]}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the tree of {"block_0/mlp/up/kernel": leaf}."""
  tree: dict[str, Any] = {}
  for path, leaf in leaves.items():
    *owners, last = path.split("/")
    node = tree
    for owner in owners:
      node = node.setdefault(owner, {})
    node[last] = leaf
  return tree


def name(path: tuple) -> str:
  """Returns the path of jax.tree_util as "block_0/mlp/up/kernel"."""
  return "/".join(str(getattr(entry, "key", entry)) for entry in path)
