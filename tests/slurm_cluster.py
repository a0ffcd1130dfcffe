"""A real Slurm of two nodes on this machine: munged, slurmctld and two slurmd, on loopback."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=1,bf_interval=1
ReturnToService=2
SwitchType=switch/none
MpiDefault=none
KillWait=20
SlurmdTimeout=15
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=1000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=1000 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")


class SlurmCluster:
  def __init__(self, folder: Path):
    self._folder = folder
    (folder / "munge").mkdir()
    (folder / "state").mkdir()
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    self.config = folder / "slurm.conf"
    self.config.write_text(
      CONFIG.format(host=socket.gethostname(), ports=[_free_port() for _ in range(3)], folder=folder)
    )
    munge = folder / "munge"
    self._run("munged", "--force", f"--key-file={key}", f"--socket={munge}/socket", f"--pid-file={munge}/pid",
              f"--log-file={munge}/log", f"--seed-file={munge}/seed")  # fmt: skip
    self._run("slurmctld", "-c", "-f", self.config)
    for node in ("n1", "n2"):
      self._run("slurmd", "-c", "-N", node, "-f", self.config)
    deadline = time.monotonic() + 60
    while self.ask("sinfo", "-h", "-o", "%T %D").split() != ["idle", "2"]:
      assert time.monotonic() < deadline, self.ask("sinfo", "-N")
      time.sleep(0.2)

  def _run(self, *command: str | Path) -> None:
    subprocess.run(
      command, check=True, env=os.environ | {"SLURM_CONF": str(self.config)}, capture_output=True
    )

  def ask(self, *command: str) -> str:
    """Returns what a command of Slurm prints; "" where it fails."""
    environ = os.environ | {"SLURM_CONF": str(self.config)}
    return subprocess.run(command, env=environ, capture_output=True, text=True).stdout

  def jobs(self, state: str = "RUNNING") -> list[str]:
    """Returns the ids of jobs in a state, those of arrays as N_M."""
    return self.ask("squeue", "-h", "-r", "-t", state, "-o", "%i").split()

  def requeue(self, job: str) -> None:
    """As a preemption does. Slurm would let it wait for two minutes."""
    self.ask("scontrol", "requeue", job)
    deadline = time.monotonic() + 60
    while job not in self.jobs("PENDING"):
      assert time.monotonic() < deadline, self.ask("squeue")
      time.sleep(0.2)
    self.hurry()

  def hurry(self) -> None:
    """Lets what was queued again start now."""
    for job in self.jobs("PENDING"):
      self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")

  def close(self) -> None:
    self.ask("scancel", "--signal=KILL", "--user=root")
    self.ask("scancel", "--user=root")
    for path in (*self._folder.glob("slurm*.pid"), self._folder / "munge" / "pid"):
      try:
        os.kill(int(path.read_text()), signal.SIGTERM)
      except (OSError, ValueError):
        continue


def _free_port() -> int:
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
  missing = [name for name in PROGRAMS if shutil.which(name) is None]
  if missing:
    pytest.skip(f"Slurm is not installed ({', '.join(missing)}): Debian's slurm-wlm and munge")
  if os.getuid() != 0:
    pytest.skip("only root can start a Slurm of its own")
  pytest.importorskip("submitit", reason="submitit is not installed: pip install 'lm_jax[slurm]'")
  # munged wants folders that only its user can change; pytest's are.
  folder = Path(tempfile.mkdtemp(prefix="slurm-"))
  folder.chmod(0o755)
  cluster = SlurmCluster(folder)
  before = os.environ.get("SLURM_CONF")
  os.environ["SLURM_CONF"] = str(cluster.config)
  yield cluster
  cluster.close()
  if before is None:
    del os.environ["SLURM_CONF"]
  else:
    os.environ["SLURM_CONF"] = before
  shutil.rmtree(folder, ignore_errors=True)
