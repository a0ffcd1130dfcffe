"""llama2.c: the golden outputs of stories260K, and a file written here with an output matrix of its own."""

import itertools
import json
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shared
from foreign import CASES, VOCAB, logits, ours, tokens, transformers

from lm_jax import interop
from lm_jax.interop import huggingface
from lm_jax.model import Transformer
from lm_jax.strict import ConfigError


@pytest.fixture(scope="module")
def stories():
  return interop.load(shared.folder("models", "stories260K"))


def nlls(p, ids) -> np.ndarray:
  params = jax.tree.map(jnp.asarray, p.params)
  inputs, targets = jnp.array([ids[:-1]], jnp.int32), jnp.array([ids[1:]], jnp.int32)
  return np.asarray(Transformer(p.model).apply({"params": params}, inputs, targets_BP=targets))[0]


def test_golden_outputs(stories):
  golden = json.loads(shared.folder("models", "stories260K", "golden.json").read_text())
  ids = [*stories.begin, *stories.tokenizer.encode(golden["prompt"])]
  assert ids == golden["ids"]
  last = np.asarray(ours(stories, np.array([ids], np.int32)))[0, -1]
  top = np.argsort(-last)[:5]
  np.testing.assert_array_equal(top, golden["top5_ids"])
  np.testing.assert_allclose(last[top], golden["top5_logits"], atol=1e-3)
  corpus = shared.folder("data", "corpora", "tinystories_mini", "tinystories.txt").read_text()
  first = [*stories.begin, *stories.tokenizer.encode(corpus[:4000])][:400]
  assert nlls(stories, first).mean() == pytest.approx(golden["tinystories_mini_first400_nll"], abs=2e-4)


def test_greedy_text(stories):
  golden = json.loads(shared.folder("models", "stories260K", "golden.json").read_text())
  for key, prompt in (("greedy_zoo", "Zoo"), ("greedy_empty", "")):
    ids = [*stories.begin, *stories.tokenizer.encode(golden[key].removeprefix(" "))]
    start = 1 + len(stories.tokenizer.encode(prompt))
    # Its text was cut where a token ends; every token is the likeliest after those before it.
    found = np.asarray(ours(stories, np.array([ids], np.int32)))[0].argmax(-1)
    assert len(ids) > 40
    np.testing.assert_array_equal(found[start - 1 : -1], ids[start:], err_msg=key)
    assert stories.tokenizer.decode(ids) == golden[key].removeprefix(" ")


def reference_encode(pieces: list[bytes], scores: list[float], text: str) -> list[int]:
  """llama2.c's encode, without BOS: the pair of the highest score is merged, again and again."""
  ids = {piece: i for i, piece in reversed(list(enumerate(pieces)))}
  found = [ids[b" "]] if text else []
  for character in text:
    content = character.encode()
    found += [ids[content]] if content in ids else [byte + 3 for byte in content]
  while True:
    merged = [ids.get(pieces[a] + pieces[b], -1) for a, b in itertools.pairwise(found)]
    best = max((i for i, m in enumerate(merged) if m >= 0), key=lambda i: scores[merged[i]], default=None)
    if best is None:
      return found
    found[best : best + 2] = [merged[best]]


def test_tokens_are_those_of_llama2c(stories):
  content = shared.folder("models", "stories260K", "tok512.bin").read_bytes()
  pieces, scores, offset = [], [], 4
  while offset < len(content):
    score, length = struct.unpack_from("<fi", content, offset)
    pieces.append(content[offset + 8 : offset + 8 + length])
    scores.append(score)
    offset += 8 + length
  corpus = shared.folder("data", "corpora", "tinystories_mini", "tinystories.txt").read_text()
  rng = np.random.default_rng(0)
  letters = list("abcdehilnorst  ,.\né🙂A'")
  texts = [corpus[i : i + 50] for i in rng.integers(0, len(corpus) - 50, 200)]
  texts += ["".join(rng.choice(letters, rng.integers(1, 30))) for _ in range(200)]
  for text in ["", "a", " a", *texts]:
    ids = stories.tokenizer.encode(text)
    assert ids == reference_encode(pieces, scores, text), text
    assert stories.tokenizer.decode(ids) == text


def test_exported_stories_open_in_transformers(stories, tmp_path):
  huggingface.export(stories, tmp_path / "out")
  model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  text = "Once upon a time, there was a café\n\nand  a 🙂"
  ids = theirs(text)["input_ids"]
  assert ids == [1, *stories.tokenizer.encode(text)]
  assert theirs.decode(ids, skip_special_tokens=True) == text
  batch = np.array([ids], np.int32)
  assert np.abs(np.asarray(ours(stories, batch)) - logits(model, batch)).max() < 1e-4


# --- written here -------------------------------------------------------------------------------


def together(x: np.ndarray, heads: int) -> np.ndarray:
  """Returns rows of queries or keys with rotary pairs side by side, as llama2.c has them."""
  return x.reshape(heads, 2, x.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(x.shape)


def write(folder: Path, model) -> Path:
  """Writes a Llama of transformers as llama2.c's export.py does, and a tokenizer of bytes and letters."""
  c, state = model.config, {k: x.numpy() for k, x in model.state_dict().items()}
  angles = np.zeros((c.max_position_embeddings, c.head_dim), np.float32)

  def layers(name: str) -> list[np.ndarray]:
    return [state[f"model.layers.{i}.{name}.weight"] for i in range(c.num_hidden_layers)]

  header = [c.hidden_size, c.intermediate_size, c.num_hidden_layers, c.num_attention_heads,
            c.num_key_value_heads, -c.vocab_size, c.max_position_embeddings]  # fmt: skip
  parts = [[state["model.embed_tokens.weight"]], layers("input_layernorm"),
           [together(x, c.num_attention_heads) for x in layers("self_attn.q_proj")],
           [together(x, c.num_key_value_heads) for x in layers("self_attn.k_proj")],
           layers("self_attn.v_proj"), layers("self_attn.o_proj"), layers("post_attention_layernorm"),
           layers("mlp.gate_proj"), layers("mlp.down_proj"), layers("mlp.up_proj"),
           [state["model.norm.weight"], angles, state["lm_head.weight"]]]  # fmt: skip
  folder.mkdir()
  with (folder / "model.bin").open("wb") as file:
    file.write(struct.pack("<7i", *header))
    for x in (x for part in parts for x in part):
      file.write(np.ascontiguousarray(x, np.float32).tobytes())
  pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(f"<0x{i:02X}>".encode() for i in range(256))]
  pieces += [f"{chr(i)}".encode() for i in range(ord("a"), ord("a") + c.vocab_size - len(pieces))]
  rows = [struct.pack("<fi", -float(i), len(piece)) + piece for i, piece in enumerate(pieces)]
  (folder / "tok.bin").write_bytes(struct.pack("<i", 10) + b"".join(rows))
  return folder


def build():
  case = CASES["llama"]
  fields = case.fields | {"vocab_size": 270, "rms_norm_eps": 1e-5}
  return type(case)(case.model, case.config, fields).build()


def test_an_output_matrix_of_its_own(tmp_path):
  model = build()
  p = interop.load(write(tmp_path / "model", model))
  assert not p.model.tie_embeddings
  assert VOCAB < p.model.vocab_size
  assert np.abs(np.asarray(ours(p, tokens())) - logits(model, tokens())).max() < 1e-4
  assert interop.load(tmp_path / "model" / "model.bin").identity == p.identity


@pytest.mark.parametrize(
  ("name", "change", "message"),
  [
    ("model.bin", lambda b: b[:20], "it has 20 bytes"),
    ("model.bin", lambda b: b[:-4], "and its header speaks of"),
    ("model.bin", lambda b: b + b"\0", "and its header speaks of"),
    ("model.bin", lambda b: struct.pack("<i", 2**31 - 2) + b[4:], "and its header speaks of"),
    ("model.bin", lambda b: struct.pack("<i", -36) + b[4:], "its header says d_model -36"),
    ("model.bin", lambda b: b"ak42" + b[4:], "and its header speaks of|is no llama2.c model of version 0"),
    ("tok.bin", lambda b: b[:-1], "piece 269 has 1 bytes"),
    ("tok.bin", lambda b: b[:-9], "and the model's vocabulary 270"),
    ("tok.bin", lambda b: b + b"\0" * 9, "has more pieces than"),
    ("tok.bin", lambda b: b[:8] + struct.pack("<i", 2**30) + b[12:], "piece 0 has 1073741824 bytes"),
    ("tok.bin", lambda b: b[:-1] + b"a", "are too few, or the same"),
  ],
)
def test_broken_files_are_one_line(tmp_path, name, change, message):
  folder = write(tmp_path / "model", build())
  (folder / name).write_bytes(change((folder / name).read_bytes()))
  with pytest.raises(ConfigError, match=message) as error:
    interop.load(folder)
  assert "\n" not in str(error.value)


def test_a_bin_without_its_tokenizer_and_a_pickle_are_refused(tmp_path):
  folder = write(tmp_path / "model", build())
  (folder / "tok.bin").unlink()
  (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04" + bytes(60))
  with pytest.raises(ConfigError, match=r"is pickled, and a pickle can run any code"):
    interop.load(folder / "pytorch_model.bin")
  with pytest.raises(ConfigError, match=r"a llama2\.c \.bin beside its tok\*\.bin"):
    interop.load(folder / "model.bin")
