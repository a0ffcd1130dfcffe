"""The flags of commands: their types, their help, and what is said of a wrong one."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

from absl import flags

from lm_jax import strict
from lm_jax.generation_config import GenerationConfig
from lm_jax.strict import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Command:
  """One subcommand: its function, its flags, and which of them must be given."""

  run: Callable[[flags.FlagValues, list[tuple[str, str]]], int]
  help: str
  flags: Sequence[str]
  required: Sequence[str] = ()
  takes_config: bool = False
  many_configs: bool = False
  many_workdirs: bool = False
  takes_url: bool = False  # the workdir may be in an object store
  resumes: bool = False  # after it was interrupted, the same command goes on
  own: Mapping[str, "Flag"] = dataclasses.field(default_factory=dict)  # flags that are others elsewhere

  def flag(self, name: str) -> "Flag":
    return self.own[name] if name in self.own else FLAGS[name]


Flag = tuple[Callable, str, object]  # (how it is defined, help, default)

FLAGS: dict[str, Flag] = {
  "config": (flags.DEFINE_string, "config file with get_config(), as FILE or FILE:arg", None),
  "workdir": (flags.DEFINE_string, "folder of the run or sweep, or s3:// or gs:// BUCKET/FOLDER", None),
  "workers": (
    flags.DEFINE_integer, "so many train at a time (default: one a core, or one a GPU; of an engine: as it "
    "has room)", None,
  ),
  "launcher": (flags.DEFINE_string, "local: this machine's cores or GPUs; ray; slurm", "local"),
  "ray_address": (
    flags.DEFINE_string, "HOST:PORT of a running Ray cluster, or auto: this machine's (default: starts one)",
    None,
  ),
  "slurm": (
    flags.DEFINE_multi_string, "option of sbatch as NAME=VALUE: partition, account, qos, time, mem, gres, "
    "constraint, ...; may be repeated", None,
  ),
  "cpus": (flags.DEFINE_integer, "cores of a host that each cell asks ray or slurm for", 1),
  "gpus": (flags.DEFINE_integer, "GPUs of a host that each cell asks ray or slurm for", 0),
  "hosts": (flags.DEFINE_integer, "hosts that train each cell together, by ray or slurm", 1),
  "detach": (
    flags.DEFINE_boolean, "slurm: send the jobs, wait for nothing; the same command without it waits", False,
  ),
  "order": (
    flags.DEFINE_string, "small_first: the curve grows early; large_first: the whole is done soonest",
    "small_first",
  ),
  "max_flops": (
    flags.DEFINE_float, "budget of training FLOPs of the whole sweep: what has no room in it is not begun",
    None,
  ),
  "max_hours": (
    flags.DEFINE_float, "after so long, running cells are saved and stopped; the same command goes on", None,
  ),
  "halving": (
    flags.DEFINE_boolean, "the worse half of the learning rates of a size ends early, until two are left",
    False,
  ),
  "retry_failed": (flags.DEFINE_boolean, "run only the cells that failed, whatever the reason", False),
  "coordinator": (
    flags.DEFINE_string, "HOST:PORT of the first of several processes, or auto (Slurm, TPU pod, MPI)", None,
  ),
  "num_processes": (flags.DEFINE_integer, "processes that train this run together", None),
  "process_id": (flags.DEFINE_integer, "which of them this is, from 0", None),
  "json": (flags.DEFINE_boolean, "print one JSON object on stdout and nothing else", False),
  "quiet": (flags.DEFINE_boolean, "no progress", False),
  "watch": (flags.DEFINE_boolean, "keep showing until all is done", False),
  "host": (
    flags.DEFINE_string, "address to listen on; others than 127.0.0.1 let other machines read", "127.0.0.1",
  ),
  "port": (flags.DEFINE_integer, "port to listen on; 0: any (default: 8651, or the next that is free)", None),
  "output": (
    flags.DEFINE_string, "file to append the results to, a JSON line each (report: folder of the page)", None,
  ),
  "overlay": (
    flags.DEFINE_multi_string, "table of scores of other models, drawn beside (.csv, .tsv, .parquet)",
    None,
  ),
  "steps": (flags.DEFINE_integer, "steps to time", 20),
  "text": (flags.DEFINE_multi_string, "text to classify; may be repeated (default: lines of stdin)", None),
  "core": (flags.DEFINE_integer, "pin to this core, single-threaded (default: all cores)", None),
  "flops_per_second": (
    flags.DEFINE_float, "peak of float32 matrix products of one worker, for the time estimate", None,
  ),
  "device": (
    flags.DEFINE_string, "what each worker has: a100-80, h100-sxm, l4, tpu-v5e, ...; for time and memory",
    None,
  ),
  "mfu": (
    flags.DEFINE_float, "share of the device's peak that products reach (default: 0.4; cpu-core: 1)", None,
  ),
  "usd_per_hour": (flags.DEFINE_float, "price of one worker, for the cost", None),
  "gain": (flags.DEFINE_float, "over chance, in accuracy: say how many items and seeds would show it", None),
  "seed_sd": (flags.DEFINE_float, "standard deviation over seeds to assume, for the number of seeds", None),
  "model": (
    flags.DEFINE_string, "a run of lm-jax train, a folder of lm-jax convert or of Hugging Face transformers, "
    "org/name on its hub, a GGUF file, or a llama2.c .bin beside its tok*.bin", None,
  ),
  "weights": (
    flags.DEFINE_string, "what matrices are held in: float32 (the default), bfloat16 or int8, whose cost is "
    "measured and told, unless --quiet", "float32",
  ),
  "prompt": (flags.DEFINE_multi_string, "text to go on from; may be repeated (default: stdin's lines)", None),
  "prompts": (flags.DEFINE_string, 'file of prompts, one a line, or .jsonl with a "prompt" a line', None),
  "system": (flags.DEFINE_string, "what the conversation begins with, before the first question", None),
  "source": (flags.DEFINE_string, "the model to convert: what --model of lm-jax generate takes", None),
  "target": (flags.DEFINE_string, "folder to write, new or empty", None),
  "to": (flags.DEFINE_string, "huggingface (the default: a folder of transformers) or lm_jax", "huggingface"),
}  # fmt: skip

_DEFINE = {int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_boolean}
_KINDS = {_DEFINE[int]: "an integer", _DEFINE[float]: "a number", _DEFINE[bool]: "true or false"}

# Fields of GenerationConfig, whose defaults are there.
GENERATION = {
  "max_new_tokens": "tokens of a continuation, at most (of a few-shot task: as it says)",
  "num_return_sequences": "continuations of each prompt",
  "temperature": "below 1 the likely becomes likelier; 0: the most likely token, always (evaluate, answer)",
  "top_k": "draw from the so many most likely tokens",
  "top_p": "draw from the most likely tokens of so much probability together",
  "min_p": "draw from the tokens at least so many times as likely as the most likely one",
  "repetition_penalty": "above 1, tokens that were there before become less likely",
  "num_beams": "above 1: search for the likeliest continuations, and draw nothing",
  "length_penalty": "of beams: above 1 longer ones rank higher",
  "early_stopping": "of beams: stop with the first ones that are finished",
  "stop": "text that a continuation ends before; may be repeated; \\n in it is a new line",
  "ignore_end": "go on after the end of text",
  "truncate": "drop the beginning of what is too long for the context",
  "seed": "of the draws: the same seed, the same text",
}


def _add_generation() -> None:
  """Adds flags for GENERATION, which are None where they are not given."""
  for name, annotation in strict.field_types(GenerationConfig).items():
    default = getattr(GenerationConfig, name)
    told = "" if default in (None, ()) else f" (default: {str(default).lower()})"
    define = next((d for kind, d in _DEFINE.items() if kind in (annotation, *_members(annotation))), None)
    FLAGS[name] = (define or flags.DEFINE_multi_string, GENERATION[name] + told, None)


def _members(annotation: object) -> tuple:
  return getattr(annotation, "__args__", ())


_add_generation()


def explain(error: flags.Error, name: str, command: Command) -> str:
  """Returns what is wrong with a flag, in one line."""
  if isinstance(error, flags.UnrecognizedFlagError):
    return f"--{error.flagname}: no such flag of lm-jax {name}{nearest(error.flagname, command.flags)}"
  given = re.match(r"flag --(\w+)=(.*?): ", str(error))
  if isinstance(error, flags.IllegalFlagValueError) and given:
    return f"--{given[1]}={given[2]}: must be {_KINDS[command.flag(given[1])[0]]}"
  return " ".join(str(error).split())


def define(command: Command) -> flags.FlagValues:
  values = flags.FlagValues()
  for name in command.flags:
    define, text, default = command.flag(name)
    if (name == "config" and command.many_configs) or (name == "workdir" and command.many_workdirs):
      define = flags.DEFINE_multi_string
    define(name, default, text, flag_values=values)
  return values


def flag_help(command: Command, values: flags.FlagValues) -> str:
  lines = [f"  --{name}  {command.flag(name)[1]}" for name in command.flags]
  if command.takes_config:
    lines.append("  --config.path.to.field=value  changes one field of the config")
  return "\n".join(lines)


def positive(values: flags.FlagValues, name: str) -> None:
  value = getattr(values, name)
  if value is not None and value <= 0:
    raise ConfigError(f"--{name}={value}: must be greater than 0")
