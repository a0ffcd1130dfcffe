"""Times runs of one shape trained together: rates of one process, and whole sweeps.

    python experiments/006_populations/measure.py OUTPUT

Writes OUTPUT/rates.csv, training eight runs of the quickstart's task in turns, medians of five: on one pinned
core in turn (eight dispatches of the program of one), mapped (`lax.map` within one program) and side by
side (`vmap`); with two cores one device that uses both, and two host devices. And OUTPUT/sweeps.csv, the wall
time of commands, twice: configs/bench/twelve_cells.py as a sweep, packed by shape and not, with a cold
compiler and a warm one, and as twelve `lm-jax train` one after another.
"""

import csv
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WIDTHS, MEMBERS, STEPS, TURNS = (16, 32, 64), 8, 50, 5
ONE_CORE, BOTH = "one core", "both cores"
SWEEP = str(Path(__file__).parents[2] / "configs" / "bench" / "twelve_cells.py")


# --- rates, in a process of their own for each setting ------------------------------------------------


def rates(setting: str) -> list[dict]:
  """Returns the rates of every width and way of training, in replica-tokens a second."""
  from lm_jax import config as configs
  from lm_jax import population, programs, scaling, tasks

  def cells(width: int, num_devices: int | None) -> list[configs.Config]:
    base = {"model": scaling.width_ladder(width), "parallel": {"num_devices": num_devices}}
    return [configs.from_mapping(base | {"seed": seed}) for seed in range(MEMBERS)]

  rows = []
  for width in WIDTHS:
    members, one = (cells(width, devices) for devices in (None, 1))
    task = tasks.make_task(members[0].task)
    engines = {"mapped, one device": population.Population(one, task, side_by_side=False)}
    if setting == ONE_CORE:
      engines = {
        "in turn": programs.make(one)[1], "mapped": engines["mapped, one device"],
        "side by side": population.Population(one, task, side_by_side=True),
      }  # fmt: skip
    else:
      engines["two devices"] = population.Population(members, task)
    tokens = MEMBERS * STEPS * scaling.tokens_per_step(members[0])
    for way, seconds in timed(engines, members).items():
      rate = tokens / statistics.median(seconds)
      rows.append({"cores": setting, "width": width, "way": way, "tokens_per_s": round(rate)})
      print(f"{setting}, d={width}, {way}: {rate:,.0f} replica-tokens/s", file=sys.stderr, flush=True)
  return rows


def timed(engines: dict, members: list) -> dict[str, list[float]]:
  """Returns the seconds of STEPS steps by each engine, TURNS times, after one that compiles."""
  import jax

  states = {way: engine.start(members) for way, engine in engines.items()}
  seconds: dict[str, list[float]] = {way: [] for way in engines}
  for turn in range(TURNS + 1):
    for way, engine in engines.items():
      start = time.perf_counter()
      states[way], _ = engine.run(states[way], turn * STEPS, STEPS)
      jax.block_until_ready(states[way])
      seconds[way].append(time.perf_counter() - start)
  return {way: times[1:] for way, times in seconds.items()}


def rates_of_setting(setting: str) -> list[dict]:
  env = os.environ | {"JAX_NUM_CPU_DEVICES": "1" if setting == ONE_CORE else "2"}
  done = subprocess.run(
    [sys.executable, __file__, "--rates", setting], env=env, stdout=subprocess.PIPE, text=True, check=True
  )
  return json.loads(done.stdout.splitlines()[-1])


# --- commands -----------------------------------------------------------------------------------------


def seconds_of(cache: Path, *commands: list[str]) -> float:
  """Returns the seconds that commands of lm-jax take one after another, with a compiler's cache of theirs."""
  started = time.perf_counter()
  for command in commands:
    done = subprocess.run(
      [sys.executable, "-m", "lm_jax", *command], env=os.environ | {"LM_JAX_CACHE": str(cache)},
      capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
      sys.exit(f"lm-jax {' '.join(command)}: exit code {done.returncode}: {done.stderr[-2000:]}")
  return time.perf_counter() - started


def sweeps(folder: Path, turn: int) -> list[dict]:
  """Returns what the commands take, in a folder that is empty: so are its compiler's caches."""
  rows, place = [], itertools.count()

  def add(how: str, compiler: str, seconds: float) -> None:
    rows.append({"turn": turn, "how": how, "compiler": compiler, "seconds": round(seconds, 1)})
    print(f"{how}, {compiler}: {seconds:.1f} s", file=sys.stderr, flush=True)

  def sweep(*flags: str) -> list[str]:
    return ["sweep", f"--config={SWEEP}", f"--workdir={folder / str(next(place))}", "--quiet", *flags]

  for how, flags in {"packed by shape": (), "each cell alone": ("--config.runtime.population=1",)}.items():
    for compiler in ("cold", "warm"):
      add(how, compiler, seconds_of(folder / how.replace(" ", "_"), sweep(*flags)))
  configs = configs_of_cells(folder)
  for compiler in ("cold", "warm"):
    runs = [
      ["train", f"--config={config}", f"--workdir={folder / str(next(place))}", "--quiet"]
      for config in configs
    ]
    add("one command after another", compiler, seconds_of(folder / "commands", *runs))
  return rows


def configs_of_cells(folder: Path) -> list[Path]:
  """Writes a config file for each cell of the sweep."""
  from lm_jax import config as configs
  from lm_jax import config_file

  paths = []
  for cell in config_file.load(SWEEP).cells:
    paths.append(folder / f"{cell.cell_id}.py")
    fields = {
      name: value for name, value in configs.semantic_dict(cell.config).items() if name != "semantics"
    }
    paths[-1].write_text(f"def get_config():\n  return {fields!r}\n")
  return paths


# --- files --------------------------------------------------------------------------------------------


def write(path: Path, rows: list[dict]) -> None:
  with path.open("w", newline="", encoding="utf-8") as f:
    writer = csv.DictWriter(f, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def main(output: Path) -> None:
  output.mkdir(parents=True, exist_ok=True)
  write(output / "rates.csv", [row for setting in (ONE_CORE, BOTH) for row in rates_of_setting(setting)])
  rows = []
  for turn in (1, 2):
    with tempfile.TemporaryDirectory(prefix="populations-") as folder:
      rows += sweeps(Path(folder), turn)
  write(output / "sweeps.csv", rows)


if __name__ == "__main__":
  if sys.argv[1] == "--rates":
    if sys.argv[2] == ONE_CORE:
      os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(json.dumps(rates(sys.argv[2])))
  else:
    main(Path(sys.argv[1]))
