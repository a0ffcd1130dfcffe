"""Jinja templates and expressions over the fields of a row, in Jinja's sandbox."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from jinja2 import sandbox

from lm_jax.strict import ConfigError, nearest


@functools.cache
def _environment() -> jinja2.Environment:
  return sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


def text(source: str, where: str) -> Callable[[str, Mapping[str, Any]], str]:
  """Returns render(ROW'S PLACE, fields) of a template; raises ConfigError for what is none."""
  try:
    template = _environment().from_string(source)
  except jinja2.TemplateSyntaxError as error:
    raise ConfigError(f"{where}={source!r}: is no template ({error.message})") from None
  return _guarded(template.render, source, where)


def value(source: str, where: str) -> Callable[[str, Mapping[str, Any]], Any]:
  """Returns evaluate(ROW'S PLACE, fields) of an expression; raises ConfigError for what is none."""
  try:
    expression = _environment().compile_expression(source, undefined_to_none=False)
  except jinja2.TemplateSyntaxError as error:
    raise ConfigError(f"{where}={source!r}: is no expression ({error.message})") from None
  return _guarded(expression, source, where)


def _guarded(
  function: Callable[..., Any], source: str, where: str
) -> Callable[[str, Mapping[str, Any]], Any]:
  def of_row(place: str, fields: Mapping[str, Any]) -> Any:
    try:
      found = function(**fields)
      if isinstance(found, jinja2.Undefined):
        str(found)  # raises
      return found
    except jinja2.UndefinedError as error:
      missing = error.message.split("'")[1] if "'" in (error.message or "") else ""
      raise ConfigError(f"{place}: {where}={source!r}: {error.message}{nearest(missing, fields)}") from None
    except Exception as error:  # a template may compute anything, and fail at it in any way
      raise ConfigError(f"{place}: {where}={source!r}: {error}") from None

  return of_row
