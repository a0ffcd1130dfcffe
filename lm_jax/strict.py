"""Strict conversion between nested mappings and frozen dataclasses.

A wrong config must fail before anything trains, in one line a person can act on. Every function here
raises `ConfigError` whose message names the field, what was given, what is allowed and, for a
misspelt name, the nearest valid one. Nothing here knows what the fields mean.
"""

import ast
import dataclasses
import difflib
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")


class ConfigError(ValueError):
  """Bad user input: one line, shown without a traceback, exit code 2."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
  """Returns "; did you mean X?" for a likely misspelling, and "" otherwise."""
  close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
  return f"; did you mean {close[0]!r}?" if close else ""


def nearest(name: str, allowed: Iterable[str]) -> str:
  """Returns "; did you mean X?" for a likely misspelling, and the allowed names otherwise."""
  allowed = list(allowed)
  return did_you_mean(name, allowed) or f"; allowed: {', '.join(allowed)}"


def choose(table: Mapping[str, T], name: Any, path: str) -> T:
  """Returns table[name]."""
  if not isinstance(name, str) or name not in table:
    raise ConfigError(f"{path}={name!r}: unknown{nearest(str(name), table)}")
  return table[name]


def require(ok: bool, path: str, value: Any, allowed: str) -> None:
  """Raises ConfigError, "PATH=VALUE: must be ALLOWED", unless `ok`."""
  if not ok:
    raise ConfigError(f"{path}={value!r}: must be {allowed}")


def require_positive(group: Any, path: str, names: Iterable[str]) -> None:
  """Raises ConfigError unless the named fields of a dataclass are None or greater than 0."""
  for name in names:
    value = getattr(group, name)
    require(value is None or value > 0, f"{path}.{name}", value, "greater than 0")


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
  """Returns {field name: resolved annotation} of a dataclass, in declaration order."""
  hints = typing.get_type_hints(cls)
  return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _is_union(annotation: Any) -> bool:
  return typing.get_origin(annotation) in (Union, types.UnionType)


def describe(annotation: Any) -> str:
  """Returns an annotation in the words of an error message, e.g. "one of a, b" or "int or none"."""
  if typing.get_origin(annotation) is Literal:
    return "one of " + ", ".join(str(a) for a in typing.get_args(annotation))
  if _is_union(annotation):
    return " or ".join(describe(a) for a in typing.get_args(annotation))
  if annotation is type(None):
    return "none"
  if typing.get_origin(annotation) is tuple:
    return f"a list of {describe(typing.get_args(annotation)[0])}"
  return {int: "an integer", float: "a number", bool: "true or false", str: "a string"}.get(
    annotation, getattr(annotation, "__name__", str(annotation))
  )


def variants(annotation: Any) -> dict[str, type] | None:
  """Returns {tag: dataclass} for a union of dataclasses told apart by their `name`, else None."""
  if not _is_union(annotation):
    return None
  members = typing.get_args(annotation)
  if not all(dataclasses.is_dataclass(m) for m in members):
    return None
  return {m.__dataclass_fields__["name"].default: m for m in members}


def convert(annotation: Any, value: Any, path: str) -> Any:
  """Checks `value` (Python data) against `annotation` and returns it in the annotated type."""
  tagged = variants(annotation)
  if tagged is not None:
    return _convert_variant(tagged, value, path)
  if dataclasses.is_dataclass(annotation):
    return from_mapping(annotation, value, path)
  if _is_union(annotation):
    members = typing.get_args(annotation)
    if value is None and type(None) in members:
      return None
    for member in members:
      if member is not type(None):
        try:
          return convert(member, value, path)
        except ConfigError:
          continue
    raise _wrong(annotation, value, path)
  if typing.get_origin(annotation) is Literal:
    allowed = typing.get_args(annotation)
    if value in allowed and type(value) in {type(a) for a in allowed}:
      return value
    raise ConfigError(
      f"{path}={value!r}: must be {describe(annotation)}{did_you_mean(str(value), map(str, allowed))}"
    )
  if typing.get_origin(annotation) is tuple:
    item = typing.get_args(annotation)[0]
    if isinstance(value, str) and item is str:  # one name, or several with commas between
      value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, str) or not isinstance(value, Iterable):
      raise _wrong(annotation, value, path)
    return tuple(convert(item, v, f"{path}[{i}]") for i, v in enumerate(value))
  if annotation is float and type(value) is int:
    return float(value)
  # bool is a subclass of int; `num_layers=True` is a mistake, so types are compared exactly.
  # An infinite or undefined number has no place in JSON, and so none in a cell's identity.
  if type(value) is annotation and not _is_undefined(value):
    return value
  raise _wrong(annotation, value, path)


def _is_undefined(value: Any) -> bool:
  return isinstance(value, float) and not math.isfinite(value)


def _wrong(annotation: Any, value: Any, path: str) -> ConfigError:
  given = value if _is_undefined(value) else type(value).__name__
  return ConfigError(f"{path}={value!r}: must be {describe(annotation)}, not {given}")


def _convert_variant(tagged: dict[str, type], value: Any, path: str) -> Any:
  if not hasattr(value, "items"):
    raise ConfigError(f"{path}={value!r}: must be a group of fields with a name ({', '.join(tagged)})")
  name = value.get("name", next(iter(tagged)))
  return from_mapping(choose(tagged, name, f"{path}.name"), value, path)


def from_mapping(cls: type[T], mapping: Mapping[str, Any], path: str = "config") -> T:
  """Builds the frozen dataclass `cls` from a mapping (a dict or a ConfigDict), strictly.

  A class may offer named starting points in a `PRESETS` class attribute ({name: {field: value}});
  a `preset` key in the mapping then fills the fields that the mapping itself does not give.
  """
  if not hasattr(mapping, "items"):
    raise ConfigError(f"{path}={mapping!r}: must be a group of fields ({', '.join(field_types(cls))})")
  given = dict(mapping.items())
  presets = getattr(cls, "PRESETS", None)
  if presets and given.get("preset") is not None:
    given = {**choose(presets, given["preset"], f"{path}.preset"), **given}
  if presets:
    given.pop("preset", None)
  hints = field_types(cls)
  for key in given:
    if key not in hints:
      raise ConfigError(f"{path}.{key}: no such field{nearest(str(key), hints)}")
  return cls(**{k: convert(hints[k], v, f"{path}.{k}") for k, v in given.items()})


def to_dict(config: Any) -> dict[str, Any]:
  """Returns a dataclass as plain nested dicts (JSON-ready; tuples become lists)."""
  return json.loads(json.dumps(dataclasses.asdict(config)))


# --- overrides given as text on the command line ---------------------------------------------


def parse_text(annotation: Any, text: str, path: str) -> Any:
  """Parses command-line `text` into Python data for `annotation`; `convert` checks it afterwards."""
  if _is_union(annotation):
    if text.lower() in ("none", "null") and type(None) in typing.get_args(annotation):
      return None
    members = [m for m in typing.get_args(annotation) if m is not type(None)]
    return parse_text(members[0], text, path) if len(members) == 1 else text
  if annotation is bool:
    if text.lower() in ("true", "false", "1", "0"):
      return text.lower() in ("true", "1")
    raise ConfigError(f"{path}={text!r}: must be true or false")
  if annotation is str or (annotation == tuple[str, ...] and text[:1] not in ("[", "(")):
    return text
  if typing.get_origin(annotation) is Literal:
    return next((a for a in typing.get_args(annotation) if str(a) == text), text)
  try:
    value = ast.literal_eval(text)
  except (ValueError, SyntaxError):
    value = text
  # `--config.train.num_steps=2e3` is what people type; it is exact, so it is accepted.
  if annotation is int and isinstance(value, float) and math.isfinite(value) and value == int(value):
    return int(value)
  if isinstance(value, str) and annotation in (int, float):
    raise ConfigError(f"{path}={text!r}: must be {describe(annotation)}")
  return value


def set_path(
  cls: type, tree: dict[str, Any], dotted: str, value: Any, *, text: bool, root: str = "config"
) -> None:
  """Sets `dotted` ("model.num_layers") in the nested dict `tree`, checking names against `cls`.

  Args:
    value: Python data, or the raw command-line text when `text` is true.
  """
  annotation: Any = cls
  node = tree
  path = root
  parts = dotted.split(".")
  for depth, part in enumerate(parts):
    tagged = variants(annotation)
    if tagged is not None:
      owner = choose(tagged, node.get("name", next(iter(tagged))), f"{path}.name")
    elif dataclasses.is_dataclass(annotation):
      owner = annotation
    else:
      raise ConfigError(f"{root}.{dotted}: {path} is {describe(annotation)} and has no fields")
    hints = dict(field_types(owner))
    if tagged is not None:
      hints["name"] = str
    if getattr(owner, "PRESETS", None):
      hints["preset"] = str
    if part not in hints:
      raise ConfigError(f"{path}.{part}: no such field{nearest(part, hints)}")
    annotation, path = hints[part], f"{path}.{part}"
    if depth < len(parts) - 1:
      node = node.setdefault(part, {})
      if not isinstance(node, dict) and (dataclasses.is_dataclass(annotation) or variants(annotation)):
        raise ConfigError(f"{path}={node!r}: must be a group of fields")
  leaf = parts[-1]
  if dataclasses.is_dataclass(annotation) or variants(annotation):
    if text:
      raise ConfigError(f"{path}={value!r}: is a group of fields; set one of them, e.g. --{path}.NAME=...")
    node[leaf] = dict(value)
    return
  node[leaf] = parse_text(annotation, value, path) if text else value


# --- identity --------------------------------------------------------------------------------


def differing(config: Any, default: Any) -> dict[str, Any]:
  """Returns the nested dict of fields in which `config` differs from `default` of the same class."""
  result = {}
  for field in dataclasses.fields(config):
    value, base = getattr(config, field.name), getattr(default, field.name, dataclasses.MISSING)
    if dataclasses.is_dataclass(value):
      same_class = type(value) is type(base)
      child = differing(value, base if same_class else type(value)())
      if not same_class:
        child["name"] = value.name
      if child:
        result[field.name] = child
    elif value != base:
      result[field.name] = value
  return result


def digest(tree: Any, length: int = 12) -> str:
  """Returns a hex content hash of JSON-ready data, independent of key order."""
  text = json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)
  return hashlib.sha256(text.encode()).hexdigest()[:length]
