"""Study 023: what one GPU does; see experiments/study.py. It wants an NVIDIA GPU, torch and $NANOGPT."""

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import study_figure
import study_text
from matplotlib.figure import Figure

COMMANDS = ("python {here}/measure.py {workdir}",)
TABLES = ("training", "kernels", "attention", "populations", "small", "bits")
LATEST = "latest"
# Of kernels, by their names: the first that fits.
KINDS = (
  (r"cudnn", "attention"),
  (r"nvjet|gemm|cutlass|cublas", "products with weights"),
  (r"memcpy|slice|broadcast|concatenate|memset", "copies"),
  (r"scatter", "gradient of the embedding's rows"),
  (r"", "norms, GELU, softmax of the loss, optimizer"),
)
GPT2 = "gpt2"


def tables(workdir: Path) -> dict[str, pd.DataFrame]:
  """Returns what was measured now, below what was measured first, by earlier code."""
  found = {}
  for stem in TABLES:
    first = pd.read_csv(Path(__file__).with_name(f"{stem}.csv")).query("run == 'first'")
    path = workdir / f"{stem}.csv"
    now = pd.read_csv(path).assign(run=LATEST) if path.exists() and path.stat().st_size else None
    found[stem] = pd.concat([first, now], ignore_index=True)
  return found


def draw(tables: Mapping[str, pd.DataFrame]) -> dict[str, Figure]:
  training = tables["training"].query("shape == @GPT2")
  rows = training.rename(columns={"way": "label", "run": "group"}).assign(
    value=training["tokens_per_s"] / 1e3
  )
  return {"training": study_figure.dots(rows, "Thousand tokens a second, GPT-2 124M on one H100")}


def _by_kind(kernels: pd.DataFrame) -> pd.DataFrame:
  """Returns milliseconds of a step by run and kind of kernel."""
  kind = kernels["kernel"].map(lambda name: next(k for rule, k in KINDS if re.search(rule, name.lower())))
  return (
    kernels.groupby([kernels["run"], kind], sort=False)["ms"].sum().rename_axis(["run", "kind"]).reset_index()
  )


def texts(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
  columns = {
    "training": {"run": "run", "way": "GPT-2 124M", "tokens_per_s": "tokens/s", "step_ms": "ms a step",
                 "utilization": "utilization", "memory_gib": "GiB", "compile_s": "s to compile"},
    "attention": {"run": "run", "T": "tokens", "way": "way", "ms": "ms", "temporary_mib": "MiB",
                  "compile_s": "s to compile", "error_y": "error", "error_dq": "of dq", "error_dk": "of dk",
                  "error_dv": "of dv"},
    "small": {"run": "run", "study": "sweep", "width": "d", "layers": "layers", "way": "way",
              "step_ms": "ms a step", "tokens_per_s": "tokens/s"},
    "populations": {"run": "run", "width": "d", "members": "replicas", "step_ms": "ms a step",
                    "tokens_per_s": "replica-tokens/s"},
    "bits": {"run": "run", "width": "d", "way": "way", "same": "two runs have the same bits"},
  }  # fmt: skip
  found = {}
  for stem, names in columns.items():
    shown = tables[stem].loc[:, list(names)].rename(columns=names)
    found[stem] = study_text.table(shown.map(_shown))
  kinds = _by_kind(tables["kernels"]).rename(columns={"kind": "kernels", "ms": "ms a step"})
  return found | {"kernels": study_text.table(kinds.map(_shown))}


def _shown(value: object) -> str:
  if isinstance(value, bool) or not isinstance(value, int | float):
    return {"True": "yes", "False": "no"}.get(str(value), str(value))
  if pd.isna(value):
    return ""
  if value >= 1000:
    return f"{value:,.0f}"
  return f"{value:.4f}" if value < 0.01 else f"{value:.3g}"


def derived(tables: Mapping[str, pd.DataFrame]) -> dict[str, float]:
  """Returns how much longer or shorter steps are, and shares of one."""
  first = tables["training"].query("run == 'first'").set_index("way")["step_ms"]
  kinds = _by_kind(tables["kernels"]).query("run == 'first'").set_index("kind")["ms"]
  small = tables["small"].query("run == 'first' and study == 'khop'").set_index("way")["step_ms"]
  attention = tables["attention"].query("run == 'first' and T == 1024").set_index("way")["ms"]
  replicas = tables["populations"].query("run == 'first'").set_index("members")["tokens_per_s"]
  least = tables["kernels"].query("run == 'first'")
  return {
    "2^28 over 2^22": first["logits 2^28"] / first["logits 2^22"],
    "all over 2^28": first["all logits"] / first["logits 2^28"],
    "all over nanoGPT": first["all logits"] / first["nanoGPT, compiled"],
    "2^22 over nanoGPT": first["logits 2^22"] / first["nanoGPT, compiled"],
    "order, gpt2": first["logits 2^28, no atomic additions"] / first["logits 2^28"],
    "order, khop": small["powers of two, no atomic additions"] / small["powers of two"],
    "powers of two": small["powers of two"] / small["hops one by one"],
    "copies": kinds["copies"] / kinds.sum(), "products": kinds["products with weights"] / kinds.sum(),
    "attention": kinds["attention"] / kinds.sum(), "in all, ms": kinds.sum(),
    "memcpy": least[least["kernel"].str.startswith("memcpy")]["ms"].sum(),
    "cuDNN": attention["blocks of 64"] / attention["cuDNN"],
    "replicas": replicas[8] / replicas[1],
  }  # fmt: skip
