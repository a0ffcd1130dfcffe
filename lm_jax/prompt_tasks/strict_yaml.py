"""YAML as people mean it: no key twice, and yes and no are words.

YAML 1.1, which PyYAML reads, takes yes, no, on and off for booleans, and of two equal keys the last one. For
tasks the former are answers, and the latter is a mistake. YAML 1.2 has true and false only.
"""

import re
from typing import Any

import yaml

BOOL = "tag:yaml.org,2002:bool"


class _Loader(yaml.SafeLoader):
  """Safe: makes lists, mappings and scalars, and refuses tags of Python."""

  def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    for i, key in enumerate(keys):
      if any(key.value == other.value for other in keys[:i]):
        problem = f"{key.value!r} is given twice"
        raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
    return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
  first: [(tag, pattern) for tag, pattern in resolvers if tag != BOOL]
  for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(BOOL, re.compile("(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def load(text: str) -> Any:
  """Returns the Python data of a text; raises yaml.YAMLError."""
  return yaml.load(text, _Loader)
