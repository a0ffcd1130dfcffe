"""A real Ray cluster of two nodes on this machine."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest


class RayCluster:
  """Each node can be killed as a machine dies: at once and whole."""

  def __init__(self, nodes: int = 2):
    # Ray's sockets lie below it, and their names have to be short.
    self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    with socket.socket() as s:
      s.bind(("127.0.0.1", 0))
      port = s.getsockname()[1]
    self.address = f"127.0.0.1:{port}"
    # Who connects to it needs these too.
    self.environ = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    self.nodes = [self._start("--head", f"--port={port}", "--include-dashboard=false",
                              f"--temp-dir={self._folder}")]  # fmt: skip
    self._wait()
    self.nodes += [self._start(f"--address={self.address}") for _ in range(nodes - 1)]
    self._wait_for(nodes)

  def _start(self, *words: str) -> subprocess.Popen:
    options = ("--num-cpus=1", "--num-gpus=0", "--node-ip-address=127.0.0.1", "--disable-usage-stats")
    program = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options, *words]
    log = (self._folder / f"node-{time.monotonic_ns()}").open("w")
    with log:
      return subprocess.Popen(program, stdout=log, stderr=log, start_new_session=True,
                              env=os.environ | self.environ)  # fmt: skip

  def _wait(self) -> None:
    host, port = self.address.split(":")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
      with socket.socket() as s:
        if s.connect_ex((host, int(port))) == 0:
          return
      time.sleep(0.1)
    raise TimeoutError("the Ray head did not start")

  def _wait_for(self, nodes: int) -> None:
    program = (
      f"import ray, time; ray.init(address={self.address!r}, logging_level='ERROR')\n"
      f"while ray.cluster_resources().get('CPU') != {nodes}: time.sleep(0.1)"
    )
    subprocess.run([sys.executable, "-c", program], env=os.environ | self.environ, timeout=60, check=True)

  def processes_of(self, node: int) -> list[psutil.Process]:
    """Returns what runs on a node: workers have process groups of their own."""
    return psutil.Process(self.nodes[node].pid).children(recursive=True)

  def kill(self, node: int) -> None:
    """Kills all processes of a node: a worker whose node is gone would train on for a while."""
    processes = self.processes_of(node)
    self.nodes[node].kill()
    for process in processes:
      with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
    self.nodes[node].wait()

  def close(self) -> None:
    for node in self.nodes:
      if node.poll() is None:
        node.send_signal(signal.SIGTERM)
    for node in self.nodes:
      try:
        node.wait(30)
      except subprocess.TimeoutExpired:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()
    shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture
def ray_cluster(monkeypatch):
  pytest.importorskip("ray", reason="Ray is not installed: pip install 'lm_jax[ray]'")
  cluster = RayCluster()
  for name, value in cluster.environ.items():
    monkeypatch.setenv(name, value)
  yield cluster
  cluster.close()
