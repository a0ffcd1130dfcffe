"""Makes lm-evaluation-harness know its model "lm_jax", without a user importing anything.

Releases after 0.4.13 find models by the entry points `lm_eval.models`, of which this package has one. 0.4.13
finds none: a model is known once something has registered it. The one group of entry points that is loaded
when `lm_eval` runs is PyTorch's `torch.backends`, as the harness seeds PyTorch before it makes a model; so
`register` is in that group too. It does nothing where the harness is not running.
"""

import sys

MODEL = "lm_jax.lm_eval_model:LmJax"


def register() -> None:
  """Tells the harness, where it is loaded, which class `--model lm_jax` is; it is imported when asked for."""
  registry = sys.modules.get("lm_eval.api.registry")
  models = getattr(registry, "model_registry", None)
  if models is None:
    return
  # The registry fills itself with the harness's own models only while it is empty.
  import lm_eval.models  # noqa: F401

  if "lm_jax" not in models:
    models.register("lm_jax", target=MODEL)
