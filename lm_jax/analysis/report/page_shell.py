"""What every page of results shares: one file with its data, scripts and style inside, which loads nothing.

A content security policy names the scripts by their hashes (https://www.w3.org/TR/CSP3/): whatever a record
holds, nothing else runs, and nothing is fetched.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_jax.analysis.json_values import clean
from lm_jax.analysis.report.tables import escape

HERE = Path(__file__).parent


def embed(data: Any) -> str:
  """Returns JSON that is safe inside a script element: no "<", ">" or "&" is left in it."""
  text = json.dumps(clean(data), allow_nan=False, separators=(",", ":"))
  return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def part(name: str, folder: Path = HERE) -> str:
  return (folder / name).read_text(encoding="utf-8")


def fill(template: str, fields: Mapping[str, str]) -> str:
  # One pass, so that a name in the data that looks like a field is not filled in turn.
  return re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match.group(1)], template)


def render(title: str, facts: Iterable[str], body: str, scripts: Sequence[str], data: Any = None) -> str:
  """Returns a page.

  Args:
    title, facts: as text.
    body: HTML.
    scripts: run in this order.
    data: for the scripts, in the element with the id "data".
  """
  embedded = "" if data is None else f'<script type="application/json" id="data">{embed(data)}</script>'
  return fill(part("page_shell.html"), {
    "title": escape(title), "policy": _policy(scripts), "style": part("report.css"), "body": body,
    "facts": "".join(f"<span>{escape(fact)}</span>" for fact in facts), "data": embedded,
    "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
  })  # fmt: skip


def _policy(scripts: Iterable[str]) -> str:
  """Returns a policy by which only these scripts run, whatever a record holds, and nothing is fetched."""
  hashes = " ".join(_script_hash(script) for script in scripts)
  return (f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
          "base-uri 'none'; form-action 'none'")  # fmt: skip


def _script_hash(text: str) -> str:
  return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def files_html(files: Iterable[str]) -> str:
  """Returns links, one a stem: figures/accuracy.png and .csv of the same name stand together."""
  stems: dict[str, list[str]] = {}
  for file in files:
    stems.setdefault(Path(file).stem, []).append(file)
  return "\n".join(
    f"<li>{escape(stem)}: "
    + " ".join(f'<a href="{escape(f)}">{escape(Path(f).suffix[1:].upper())}</a>' for f in own)
    + "</li>"
    for stem, own in stems.items()
  )
