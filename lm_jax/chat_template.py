"""Conversations as one text, by the Jinja template that a model was trained with.

A template sees what Hugging Face's `apply_chat_template` shows it, so that the same text comes out. It comes
with the model and is nobody's code to trust: it runs in Jinja's sandbox.
"""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lm_jax.strict import ConfigError

Message = Mapping[str, Any]  # {"role": "system" | "user" | "assistant", "content": TEXT}
_HERE = "CONTINUE_FINAL_MESSAGE_TAG "


def render(
  template: str,
  messages: Sequence[Message],
  *,
  add_generation_prompt: bool = True,
  continue_final_message: bool = False,
  specials: Mapping[str, str] | None = None,
) -> str:
  """Returns the text of a conversation.

  Args:
    add_generation_prompt: ends where the assistant's answer begins.
    continue_final_message: ends with the content of the last message, for the model to go on with.
    specials: {"bos_token": "<s>", ...}.

  Raises:
    ConfigError: a template that cannot be read, or that refuses the conversation.
  """
  import jinja2

  messages = [dict(message) for message in messages]
  if continue_final_message:
    messages[-1]["content"] += _HERE
  try:
    text = _compiled(template).render(
      messages=messages, tools=None, documents=None, add_generation_prompt=add_generation_prompt,
      **(specials or {}),
    )  # fmt: skip
  except jinja2.exceptions.TemplateError as error:
    raise ConfigError(f"chat template: {str(error).splitlines()[0]}") from None
  return _until_here(text) if continue_final_message else text


def _until_here(text: str) -> str:
  if _HERE.strip() not in text:
    raise ConfigError("chat template: leaves out the message that is to be continued")
  at = text.rindex(_HERE.strip())
  # A template that trims contents trims this one too.
  return text[:at] if text[at:].startswith(_HERE) else text[:at].rstrip()


@functools.cache
def _compiled(template: str) -> Any:
  try:
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
  except ImportError:
    raise ConfigError("chat template: needs the jinja2 package: pip install jinja2") from None

  def refuse(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)

  def to_json(x: Any, indent: int | None = None) -> str:
    return json.dumps(x, ensure_ascii=False, indent=indent)

  environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
  environment.filters["tojson"] = to_json
  environment.globals["raise_exception"] = refuse
  environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
  return environment.from_string(template)
