"""The command line: bad input is one line and exit code 2, and leaves nothing behind; what goes where."""

import importlib.metadata
import json
import platform
import re
from pathlib import Path

import processes
import pytest
from processes import RUN, lm_jax, merged, sweep_tree, write_config

from lm_jax import bench, cli, devices
from lm_jax.config import from_mapping
from lm_jax.launch import benchmarks


def call(capsys, *words) -> tuple[int, str, str]:
  """Runs the command line in this process and returns its exit code, stdout and stderr."""
  with pytest.raises(SystemExit) as stop:
    cli.main([str(word) for word in words])
  return stop.value.code, *capsys.readouterr()


def assert_refused(code: int, out: str, err: str, *fragments: str) -> None:
  assert (code, out) == (2, "")
  lines = err.splitlines()
  assert len(lines) == 1, err
  assert lines[0].startswith("lm-jax: ")
  for fragment in fragments:
    assert fragment in lines[0]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
  """Returns an empty working directory but for run.py, sweep.py and some bad config files."""
  write_config(tmp_path / "run.py", RUN)
  write_config(tmp_path / "sweep.py", sweep_tree())
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr("sys.dont_write_bytecode", True)
  return tmp_path


def everything(folder: Path) -> set[Path]:
  return set(folder.rglob("*"))


# --- one bad field of a config --------------------------------------------------------------------

TRAIN = "train --config=run.py --workdir=w"
SWEEP = "sweep --config=sweep.py --workdir=w"


@pytest.mark.parametrize(
  ("words", "said"),
  [
    # names
    ("--config.model.num_layer=4", "config.model.num_layer: no such field; did you mean 'num_layers'?"),
    ("--config.modle.num_layers=4", "config.modle: no such field; did you mean 'model'?"),
    ("--config.zzz=4", "config.zzz: no such field; allowed: study, family, seed, data_seed, task, model"),
    ("--config.model.d_model.x=4", "config.model.d_model is an integer and has no fields"),
    ("--config.model=big", "config.model='big': is a group of fields"),
    ("--config.task.name=rule_inductoin", "config.task.name='rule_inductoin'|did you mean 'rule_induction'?"),
    ("--config.task.name=zzz", "unknown; allowed: rule_induction, associative_recall, markov_chain"),
    ("--config.model.preset=gpt3", "config.model.preset='gpt3': unknown; did you mean 'gpt2'?"),
    ("--config.optimizer.name=adam", "config.optimizer.name='adam'|one of adamw, muon, adafactor|'adamw'?"),
    ("--config.optimizer.schedule=cosin", "one of cosine, linear, wsd, rsqrt, constant|'cosine'?"),
    # types
    ("--config.model.num_layers=two", "config.model.num_layers='two': must be an integer"),
    ("--config.model.num_layers=2.5", "config.model.num_layers=2.5: must be an integer, not float"),
    ("--config.model.num_layers=none", "config.model.num_layers='none': must be an integer"),
    ("--config.model.num_layers=", "config.model.num_layers='': must be an integer"),
    ("--config.model.d_ff=wide", "config.model.d_ff='wide': must be an integer"),
    ("--config.optimizer.learning_rate=fast", "config.optimizer.learning_rate='fast': must be a number"),
    ("--config.optimizer.learning_rate=1e999", "learning_rate=inf: must be a number, not inf"),
    ("--config.model.use_bias=maybe", "config.model.use_bias='maybe': must be true or false"),
    ("--noconfig.model.use_bias=true", "--noconfig.model.use_bias takes no value"),
    ("--config.model.num_layers", "config.model.num_layers='true': must be an integer"),
    # values
    ("--config.model.num_heads=3", "config.model.num_heads=3: must divide d_model=8 (nearest: 2)"),
    ("--config.model.num_heads=8", "config.model.head_dim=1: must be even for positions=rope"),
    ("--config.train.num_steps=-5", "config.train.num_steps=-5: must be greater than 0"),
    ("--config.train.num_steps -5", "config.train.num_steps=-5: must be greater than 0"),
    ("--config.train.batch_size=0", "config.train.batch_size=0: must be greater than 0"),
    ("--config.train.num_steps=5", "optimizer.warmup_steps=10: must be between 0 and train.num_steps=5"),
    ("--config.train.grad_accum_steps=3", "train.grad_accum_steps=3: must be a divisor of batch_size=8"),
    ("--config.seed=4294967296", "config.seed=4294967296: must be in [0, 2**32)"),
    # flags
    ("--wrokdir=x", "--wrokdir: no such flag of lm-jax train; did you mean 'workdir'?"),
    ("--json", "--json: no such flag of lm-jax train; allowed: config, workdir, quiet"),
    ("--quiet=perhaps", "--quiet=perhaps: must be true or false"),
    ("more", "'more': flags only, as --name=value; see lm-jax train --help"),
    ("--workdir=", "--workdir=... must be given to lm-jax train"),
    ("--config=", "--config=... must be given to lm-jax train"),
    ("--workdir", "flag --workdir"),
  ],
)  # fmt: skip
def test_a_bad_run(here, capsys, words, said):
  before = everything(here)
  assert_refused(*call(capsys, *TRAIN.split(), *words.split()), *said.split("|"))
  assert everything(here) == before


@pytest.mark.parametrize(
  ("words", "said"),
  [
    ("", "no command given; allowed: plan, train, sweep, finetune, classify, status, serve, report, bench"),
    ("trian --config=run.py", "'trian': no such command; did you mean 'train'?"),
    ("--config=run.py", "'--config=run.py': no such command"),
    ("train --workdir=w", "--config=... must be given to lm-jax train: config file"),
    ("train --config=run.py", "--workdir=... must be given to lm-jax train: folder"),
    ("train --config=sweep.py --workdir=w", "is a sweep of 2 cells; use lm-jax sweep"),
    ("bench --config=sweep.py", "is a sweep of 2 cells; give the config of one run"),
    ("sweep --config=run.py --workdir=w", "is a single run; use lm-jax train"),
    (f"{SWEEP} --workers=0", "--workers=0: must be greater than 0"),
    (f"{SWEEP} --workers=two", "--workers=two: must be an integer"),
    (f"{SWEEP} --launcher=slrum", "--launcher=slrum: unknown; did you mean 'slurm'?"),
    (f"{SWEEP} --order=random", "--order=random: unknown; allowed: small_first, large_first"),
    (f"{SWEEP} --gpus=1", "--gpus: is for --launcher=ray or slurm, this one is --launcher=local"),
    (f"{SWEEP} --launcher=ray --gpus=-1", "--gpus=-1: must be 0 or greater"),
    (f"{SWEEP} --launcher=ray --hosts=0", "--hosts=0: must be greater than 0"),
    (f"{SWEEP} --launcher=ray --detach", "--detach: is for --launcher=slurm, this one is --launcher=ray"),
    (f"{SWEEP} --launcher=slurm --slurm=partition", "--slurm=partition: must be NAME=VALUE, an option of"),
    (f"{SWEEP} --config.model.d_model=4", "d_model='4': the cells of this sweep set model.d_model"),
    (f"{SWEEP} --config.base.seed=4", "the cells of this sweep set seed themselves"),
    (f"{SWEEP} --config.train.num_step=4", "config.train.num_step: no such field; did you mean 'num_steps'?"),
    ("plan --config=run.py --flops_per_second=0", "--flops_per_second=0.0: must be greater than 0"),
    ("plan --config=run.py --flops_per_second=fast", "--flops_per_second=fast: must be a number"),
    ("bench --config=run.py --steps=0", "--steps=0: must be greater than 0"),
    ("bench --config=run.py --core=4096", "--core=4096: must be one of"),
    ("status --workdir=nowhere", "--workdir=nowhere: no such folder"),
    ("status --workdir=empt", "--workdir=empt: no such folder; did you mean 'empty'?"),
    ("status --workdir=empty", "--workdir=empty: holds neither a sweep nor a run"),
    ("status --workdir=empty --config.seed=1", "--config.seed: lm-jax status takes no config"),
    ("report --workdir=empty", "empty"),
    ("report --workdir=run.py", "--workdir=run.py: no such folder"),
    ("train --config=run.py --workdir=run.py", "--workdir=run.py: run.py is a file, must be a folder"),
    ("sweep --config=sweep.py --workdir=run.py", "--workdir=run.py: run.py is a file, must be a folder"),
    ("train --config=run.py --workdir=run.py/w", "--workdir=run.py/w: run.py is a file"),
  ],
)  # fmt: skip
def test_a_bad_command(here, capsys, words, said):
  (here / "empty").mkdir()
  before = everything(here)
  assert_refused(*call(capsys, *words.split()), *said.split("|"))
  assert everything(here) == before


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("x = 1", "has no function get_config()"),
    ("get_config = 1", "has no function get_config()"),
    ("def get_config(:\n  pass", "line 1: SyntaxError"),
    ("import nothing_of_this_name", "line 1: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    ("return 1 / 0", "line 2: ZeroDivisionError: division by zero"),
    ("raise ValueError('two\\nlines')", "line 2: ValueError: two lines"),
    ("raise SystemExit(3)", "line 2: SystemExit: 3"),
    ("def get_config(argument):\n  return {}", "get_config failed, TypeError: get_config() missing 1"),
    ("return 5", "get_config() returned int, must return a ConfigDict"),
    ("def get_config():\n  pass", "get_config() returned NoneType, must return a ConfigDict"),
    ("return {1: 2}", "config.1: no such field"),
    ("return {'model': 5}", "config.model=5: must be a group of fields"),
    ("return {'cells': []}", "config.cells: must be a list of overrides with at least one cell"),
    ("return {'cells': 5}", "config.cells: must be a list of overrides"),
    ("return {'cells': [5]}", "config.cells[0]=5: must be overrides"),
    ("return {'cells': [{1: 1}]}", "config.cells[0]={1: 1}: must be overrides"),
    ("return {'cells': [{}], 'base': 5}", "config.base=5: must be a group of fields"),
    ("return {'cells': [{}], 'bsae': {}}", "config.bsae: no such field of a sweep; did you mean 'base'"),
    ("return {'cells': [{'sed': 1}]}", "config.cells.sed: no such field; did you mean 'seed'?"),
    ("return {'cells': [{'seed': 1}, {'seed': 1.5}]}", "config.seed=1.5: must be an integer"),
    ("return {'cells': [{'seed': 1}, {'seed': 1}]}", "two cells are the same run, {'seed': 1}"),
    (
      "return {'cells': [{}, {'runtime.log_every': 7}]}",
      "config.cells: two cells are the same run, {'runtime.log_every': 7}",
    ),
    (
      "from lm_jax import sweep\n"
      "def get_config():\n"
      "  return {'cells': sweep.zipped(sweep.axis('seed', [1, 2]), sweep.axis('model.d_ff', [1]))}",
      "zipped: lists of 1 and 2 overrides; must be equally long",
    ),
  ],
)  # fmt: skip
def test_a_bad_config_file(here, capsys, text, said):
  body = text.startswith(("return", "raise"))
  (here / "bad.py").write_text(f"def get_config():\n  {text}\n" if body else f"{text}\n")
  before = everything(here)
  for command in ("sweep", "train"):
    code, out, err = call(capsys, command, "--config=bad.py", "--workdir=w")
    assert_refused(code, out, err, said)
  assert everything(here) == before


@pytest.mark.parametrize(
  ("config", "said"),
  [
    ("rnu.py", "--config=rnu.py: no file rnu.py; did you mean 'run.py'?"),
    ("run", "--config=run: no file run; did you mean 'run.py'?"),
    ("nowhere/at/all.py", "--config=nowhere/at/all.py: no file nowhere/at/all.py"),
    ("notes.md", "--config=notes.md: must be a Python file, NAME.py"),
    (".", "--config=.: no file ."),
    ("run.py:seeds=3", "--config=run.py:seeds=3: get_config failed, TypeError: get_config() takes 0"),
    ("study.py:seed=3", "--config argument 'seed=3': unknown; did you mean 'seeds'?"),
    ("study.py:seeds", "--config argument 'seeds': must be seeds=N with a whole number N above 0"),
    ("study.py:seeds=0", "must be seeds=N with a whole number N above 0"),
    ("study.py:seeds=1,steps=x", "--config argument 'steps=x': must be steps=N"),
  ],
)
def test_a_bad_config_argument(here, capsys, config, said):
  (here / "notes.md").write_text("hello\n")
  (here / "study.py").write_text(
    "from lm_jax import sweep\n"
    "def get_config(argument=''):\n"
    "  n = sweep.arguments(argument, seeds=1, steps=10)\n"
    "  return {'cells': sweep.axis('seed', range(n['seeds']))}\n"
  )
  before = everything(here)
  assert_refused(*call(capsys, "sweep", f"--config={config}", "--workdir=w"), said)
  assert everything(here) == before


def test_a_workdir_of_something_else(here, capsys):
  """Another run, another study, a sweep, a run, a file of the same name: none is touched."""
  for folder in ("run", "sweep", "foreign"):
    (here / folder).mkdir()
  from lm_jax import config_file, rundir
  from lm_jax.launch import study

  rundir.RunDir(here / "run").write_config(config_file.load("run.py"))
  study.write_sweep(config_file.load("sweep.py"), here / "sweep")
  (here / "foreign" / "config.json").write_text('{"architectures": ["X"]}')
  write_config(here / "other.py", merged(sweep_tree(), study="other"))
  before = everything(here)
  for words, said in {
    "train --config=run.py --workdir=run --config.seed=1": "--workdir=run: holds a run of another config",
    "train --config=run.py --workdir=sweep": "--workdir=sweep: holds a sweep; choose another workdir",
    "train --config=run.py --workdir=foreign": "--workdir=foreign: its config.json is not a run's",
    "sweep --config=sweep.py --workdir=run": "--workdir=run: holds a single run; choose another workdir",
    "sweep --config=other.py --workdir=sweep": "holds the study 'tiny', this one is 'other'; choose another",
  }.items():
    assert_refused(*call(capsys, *words.split()), said)
  assert everything(here) == before


def test_a_workdir_that_cannot_be_written(here, capsys):
  # Nobody may make a folder there, not even root, whom the permissions of other places would not stop.
  assert_refused(*call(capsys, *TRAIN.split()[:-1], "--workdir=/proc/w"), "--workdir=/proc/w: ")


@pytest.mark.parametrize(
  "words",
  ["train --config=run.py --config.model.num_layer=4 --workdir=w", "plan --config=nowhere.py", "", "zzz"],
)
def test_a_process_of_its_own_says_the_same(here, words):
  done = processes.finish(processes.start(*words.split(), cwd=here))
  assert_refused(done.returncode, done.stdout, done.stderr)
  assert not (here / "w").exists()


# --- what goes where ------------------------------------------------------------------------------


def test_plan_as_json_is_one_object_and_nothing_else(here):
  text = (here / "sweep.py").read_text().replace("  return", "  print('noise')\n  return")
  (here / "noisy.py").write_text(text)
  done = lm_jax("plan", f"--config={here / 'noisy.py'}", "--json")
  assert done.returncode == 0
  plan = json.loads(done.stdout)
  assert done.stdout.count("\n") == 1
  assert len(plan["cells"]) == 2
  assert "noise" in done.stderr


def test_plan_for_a_person(here, capsys):
  code, out, err = call(capsys, "plan", "--config=sweep.py", "--workers=3")
  assert (code, err) == (0, "")
  assert [line.split()[1:3] for line in out.splitlines()[1:3]] == [["d8", "L1"], ["d16", "L1"]]
  assert "tiny: 2 cells" in out
  assert "3 workers" in out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_names_every_flag(here, capsys, command):
  code, out, err = call(capsys, command, "--help")
  assert (code, err) == (0, "")
  assert cli.COMMANDS[command].help in out
  for flag in cli.COMMANDS[command].flags:
    assert f"--{flag}  " in out


@pytest.mark.parametrize("words", ["--help", "-h", "help"])
def test_help_names_every_command(here, capsys, words):
  code, out, err = call(capsys, words)
  assert (code, err) == (0, "")
  assert all(f"  {name} " in out for name in cli.COMMANDS)


def test_version(capsys):
  from lm_jax import __version__

  code, out, err = call(capsys, "--version")
  assert (code, err) == (0, "")
  first, *others = out.splitlines()
  assert first.split()[:2] == ["lm_jax", __version__]
  told = dict(line.split() for line in others)
  assert told["python"] == platform.python_version()
  assert {name: told[name] for name in ("jax", "flax", "optax", "orbax-checkpoint")} == {
    name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")
  }


def test_output_cut_short_is_no_error(here):
  """`lm-jax plan | head -0`."""
  with processes.start("plan", "--config=sweep.py", cwd=here) as process:
    process.stdout.close()
    assert process.stderr.read() == ""
  assert process.returncode == 128 + 13


def test_bench_as_json(here, capsys):
  code, out, err = call(capsys, "bench", "--config=run.py", "--steps=3", "--json")
  assert (code, err, out.count("\n")) == (0, "", 1)
  result = json.loads(out)
  wanted = (
    "tokens_per_second",
    "step_ms",
    "compile_s",
    "flops_per_second",
    "peak_memory_bytes",
    "num_devices",
  )
  assert all(result[name] > 0 for name in wanted)
  assert result["tokens_per_second"] * result["step_ms"] / 1e3 == pytest.approx(8 * 11)
  # A CPU's peak is measured, an accelerator's looked up, and what is neither has no utilization.
  if result["peak_source"] is None:
    assert result["peak_flops_per_second"] is result["utilization"] is None
  else:
    share = result["flops_per_second"] / result["peak_flops_per_second"]
    assert result["utilization"] == pytest.approx(share) and 0 < share < 1
  parts = result["startup_s"]
  assert sum(parts.values()) == pytest.approx(result["time_to_first_step_s"])
  assert min(parts.values()) >= 0


def test_bench_of_several_configs(here, capfd):
  """Each in a process of its own: a table for a person, one object with --json, and lines in a file."""
  write_config(here / "wide.py", merged(RUN, model={"d_model": 16}))
  words = ["bench", "--config=run.py", "--config=wide.py", "--steps=1", "--output=runs/bench.jsonl"]
  code, out, _ = call(capfd, *words, "--config.model.num_layers=2")
  assert code == 0
  assert [line.split()[0] for line in out.splitlines()[:3]] == ["config", "run.py", "wide.py"]
  lines = [json.loads(line) for line in (here / "runs/bench.jsonl").read_text().splitlines()]
  assert [line["config"] for line in lines] == ["run.py", "wide.py"]
  assert lines[0]["params_total"] < lines[1]["params_total"]
  assert set(lines[0]) == set(lines[1]) > {"git_commit", "lm_jax_version", "utilization"}


@pytest.mark.parametrize(
  ("device", "number", "dtype", "peak", "said"),
  [
    ("NVIDIA H100 80GB HBM3", 8, "bfloat16", 8 * 989.4e12, "whitepaper, table 2; bfloat16"),
    ("NVIDIA H100 80GB HBM3", 1, "float32", 494.7e12, "whitepaper, table 2; tf32"),
    (
      "NVIDIA H100 96GB HBM4",
      1,
      "bfloat16",
      None,
      "peak unknown for NVIDIA H100 96GB HBM4, so no utilization",
    ),
  ],
)
def test_utilization_is_of_all_devices_used_or_not_told(device, number, dtype, peak, said):
  config = from_mapping(merged(RUN, model={"dtype": dtype}))
  told = bench._utilization(config, 1e12, devices.find(device), number, [])
  assert told["peak_flops_per_second"] == peak
  assert told["utilization"] == (peak and 1e12 / peak)
  row = {
    "config": "x.py", "params_total": 1, "tokens_per_second": 1.0, "step_ms": 1.0, "peak_memory_bytes": 1,
    "time_to_first_step_s": 1.0, "flops_per_second": 1e12, "device": device, "num_devices": number,
    "dtype": dtype, "jax": "0", "pipeline_tokens_per_second": None, **told,
  }  # fmt: skip
  assert said in benchmarks.table([row])


def test_train_says_when_its_first_step_was_done(here):
  done = lm_jax("train", "--config=run.py", "--workdir=w")
  assert done.returncode == 0
  lines = [line for line in done.stderr.splitlines() if line.startswith("first step after ")]
  assert len(lines) == 1
  total, *parts = map(float, re.findall(r"\d+\.\d", lines[0]))
  assert len(parts) == 4 and sum(parts) == pytest.approx(total, abs=0.3)
  assert "first step" not in lm_jax("train", "--config=run.py", "--workdir=v", "--quiet").stderr
