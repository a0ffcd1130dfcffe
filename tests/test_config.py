"""Strict configs: what is accepted, what is said of the rest, and what identifies a run."""

import dataclasses
import json
import math
from typing import Literal

import hypothesis
import hypothesis.strategies as st
import ml_collections
import numpy as np
import pytest

from lm_jax import config as configs
from lm_jax import config_file, model_config, presets, strict, task_configs
from lm_jax.cli import split_overrides
from lm_jax.config import Config
from lm_jax.strict import ConfigError

# --- conversion -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Red:
  name: Literal["red"] = "red"
  depth: int = 1


@dataclasses.dataclass(frozen=True)
class Blue:
  name: Literal["blue"] = "blue"
  width: float = 2.0


@dataclasses.dataclass(frozen=True)
class Sample:
  PRESETS = {"wide": {"whole": 100, "on": True}}  # noqa: RUF012

  whole: int = 0
  real: float = 0.0
  on: bool = False
  word: str = ""
  maybe: int | None = None
  mode: Literal["fast", "slow"] = "fast"
  several: tuple[int, ...] = ()
  names: tuple[str, ...] = ()
  color: Red | Blue = Red()


@pytest.mark.parametrize("text", ["a,b", "a, b", '["a", "b"]', "('a', 'b')"])
def test_a_list_of_names_may_be_typed_with_or_without_brackets(text):
  tree = {}
  strict.set_path(Sample, tree, "names", text, text=True)
  assert strict.from_mapping(Sample, tree).names == ("a", "b")


@pytest.mark.parametrize(
  ("given", "field", "value"),
  [
    ({"whole": 3}, "whole", 3),
    ({"real": 3}, "real", 3.0),
    ({"maybe": None}, "maybe", None),
    ({"maybe": 5}, "maybe", 5),
    ({"mode": "slow"}, "mode", "slow"),
    ({"several": [1, 2]}, "several", (1, 2)),
    ({"names": ["a", "b,c"]}, "names", ("a", "b,c")),
    ({"names": "a, b"}, "names", ("a", "b")),
    ({"color": {}}, "color", Red()),
    ({"color": {"name": "blue", "width": 1}}, "color", Blue(width=1.0)),
    ({"preset": "wide"}, "whole", 100),
    ({"preset": "wide", "whole": 1}, "whole", 1),
    ({"preset": None}, "whole", 0),
  ],
)
def test_conversion_accepts(given, field, value):
  result = getattr(strict.from_mapping(Sample, given), field)
  assert (result, type(result)) == (value, type(value))
  assert strict.from_mapping(Sample, ml_collections.ConfigDict(given)) == strict.from_mapping(Sample, given)


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ({"whole": 1.5}, "config.whole=1.5: must be an integer, not float"),
    ({"whole": True}, "config.whole=True: must be an integer, not bool"),
    ({"whole": None}, "config.whole=None: must be an integer, not NoneType"),
    ({"real": "1"}, "config.real='1': must be a number, not str"),
    ({"real": math.inf}, "config.real=inf: must be a number, not inf"),
    ({"real": math.nan}, "config.real=nan: must be a number, not nan"),
    ({"on": 1}, "config.on=1: must be true or false, not int"),
    ({"word": 1}, "config.word=1: must be a string, not int"),
    ({"maybe": "x"}, "config.maybe='x': must be an integer or none, not str"),
    ({"mode": "fat"}, "config.mode='fat': must be one of fast, slow; did you mean 'fast'?"),
    ({"mode": ["fast"]}, "config.mode=['fast']: must be one of fast, slow"),
    ({"several": "12"}, "config.several='12': must be a list of an integer, not str"),
    ({"several": [1, "2"]}, "config.several[1]='2': must be an integer, not str"),
    ({"color": {"name": "bleu"}}, "config.color.name='bleu': unknown; did you mean 'blue'?"),
    ({"color": {"name": ["red"]}}, "config.color.name=['red']: unknown; did you mean 'red'?"),
    ({"color": {"width": 1.0}}, "config.color.width: no such field"),
    ({"color": "red"}, "config.color='red': must be a group of fields with a name (red, blue)"),
    ({"preset": "wid"}, "config.preset='wid': unknown; did you mean 'wide'?"),
    ({"preset": ["wide"]}, "config.preset=['wide']: unknown; did you mean 'wide'?"),
    ({"hole": 1}, "config.hole: no such field; did you mean 'whole'?"),
    ({7: 1}, "config.7: no such field; allowed: whole, real,"),
    (3, "config=3: must be a group of fields (whole, real,"),
  ],
)
def test_conversion_refuses(given, said):
  with pytest.raises(ConfigError) as error:
    strict.from_mapping(Sample, given)
  assert str(error.value).startswith(said)


_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_names = st.sampled_from(
  ["name", "preset", *strict.field_types(Config), *strict.field_types(model_config.ModelConfig)]
)
_trees = st.recursive(
  _values, lambda t: st.lists(t, max_size=3) | st.dictionaries(_names, t, max_size=4), max_leaves=12
)


@hypothesis.settings(deadline=None, max_examples=300, derandomize=True)
@hypothesis.given(st.dictionaries(_names, _trees, max_size=5))
def test_any_tree_is_converted_or_refused_in_one_line(tree):
  try:
    config = configs.from_mapping(tree)
  except ConfigError as error:
    assert len(str(error).splitlines()) == 1
  else:
    assert configs.from_mapping(strict.to_dict(config)) == config
    assert configs.cell_id(configs.from_mapping(strict.to_dict(config))) == configs.cell_id(config)


def test_a_preset_is_a_style_and_leaves_sizes_alone():
  sizes = {"d_model": 24, "num_layers": 3, "num_heads": 3}
  for name, style in presets.PRESETS.items():
    model = configs.from_mapping({"model": {"preset": name, **sizes}}).model
    assert {k: getattr(model, k) for k in sizes} == sizes
    assert {k: getattr(model, k) for k in style} == style


# --- overrides on the command line ----------------------------------------------------------------


@pytest.mark.parametrize(
  ("words", "overrides"),
  [
    (["--config.a.b=v"], [("a.b", "v")]),
    (["--config.a.b", "v"], [("a.b", "v")]),
    (["-config.a=v"], [("a", "v")]),
    (["--config.a=x=y"], [("a", "x=y")]),
    (["--config.a="], [("a", "")]),
    (["--config.flag"], [("flag", "true")]),
    (["--config.flag", "--json"], [("flag", "true")]),
    (["--noconfig.flag"], [("flag", "false")]),
    (["--config.a", "-3"], [("a", "-3")]),
    (["--config.a=1", "--config.a=2"], [("a", "1"), ("a", "2")]),
  ],
)
def test_overrides_are_taken_out_of_the_arguments(words, overrides):
  rest, found = split_overrides(["--config=f.py", *words])
  assert found == overrides
  assert rest == ["--config=f.py", *(["--json"] if "--json" in words else [])]


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "file.py"
  path.write_text("import ml_collections\n\ndef get_config():\n  return ml_collections.ConfigDict({})\n")
  return str(path)


@pytest.mark.parametrize(
  ("field", "text", "value"),
  [
    ("train.num_steps", "2e3", 2000),
    ("train.num_steps", "1_500", 1500),
    ("optimizer.learning_rate", "1", 1.0),
    ("optimizer.learning_rate", "3e-4", 3e-4),
    ("optimizer.clip_norm", "none", None),
    ("optimizer.clip_norm", "0.5", 0.5),
    ("model.scan_layers", "true", True),
    ("model.scan_layers", "0", False),
    ("model.norm", "layernorm", "layernorm"),
    ("model.num_kv_heads", "1", 1),
    ("model.d_ff", "None", 256),  # follows from d_model
    ("study", "7", "7"),
  ],
)
def test_override_text_becomes_the_type_of_its_field(file, field, text, value):
  result = config_file.load(file, [(field, text)])
  for name in field.split("."):
    result = getattr(result, name)
  assert (result, type(result)) == (value, type(value))


def test_the_last_override_wins_and_a_name_counts_wherever_it_stands(file):
  assert config_file.load(file, [("seed", "1"), ("seed", "2")]).seed == 2
  task = config_file.load(file, [("task.num_digits", "3"), ("task.name", "arithmetic")]).task
  assert task == task_configs.Arithmetic(num_digits=3)
  assert config_file.load(file, [("model.preset", "palm")]).model.parallel_block


def test_numpy_numbers_count_as_numbers(tmp_path):
  path = tmp_path / "numpy_config.py"
  path.write_text(
    "import numpy as np\n"
    "from lm_jax import sweep\n"
    "def get_config():\n"
    "  rates = sweep.axis('optimizer.learning_rate', np.geomspace(1e-3, 1e-2, 2))\n"
    "  return {'cells': sweep.product(rates, sweep.axis('seed', np.arange(2)))}\n"
  )
  loaded = config_file.load(str(path))
  assert [c.config.seed for c in loaded.cells] == [0, 1, 0, 1]
  np.testing.assert_allclose(
    [c.config.optimizer.learning_rate for c in loaded.cells], [1e-3, 1e-3, 1e-2, 1e-2]
  )
  json.dumps([c.summary() for c in loaded.cells])


# --- what no single field can check ---------------------------------------------------------------

RECALL = {"name": "associative_recall"}


@pytest.mark.parametrize(
  ("tree", "said"),
  [
    ({"model": {"d_model": 64, "num_heads": 3}}, "model.num_heads=3: must divide d_model=64"),
    ({"model": {"num_heads": 0}}, "model.num_heads=0: must be greater than 0"),
    ({"model": {"num_heads": 4, "num_kv_heads": 3}}, "model.num_kv_heads=3: must be a divisor of"),
    ({"model": {"head_dim": 5}}, "model.head_dim=5: must be even for positions=rope"),
    (
      {"model": {"d_model": 9, "num_heads": 3, "positions": "sinusoidal"}},
      "model.d_model=9: must be even for positions=sinusoidal",
    ),
    ({"model": {"dropout": 1.0}}, "model.dropout=1.0: must be in [0, 1)"),
    ({"model": {"vocab_size": 5}}, "model.vocab_size=5: must be at least the task's 12"),
    ({"model": {"context_length": 5}}, "model.context_length=5: must be at least the task's"),
    (
      {"model": {"parallel_block": True, "norm_position": "post"}},
      "model.norm_position='post': must be pre for parallel_block=true",
    ),
    (
      {"model": {"attention": "cudnn"}},
      "model.attention='cudnn': must be auto or blocks for dtype=float32: cuDNN's kernel takes bfloat16",
    ),
    (
      {"model": {"attention": "cudnn", "dtype": "bfloat16", "head_dim": 12}},
      "model.attention='cudnn': must be auto or blocks for head_dim=12: cuDNN's kernel takes multiples of 8",
    ),
    ({"train": {"num_steps": -1}}, "train.num_steps=-1: must be greater than 0"),
    ({"train": {"batch_size": 0}}, "train.batch_size=0: must be greater than 0"),
    (
      {"train": {"batch_size": 10, "grad_accum_steps": 4}},
      "train.grad_accum_steps=4: must be a divisor of batch_size=10",
    ),
    ({"train": {"num_steps": 50}}, "optimizer.warmup_steps=100: must be between 0 and train.num_steps=50"),
    ({"optimizer": {"learning_rate": 0.0}}, "optimizer.learning_rate=0.0: must be greater than 0"),
    ({"optimizer": {"beta2": 1.0}}, "optimizer.beta2=1.0: must be in [0, 1)"),
    ({"optimizer": {"decay_fraction": 0.0}}, "optimizer.decay_fraction=0.0: must be in (0, 1]"),
    ({"optimizer": {"clip_norm": 0.0}}, "optimizer.clip_norm=0.0: must be greater than 0"),
    ({"seed": -1}, "seed=-1: must be in [0, 2**32)"),
    ({"seed": 2**32}, "seed=4294967296: must be in [0, 2**32)"),
    ({"eval": {"num_examples": 100, "batch_size": 64}}, "eval.batch_size=64: must be a divisor of"),
    ({"runtime": {"log_every": 0}}, "runtime.log_every=0: must be greater than 0"),
    ({"task": {"num_labels": 3}}, "task.num_labels=3: must be at least num_values=4"),
    ({"task": {"holdout": 1.0}}, "task.holdout=1.0: must be in [0, 1)"),
    ({"task": {**RECALL, "num_pairs": 40}}, "task.num_pairs=40: must be at most num_keys=32"),
    ({"task": {**RECALL, "length": 40}}, "task.length=40: must be none for layout=shuffled"),
    ({"task": {**RECALL, "layout": "power_law", "length": 33}}, "task.length=33: must be even"),
    ({"task": {"name": "markov_chain", "num_symbols": 1}}, "task.num_symbols=1: must be at least 2"),
    ({"task": {"name": "noisy_majority", "max_signal": 1.0}}, "task.max_signal=1.0: must be in (0, 1)"),
  ],
)  # fmt: skip
def test_resolve_refuses_what_cannot_be(tree, said):
  with pytest.raises(ConfigError) as error:
    configs.from_mapping(tree)
  assert str(error.value).startswith(f"config.{said}")


def test_resolve_fills_what_follows_and_changes_nothing_given():
  config = configs.from_mapping({"model": {"d_model": 32, "num_heads": 4}})
  m = config.model
  assert (m.vocab_size, m.context_length, m.head_dim, m.num_kv_heads, m.d_ff) == (12, 35, 8, 4, 128)
  assert configs.resolve(config) == config
  swiglu = configs.from_mapping({"model": {"d_model": 96, "activation": "swiglu"}}).model
  assert swiglu.d_ff == 256  # 8/3 of 96, a multiple of 8


# --- identity -------------------------------------------------------------------------------------


def cell_id(tree=None, **groups):
  return configs.cell_id(configs.from_mapping({**(tree or {}), **groups}))


def test_the_identity_of_the_default_config_does_not_move():
  """Moving it orphans every result on every disk: add fields with neutral defaults, or raise SEMANTICS."""
  assert cell_id() == "11779877d44c"
  assert (
    cell_id(task={"name": "arithmetic"}, seed=3, model={"preset": "llama", "d_model": 32}) == "0ce224823c00"
  )


def test_identity_does_not_depend_on_labels_runtime_order_or_how_a_size_is_written():
  base = cell_id()
  runtime = {"steps_per_dispatch": 7, "log_every": 3, "checkpoint_every": 5, "keep_checkpoints": 9}
  runtime |= {"population": 4, "stop_at": 11, "trackers": ["mlflow"]}
  assert set(runtime) == {f.name for f in dataclasses.fields(configs.RuntimeConfig)}
  assert cell_id(study="other", family="other", runtime=runtime) == base
  assert cell_id(strict.to_dict(Config())) == base
  derived = {"vocab_size": 12, "context_length": 35, "head_dim": 32, "num_kv_heads": 2, "d_ff": 256}
  assert cell_id(model=derived) == base
  spaced = {"name": "associative_recall", "layout": "power_law"}
  assert cell_id(task=spaced | {"length": 64}) == cell_id(task=spaced)
  for name, value in derived.items():
    assert cell_id(model={name: value}) == base
  how = {"remat": "block", "attention": "blocks", "attention_block": 16}
  assert set(how) == set(configs.NEUTRAL_OF_MODEL)
  assert cell_id(model=how, parallel={"kind": "mesh", "fsdp": 2}) == base
  # With dropout every part of an accumulated batch draws its own masks.
  assert cell_id(train={"grad_accum_steps": 2}) == base
  dropped = {"dropout": 0.5}
  assert cell_id(train={"grad_accum_steps": 2}, model=dropped) != cell_id(model=dropped)
  assert cell_id(optimizer={"clip_norm": 1}) == base
  assert cell_id({"seed": 1, "train": {"num_steps": 500, "batch_size": 8}}) == cell_id(
    {"train": {"batch_size": 8, "num_steps": 500}, "seed": 1}
  )
  style = presets.PRESETS["gpt2"]
  assert cell_id(model={"preset": "gpt2"}) == cell_id(model=style)


# Values that differ from the default where neither a flipped boolean, another choice of a Literal nor twice
# the number is a valid config.
OTHER = {
  "model.rope_scaling": {"kind": "linear", "factor": 2.0}, "model.rotary_fraction": 0.5,
  "model.vocab_size": 13, "model.context_length": 36, "model.num_heads": 4, "model.num_kv_heads": 1,
  "model.head_dim": 16, "model.d_ff": 100, "model.dropout": 0.5, "model.positions": "none",
  "model.norm_position": "post", "optimizer.final_fraction": 0.5, "optimizer.beta1": 0.5,
  "optimizer.beta2": 0.5, "optimizer.decay_fraction": 0.5,
  "eval.batch_size": 128, "eval.few_shot": ["mr"], "eval.few_shot_every": 50, "eval.shots": [2],
  "khop.max_hops": 8, "ginc.persistence": 0.5, "ginc.context_length": 100,
  "rule_induction.holdout": 0.25, "rule_induction.num_values": 2,
  "associative_recall.length": 100, "noisy_majority.max_signal": 0.5,
  "model.num_segments": 2, "model.attention_window": 8, "text.corpus": ["other"], "text.weights": [1, 2],
  "text.text_field": "body",
  "text.tokenizer": {"kind": "bpe", "vocab_size": 300},
}  # fmt: skip


# Fields of the same group without which a field is not read.
READ_WITH = {
  "model.parallel_norms": {"parallel_block": True},
  "text.weights": {"corpus": ["one", "other"]}, "text.mask_rate": {"objective": "span_corruption"},
  "text.mean_span": {"objective": "span_corruption"},
}  # fmt: skip


# Fields that change nothing of a run, or that no run can have.
UNTRAINED = ("grad_accum_steps", "lm_head")


def merged(one, other):
  """Returns two trees of groups as one."""
  return {group: one.get(group, {}) | other.get(group, {}) for group in one | other}


def another(path: str, value, annotation):
  if path in OTHER:
    return OTHER[path]
  if isinstance(value, bool):
    return not value
  if isinstance(value, str):
    return next(choice for choice in annotation.__args__ if choice != value)
  return 2 * value


def semantic_fields():
  """Yields (name, tree that sets one field differently, tree it differs from) for all fields that count."""
  yield "seed", {"seed": 1}, {}
  yield "data_seed", {"data_seed": 1}, {}
  groups = {group: ({}, getattr(Config(), group)) for group in ("model", "optimizer", "train", "eval")}
  for task in task_configs.TaskConfig.__args__:
    # The power-law layout, since the other one forbids two fields.
    base = {"layout": "power_law"} if task is task_configs.AssociativeRecall else {}
    groups[task().name] = ({"name": task().name, **base}, task(**base))
  for group, (base, default) in groups.items():
    key = group if hasattr(Config, group) else "task"
    for name, annotation in strict.field_types(type(default)).items():
      neutral = (group == "model" and name in configs.NEUTRAL_OF_MODEL) or name in UNTRAINED
      if (key != "task" or name != "name") and not neutral:
        value = another(f"{group}.{name}", getattr(default, name), annotation)
        # Only one parametrization reads all of the base sizes.
        read = base | ({"parametrization": "completep"} if name.startswith("base_") else {})
        read, others = read | READ_WITH.get(f"{group}.{name}", {}), {}
        if name in ("whole_words", "next_sentence_head", "pooler"):
          others = {"model": {"causal": False}, "task": {"name": "text", "objective": "masked_lm"}}
        if name.startswith("few_shot"):
          others = {"task": {"name": "text"}, "eval": {"few_shot": ["cr"]}}
        yield f"{group}.{name}", merged(others, {key: read | {name: value}}), merged(others, {key: read})


@pytest.mark.parametrize(
  ("changed", "base"), [pytest.param(*trees, id=name) for name, *trees in semantic_fields()]
)
def test_every_field_that_decides_a_number_changes_the_identity(changed, base):
  assert cell_id(changed) != cell_id(base)


def test_tasks_have_identities_of_their_own():
  names = [task().name for task in task_configs.TaskConfig.__args__]
  assert len({cell_id(task={"name": name}) for name in names}) == len(names)
