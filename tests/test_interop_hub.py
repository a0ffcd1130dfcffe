"""Names on the hub, by the real library on a cache laid out by hand, without a network."""

import builtins
from pathlib import Path

import jax
import numpy as np
import pytest
from foreign import CASES, save

from lm_jax import interop
from lm_jax.interop import hub
from lm_jax.strict import ConfigError

huggingface_hub = pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
  """Returns the hub's cache, empty; the library reads where it is when it is imported."""
  folder = tmp_path / "hub"
  folder.mkdir()
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
  monkeypatch.setenv("HF_HUB_OFFLINE", "1")
  original = huggingface_hub.snapshot_download
  monkeypatch.setattr(
    huggingface_hub, "snapshot_download", lambda *args, **kw: original(*args, cache_dir=folder, **kw)
  )
  return folder


def lay_out(cache: Path, model: Path) -> Path:
  """Leaves what a download leaves: files by their hashes, a snapshot of links to them, and a branch."""
  repo = cache / "models--org--tiny-llama"
  snapshot, blobs = repo / "snapshots" / COMMIT, repo / "blobs"
  for folder in (snapshot, blobs, repo / "refs"):
    folder.mkdir(parents=True)
  (repo / "refs" / "main").write_text(COMMIT)
  for file in model.iterdir():
    (blobs / f"blob-{file.name}").write_bytes(file.read_bytes())
    (snapshot / file.name).symlink_to(f"../../blobs/blob-{file.name}")
  return snapshot


@pytest.mark.parametrize("shards", [False, True])
def test_a_cached_model_is_loaded_by_its_name(cache, tmp_path, shards):
  model = CASES["llama"].build()
  folder = tmp_path / "saved"
  model.save_pretrained(folder, **({"max_shard_size": "40KB"} if shards else {}))
  snapshot = lay_out(cache, folder)
  assert hub.download("org/tiny-llama") == snapshot
  by_name, by_path = interop.load("org/tiny-llama"), interop.load(folder)
  jax.tree.map(np.testing.assert_array_equal, by_name.params, by_path.params)
  assert interop.load(f"org/tiny-llama@{COMMIT}").identity == by_path.identity


def test_nothing_that_could_run_is_asked_for(monkeypatch):
  asked = {}

  def record(name: str, **options) -> str:
    asked.update(options, name=name)
    return "/folder"

  monkeypatch.setattr(huggingface_hub, "snapshot_download", record)
  assert hub.download("org/name@refs/pr/1") == Path("/folder")
  assert (asked["name"], asked["revision"]) == ("org/name", "refs/pr/1")
  files = ["model.safetensors", "config.json", "vocab.txt", "tokenizer.model", "chat_template.jinja",
           "pytorch_model.bin", "modeling.py", "model.pt", "onnx/model.json", "weights.pkl"]  # fmt: skip
  patterns = {key: asked[key] for key in ("allow_patterns", "ignore_patterns")}
  assert list(huggingface_hub.utils.filter_repo_objects(files, **patterns)) == files[:5]


def test_offline_and_not_cached_is_one_line(cache):
  with pytest.raises(ConfigError, match=r"org/other: no such file or folder.*HF_HUB_OFFLINE is set") as error:
    interop.load("org/other")
  assert "\n" not in str(error.value)


def test_without_the_library_it_says_what_to_install(monkeypatch):
  original = builtins.__import__

  def without(name: str, *args):
    if name.startswith("huggingface_hub"):
      raise ImportError(name)
    return original(name, *args)

  monkeypatch.setattr(builtins, "__import__", without)
  with pytest.raises(ConfigError, match=r"pip install 'lm_jax\[huggingface\]'"):
    interop.load("org/name")


def test_what_may_be_a_path_is_no_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  save(CASES["llama"].build(), tmp_path / "runs" / "llama")
  with pytest.raises(ConfigError, match=r"runs/lama: no such file or folder; did you mean 'llama'\?"):
    interop.load("runs/lama")
  for path in ("name", "/org/name", "./org/name/x", "a/b/c", "~/x"):
    assert not hub.is_name(path)
  assert hub.is_name("org/name-1.5_b")
