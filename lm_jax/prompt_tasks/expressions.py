"""Jinja templates and expressions over the fields of a row, in Jinja's sandbox.

The sandbox keeps them from Python's inside, so that a definition of a stranger can be used. Of what takes
long it refuses the plainest, long ranges, products and powers; others, such as loops in loops, it does not.
Nothing in them is random: a prompt is the same whenever it is made.
"""

import functools
import inspect
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from jinja2 import sandbox

from lm_jax.strict import ConfigError, nearest

LONGEST = 100_000  # of a text or list that a product makes; as Jinja's ranges
LARGEST_IN_POWER = 1000


def is_text(found: Any) -> bool:
  """Whether something is a text, or a number that is written as one: not null, and no list."""
  return isinstance(found, str | int | float)


class _Environment(sandbox.ImmutableSandboxedEnvironment):
  intercepted_binops = frozenset(["*", "**"])

  def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
    """Computes a product or a power, unless it would take long or fill the memory."""
    for one, times in ((left, right), (right, left)):
      if hasattr(one, "__len__") and isinstance(times, int) and len(one) * times > LONGEST:
        raise ValueError(f"a product of {len(one) * times} parts is too long, must be {LONGEST} at most")
    if operator == "**" and max(abs(left), abs(right)) > LARGEST_IN_POWER:
      raise ValueError(f"numbers of a power must be from -{LARGEST_IN_POWER} to {LARGEST_IN_POWER}")
    return super().call_binop(context, operator, left, right)


@functools.cache
def _environment() -> jinja2.Environment:
  environment = _Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, finalize=_rendered)
  del environment.globals["lipsum"], environment.filters["random"]
  return environment


def _rendered(found: Any) -> Any:
  """Refuses what would stand in a prompt as None or ['...']."""
  if is_text(found) or isinstance(found, jinja2.Undefined):  # the latter has an error of its own
    return found
  raise TypeError(f"a value is {reprlib.repr(found)}, must be a text or a number")


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
      found = function(fields)
      if inspect.isgenerator(found):  # of a filter such as map
        found = list(found)
      for one in found if isinstance(found, list | tuple) else (found,):
        if isinstance(one, jinja2.Undefined):
          str(one)  # raises
      return found
    except jinja2.UndefinedError as error:
      missing = re.fullmatch("'(.+)' is undefined", error.message or "")
      known = nearest(missing[1], fields) if missing else ""
      raise ConfigError(f"{place}: {where}={source!r}: {error.message}{known}") from None
    except Exception as error:  # a template may compute anything, and fail at it in any way
      raise ConfigError(f"{place}: {where}={source!r}: {error}") from None

  return of_row
