"""Files that are broken, or lie: one clear line each, and nothing is allocated because a header says so."""

import json
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
from foreign import CASES, Case, save
from gguf_writing import EVEN, with_tokenizer, write
from safetensors.numpy import save_file

from lm_jax import interop, tokenizers
from lm_jax.strict import ConfigError
from lm_jax.text_config import TokenizerConfig


def refused(path: Path, message: str) -> None:
  """Checks that opening `path` raises one line that contains `message`, without much memory for it."""
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with pytest.raises(ConfigError, match=message) as error:
    interop.load(path)
  assert "\n" not in str(error.value)
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


# --- safetensors --------------------------------------------------------------------------------


@pytest.fixture
def llama(tmp_path) -> Path:
  return save(CASES["llama"].build(), tmp_path / "llama")


def edit(folder: Path, change) -> None:
  path = folder / "model.safetensors"
  path.write_bytes(change(path.read_bytes()))


def with_header(change):
  """Returns a change of a safetensors file's header, given as a dict."""

  def apply(content: bytes) -> bytes:
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]

  return apply


NORM = "model.norm.weight"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda b: b[:-100], "model.safetensors is no whole safetensors file"),
    (lambda b: b[:50], "model.safetensors is no whole safetensors file"),
    (lambda b: b"", "model.safetensors is no whole safetensors file"),
    (lambda b: struct.pack("<Q", 2**62) + b[8:], "model.safetensors is no whole safetensors file"),
    (lambda b: struct.pack("<Q", 90 * 2**20) + b[8:], "model.safetensors is no whole safetensors file"),
    (lambda b: b[:8] + b"?" + b[9:], "model.safetensors is no whole safetensors file"),
    (with_header(lambda h: h[NORM].update(data_offsets=[0, 2**40])), "is no whole safetensors file"),
    (with_header(lambda h: h[NORM].update(shape=[2**40])), "is no whole safetensors file"),
    (with_header(lambda h: h[NORM].update(dtype="I32")), "norm.weight is I32; must be one of F32, F16, BF16"),
    (lambda b: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
  ],
)  # fmt: skip
def test_safetensors(llama, change, message):
  edit(llama, change)
  refused(llama, message)


@pytest.mark.parametrize(
  ("index", "message"),
  [
    ({"weight_map": {"a": "../../etc/passwd"}}, r"names '../../etc/passwd'; must be the name of a \.safe"),
    ({"weight_map": {"a": "/etc/x.safetensors"}}, "must be the name of a .safetensors file in the folder"),
    ({"weight_map": {"a": "../llama/model.safetensors"}}, "must be the name of a .safetensors file"),
    ({"weight_map": {"a": 3}}, "names 3; must be"),
    ({"weight_map": {"a": "none.safetensors"}}, "has no none.safetensors, which its"),
    ({"weight_map": []}, "has no weight_map"),
    ([], "is no JSON object but list"),
  ],
)
def test_an_index_of_shards(llama, index, message):
  (llama / "model.safetensors.index.json").write_text(json.dumps(index))
  refused(llama, message)


def test_a_tensor_in_two_shards(llama):
  save_file({NORM: np.ones(36, np.float32)}, llama / "other.safetensors")
  names = {"a": "model.safetensors", "b": "other.safetensors"}
  (llama / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
  refused(llama, r"model\.norm\.weight is in two files, other\.safetensors the second")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights(llama, name):
  (llama / "model.safetensors").rename(llama / name)
  refused(llama, f"{name} is pickled, and a pickle can run any code when it is opened; convert it")


def test_no_weights(llama):
  (llama / "model.safetensors").unlink()
  refused(llama, r"has no weights; must have model\.safetensors or model\.safetensors\.index\.json")


@pytest.mark.parametrize(
  ("config", "message"),
  [
    (b"{", r"config\.json is not JSON"),
    (b"\xff\xfe", r"config\.json is not JSON"),
    (b"[" * 100_000, r"config\.json is not JSON"),
    (b"[]", "is no JSON object but list"),
    (b'{"model_type": "llama"}', "lacks vocab_size"),
    (b'{"architectures": "LlamaForCausalLM"}', "must be a list of names"),
    (b"{}", "is not a run's|does not fit|has no checkpoint|is not text"),
  ],
)
def test_config_json(llama, config, message):
  (llama / "config.json").write_bytes(config)
  refused(llama, message)


@pytest.mark.parametrize(
  "sizes",
  [
    {"hidden_size": 2**30, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2**30},
    {"num_hidden_layers": 2**30}, {"vocab_size": 2**31 - 1}, {"intermediate_size": 2**31 - 1},
  ],
)  # fmt: skip
def test_absurd_sizes(llama, sizes):
  path = llama / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | sizes))
  refused(llama, "its weights do not fit its config.json|layers, and there are")


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("tokenizer.json", b"{", "tokenizer .*tokenizer.json: is not JSON"),
    ("tokenizer.json", b"{}", 'which has a "model"'),
    ("tokenizer_config.json", b"[]", "is no JSON object but list"),
    ("chat_template.jinja", b"\xff", "chat_template.jinja is no text"),
    ("generation_config.json", b"?", "generation_config.json is not JSON"),
  ],
)
def test_tokenizers(llama, name, content, message):
  (llama / name).write_bytes(content)
  refused(llama, message)


def test_a_tokenizer_larger_than_the_vocabulary(llama):
  tokenizers.train(TokenizerConfig("bpe", 400), ["a text"]).save(llama)
  refused(llama, "its tokenizer has 400 tokens, but the model's vocab_size is 97")


# --- GGUF ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> bytes:
  """Returns the bytes of a GGUF file with a tokenizer."""
  spec = json.loads(tokenizers.train(TokenizerConfig("bpe", 300), ["a text of words"]).to_json())
  model = Case("LlamaForCausalLM", "LlamaConfig", EVEN | {"vocab_size": 301}).build()
  path = tmp_path_factory.mktemp("gguf") / "model.gguf"
  write(path, model, more=lambda writer: with_tokenizer(writer, spec, "gpt-2"))
  return path.read_bytes()


def lying(key: bytes, value: bytes, skip: int = 4):
  """Returns a change of what follows a key of the metadata, `skip` bytes after its end."""

  def change(content: bytes) -> bytes:
    start = content.index(key) + len(key) + skip
    return content[:start] + value + content[start + len(value) :]

  return change


HUGE = struct.pack("<Q", 2**60)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda b: b, None),
    (lambda b: b[:-1000], "is no whole GGUF file"),
    (lambda b: b[:3000], "is no whole GGUF file"),
    (lambda b: b[:5], "is no whole GGUF file"),
    (lambda b: b"", "is no whole GGUF file"),
    (lambda b: b"PK\x03\x04" + b[4:], "is no whole GGUF file"),
    (lambda b: b[:4] + struct.pack("<I", 99) + b[8:], "is no whole GGUF file"),
    (lambda b: b[:8] + HUGE + b[16:], "is no whole GGUF file"),  # tensors
    (lambda b: b[:16] + HUGE + b[24:], "is no whole GGUF file"),  # metadata
    (lying(b"general.architecture", HUGE), "is no whole GGUF file"),  # length of a string
    (lying(b"tokenizer.ggml.token_type", HUGE, 8), "is no whole GGUF file"),  # length of an array
    (lying(b"tokenizer.ggml.tokens", HUGE, 8), "is no whole GGUF file"),
    (lying(b"output_norm.weight", HUGE), "is no whole GGUF file"),  # length of a tensor
    (lambda b: b.replace(b"llama.block_count", b"llama.block_cuont"), r"metadata lack llama\.block_count"),
    (lying(b"llama.block_count", struct.pack("<I", 2**31 - 1)), "has 2147483647 layers, and"),
    (lying(b"llama.attention.head_count", struct.pack("<I", 0)), "head_count=0: must be greater than 0"),
    (lying(b"llama.embedding_length", struct.pack("<I", 60)), "do not fit its metadata|must divide"),
    (lambda b: b.replace(b"llama", b"lamma"), "general.architecture='lamma': unknown; did you mean 'llama'"),
    (lambda b: b.replace(b"blk.1.ffn_up", b"blk.1.ffn_pu"), r"blk\.1\.ffn_up\.weight is missing"),
  ],
)
def test_gguf(tmp_path, written, change, message):
  path = tmp_path / "model.gguf"
  path.write_bytes(change(written))
  if message is None:
    assert interop.load(path).model.num_layers == 2
  else:
    refused(path, message)


def test_gguf_of_an_unknown_kind_of_tokenizer(tmp_path):
  model = Case("LlamaForCausalLM", "LlamaConfig", EVEN).build()
  path = write(tmp_path / "m.gguf", model, more=lambda writer: writer.add_tokenizer_model("bert"))
  refused(path, "tokenizer.ggml.model='bert': unknown; allowed: gpt2, llama")


def test_gguf_of_a_dtype_that_is_no_weight(tmp_path):
  model = Case("LlamaForCausalLM", "LlamaConfig", EVEN | {"tie_word_embeddings": True}).build()
  add = lambda writer: writer.add_tensor("output.weight", np.zeros((97, 64), np.int32))  # noqa: E731
  refused(write(tmp_path / "m.gguf", model, more=add), "output.weight is I32, which")


def test_several_gguf_files(tmp_path, written):
  for name in ("a.gguf", "b.gguf"):
    (tmp_path / name).write_bytes(written)
  refused(tmp_path, "has 2 .gguf files; name one of them")
