"""Chromium, for tests of pages."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import wait_until

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


_WITH_PIPES = """
import os, sys
for there, here in ((13, int(sys.argv[1])), (14, int(sys.argv[2])), (3, 13), (4, 14)):
  os.dup2(here, there)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
  """Chromium, driven through pipes (https://chromedevtools.github.io/devtools-protocol)."""

  def __init__(self, profile: Path):
    from_us, to_it = os.pipe()
    from_it, to_us = os.pipe()
    # The protocol's ends are its descriptors 3 and 4.
    command = [
      sys.executable, "-c", _WITH_PIPES, str(from_us), str(to_us), CHROMIUM, "--headless", "--no-sandbox",
      "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--remote-debugging-pipe", f"--user-data-dir={profile}", "--window-size=1200,900", "about:blank",
    ]  # fmt: skip
    self._process = subprocess.Popen(
      command, pass_fds=(from_us, to_us), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(from_us), os.close(to_us)
    self._to, self._from = os.fdopen(to_it, "wb", buffering=0), os.fdopen(from_it, "rb")
    self._number, self._session, self._rest = 0, {}, b""
    self.errors: list[str] = []
    pages = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
    session = self.call("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
    self._session = {"sessionId": session["sessionId"]}
    for domain in ("Page", "Runtime", "Log"):
      self.call(f"{domain}.enable")

  def call(self, method: str, **params):
    self._number += 1
    message = {"id": self._number, "method": method, "params": params, **self._session}
    self._to.write(json.dumps(message).encode() + b"\0")
    while True:
      answer = self._next()
      if answer.get("id") == self._number:
        assert "error" not in answer, answer
        return answer["result"]
      # A dialog would be the work of a name.
      if answer["method"] in ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"):
        self.errors.append(json.dumps(answer["params"]))

  def _next(self):
    while b"\0" not in self._rest:
      more = self._from.read1(1 << 16)
      assert more, "the browser ended"
      self._rest += more
    one, _, self._rest = self._rest.partition(b"\0")
    return json.loads(one)

  def open(self, url: str) -> None:
    self.call("Page.navigate", url=url)

  def value(self, expression: str):
    result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
    assert "exceptionDetails" not in result, result
    return result["result"].get("value")

  def wait_for(self, expression: str):
    return wait_until(lambda: self.value(expression))

  def resize(self, width: int, *, dark: bool = False) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    self.call("Emulation.setDeviceMetricsOverride", **size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    self.call("Emulation.setEmulatedMedia", features=[scheme])

  def close(self) -> None:
    self._to.close()
    self._process.kill()
    self._process.wait()
    self._from.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
    opened = Browser(Path(profile))
    yield opened
    opened.close()
