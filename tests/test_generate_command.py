"""lm-jax generate, chat and convert: what goes where, and bad input is one line and exit code 2."""

import io
import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import processes
import pytest
import small_models
from test_cli import assert_refused, call

from lm_jax import cli
from lm_jax.cli import prompt_texts, talk
from lm_jax.generation_config import GenerationConfig
from lm_jax.language_model import LanguageModel

PROMPT = "Artificial intelligence will"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
  """Returns a folder of models: bytes, chat (with a template), encoder."""
  root = tmp_path_factory.mktemp("models")
  small_models.save(small_models.of_bytes(context_length=128), root / "bytes")
  small_models.save(small_models.of_pieces(), root / "chat")
  small_models.save(small_models.of_pieces(preset="bert"), root / "encoder")
  return root


@pytest.fixture
def here(models, monkeypatch, tmp_path) -> Path:
  """Returns an empty working directory in which the models can be named."""
  for path in models.iterdir():
    (tmp_path / path.name).symlink_to(path)
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.fixture
def reading(here, capsys, monkeypatch):
  """Returns a function that runs a command, with lines on stdin."""

  def run(*words: str, typed: str | None = None):
    if typed is not None:
      monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    return call(capsys, *words)

  return run


def texts(model: str, *prompt: str, **settings) -> list[list[str]]:
  import lm_jax

  return [[str(one) for one in found] for found in lm_jax.load(model).generate(list(prompt), **settings)]


# --- generate -------------------------------------------------------------------------------------


def test_the_command_as_a_person_types_it(models):
  words = ["--model", models / "bytes", "--prompt", PROMPT, "--max_new_tokens=50", "--num_return_sequences=3"]
  done = processes.lm_jax("generate", *words)
  assert done.returncode == 0
  # A busy machine may take so long that progress is told.
  assert all(line.startswith("generating: ") for line in done.stderr.splitlines())
  title, *numbered = done.stdout.split("\n  ")
  assert title == f"prompt: {PROMPT}"
  found = texts(str(models / "bytes"), PROMPT, max_new_tokens=50, num_return_sequences=3)[0]
  assert done.stdout == prompt_texts.table([PROMPT], [found], for_terminal=False) + "\n"
  assert [line[:3] for line in numbered if line[:1].isdigit()] == ["1: ", "2: ", "3: "]


def test_one_continuation_is_a_text(reading):
  code, out, err = reading("generate", "--model=bytes", f"--prompt={PROMPT}", "--temperature=0")
  assert (code, err) == (0, "")
  assert out == f"{PROMPT}{texts('bytes', PROMPT, temperature=0)[0][0]}\n"


def test_json_is_one_object_with_all_there_is(reading):
  flags = ["--num_return_sequences=2", "--max_new_tokens=8", "--top_k=5", "--min_p=0.01", "--seed=7"]
  code, out, err = reading("generate", "--model=bytes", "--prompt=A", "--prompt=\n B", "--json", *flags)
  assert (code, out.count("\n")) == (0, 1)
  assert all(line.startswith("generating: ") for line in err.splitlines())  # where the machine is busy
  result = json.loads(out)
  assert result["settings"]["top_k"] == 5 and result["settings"]["temperature"] == 1.0
  settings = {"num_return_sequences": 2, "max_new_tokens": 8, "top_k": 5, "min_p": 0.01, "seed": 7}
  want = texts("bytes", "A", "\n B", **settings)
  assert [[one["text"] for one in row["continuations"]] for row in result["prompts"]] == want
  assert [row["prompt"] for row in result["prompts"]] == ["A", "\n B"]
  one = result["prompts"][0]["continuations"][0]
  assert len(one["tokens"]) == len(one["log_p"]) and max(one["log_p"]) <= 0
  assert one["finish"] in ("end", "length")


@pytest.mark.parametrize("how", ["stdin", "lines", "jsonl"])
def test_prompts_from_stdin_and_files(reading, here, how):
  (here / "p.txt").write_text("First é\n\n  second\n", encoding="utf-8")
  (here / "p.jsonl").write_text('{"prompt": "First é"}\n\n{"prompt": "  second", "id": 3}\n')
  flag = {"stdin": [], "lines": ["--prompts=p.txt"], "jsonl": ["--prompts=p.jsonl"]}[how]
  typed = (here / "p.txt").read_text(encoding="utf-8") if how == "stdin" else None
  words = ["generate", "--model=bytes", "--max_new_tokens=3", "--json", *flag]
  code, out, _ = reading(*words, typed=typed)
  assert code == 0
  assert [row["prompt"] for row in json.loads(out)["prompts"]] == ["First é", "  second"]


def test_a_stop_may_be_a_new_line(reading):
  code, out, _ = reading("generate", "--model=bytes", "--prompt=A", r"--stop=\n", "--stop=zzz", "--json")
  assert code == 0
  assert json.loads(out)["settings"]["stop"] == ["\n", "zzz"]


def test_every_setting_is_a_flag():
  assert set(GenerationConfig.__dataclass_fields__) <= set(cli.COMMANDS["generate"].flags)
  assert set(GenerationConfig.__dataclass_fields__) <= set(cli.COMMANDS["chat"].flags)


def test_it_is_clear_which_continuation_is_of_which_prompt():
  found = [[" one\ntwo", "three"], [" four", ""]]
  assert prompt_texts.table(["A\nB", "C"], found, for_terminal=False).split("\n") == [
    "prompt 1: A", "          B", "  1: one", "     two", "  2: three",
    "", "prompt 2: C", "  1: four", "  2: ",
  ]  # fmt: skip
  assert prompt_texts.table(["A"], [[" one"]], for_terminal=False) == "A one"


def test_a_terminal_gets_no_control_characters():
  text = "a\x1b[2J\r\x07\x9b\n\té💡"
  assert prompt_texts.printable(text) == "a\\x1b[2J\\x0d\\x07\\x9b\n\té💡"
  assert prompt_texts.table(["A"], [["\x1b"]], for_terminal=True) == "A\\x1b"
  assert prompt_texts.table(["A"], [["\x1b"]], for_terminal=False) == "A\x1b"


def test_a_terminal_sees_the_text_grow(models):
  """The same text as elsewhere, in the end, whatever pieces it came in."""
  ours, theirs = pty.openpty()
  process = processes.start(
    "generate", f"--model={models / 'bytes'}", f"--prompt={PROMPT}", "--top_k=40", stdout=theirs
  )
  os.close(theirs)
  shown = b""
  try:
    while piece := os.read(ours, 1024):
      shown += piece
  except OSError:  # the other end is closed
    pass
  finally:
    os.close(ours)
  assert (processes.finish(process).returncode, process.stderr.closed) == (0, True)
  want = PROMPT + texts(str(models / "bytes"), PROMPT, top_k=40)[0][0]
  assert shown.decode().replace("\r\n", "\n") == prompt_texts.printable(want) + "\n"


@pytest.mark.parametrize(
  ("words", "said"),
  [
    ("generate", "--model=... must be given to lm-jax generate"),
    ("generate --model=byte --prompt=A", "--model=byte: no such file or folder; did you mean 'bytes'?"),
    ("generate --model=. --prompt=A", "--model=.: is no model: it has no config.json"),
    ("generate --model=encoder --prompt=A", "--model=encoder: is an encoder, which continues no text"),
    ("generate --model=bytes --prompt=A --prompts=p", "--prompt, --prompts: one of them only"),
    ("generate --model=bytes --prompts=p.txt", "--prompts=p.txt: no such file"),
    ("generate --model=bytes --prompts=empty", "--prompts=empty: has no prompts"),
    ("generate --model=bytes --prompts=bad.jsonl", "--prompts=bad.jsonl: line 2: must be an object"),
    ("generate --model=bytes --prompts=worse.jsonl", "--prompts=worse.jsonl: line 1: is not JSON"),
    ("generate --model=bytes --prompts=binary", "--prompts=binary: is not UTF-8"),
    ("generate --model=bytes --prompt=A --max_new_tokens=0", "--max_new_tokens=0: must be greater than 0"),
    ("generate --model=bytes --prompt=A --max_new_tokens=-3", "--max_new_tokens=-3: must be greater than 0"),
    ("generate --model=bytes --prompt=A --max_new_tokens=many", "--max_new_tokens=many: must be an integer"),
    ("generate --model=bytes --prompt=A --max_new_tokens=999", "max_new_tokens=999: must be below"),
    ("generate --model=bytes --prompt=A --temperature=-1", "--temperature=-1.0: must be 0 or greater"),
    ("generate --model=bytes --prompt=A --temperature=nan", "temperature=nan: must be a number"),
    ("generate --model=bytes --prompt=A --top_p=2", "--top_p=2.0: must be in (0, 1]"),
    ("generate --model=bytes --prompt=A --top_k=0", "--top_k=0: must be greater than 0"),
    ("generate --model=bytes --prompt=A --stop=", "--stop=('',): must be texts that are not empty"),
    ("generate --model=bytes --prompt=A --seed=-1", "--seed=-1: must be in [0, 2**32)"),
    ("generate --model=bytes --prompt=A --temperature=0 --num_return_sequences=2", "1 for temperature=0"),
    ("generate --model=bytes --prompt=A --num_beams=2 --top_k=3", "--top_k=3: must be unset for num_beams=2"),
    ("generate --model=bytes --prompt=A --top-k=3", "--top-k: no such flag of lm-jax generate; did you mean"),
    ("generate --model=bytes --prompt=A --weights=int4", "--weights='int4': must be one of float32"),
    ("generate --model=bytes A", "'A': flags only"),
    ("chat --model=encoder", "--model=encoder: is an encoder"),
    ("convert --source=bytes", "--target=... must be given to lm-jax convert"),
    ("convert --source=bytes --target=t --to=gguf", "--to='gguf': unknown; allowed: huggingface, lm_jax"),
    ("convert --source=bytes --target=chat", "--target=chat: is a folder that is not empty"),
  ],
)  # fmt: skip
def test_bad_input(reading, here, words, said):
  (here / "empty").write_text("\n \n")
  (here / "bad.jsonl").write_text('{"prompt": "A"}\n{"text": "B"}\n')
  (here / "worse.jsonl").write_text("A\n")
  (here / "binary").write_bytes(b"\xff\xfe\x00")
  before = set(here.rglob("*"))
  code, out, err = reading(*words.split())
  assert_refused(code, out, err.removeprefix("reading bytes\n"), *said.split("|"))
  assert set(here.rglob("*")) == before


def test_a_long_prompt_is_cut_only_where_asked(reading):
  words = ["generate", "--model=bytes", "--prompt=" + "A" * 150, "--max_new_tokens=4"]
  assert_refused(*reading(*words), "prompt 0: has 151 tokens", "the model's context of 128")
  code, out, _ = reading(*words, "--truncate")
  assert code == 0 and out.startswith("A" * 150)


def test_weights_in_fewer_bits_say_what_they_cost(reading):
  words = ["generate", "--model=bytes", "--prompt=A", "--max_new_tokens=3", "--weights=int8", "--json"]
  code, out, err = reading(*words)
  assert code == 0 and json.loads(out)["prompts"][0]["continuations"][0]["tokens"]
  assert err.startswith("lm-jax: weights int8: 0.000 GB instead of 0.000; ") and "nats a token" in err
  assert reading(*words, "--quiet") == (0, out, "")


# --- chat -----------------------------------------------------------------------------------------

QUESTIONS = ["Who sat?", "Where?"]
SETTINGS = {"temperature": 0, "max_new_tokens": 6}
FLAGS = ["--temperature=0", "--max_new_tokens=6"]


def answers(models: Path, *conversations: list[str], system: str | None = None) -> list[str]:
  """Returns the answers to the questions of conversations."""
  model, found = LanguageModel.load(models / "chat"), []
  for questions in conversations:
    messages = [{"role": "system", "content": system}] if system else []
    for question in questions:
      messages.append({"role": "user", "content": question})
      found.append(str(model.chat(messages, **SETTINGS)))
      messages.append({"role": "assistant", "content": found[-1]})
  return found


def test_questions_and_answers_are_one_conversation_until_it_is_reset(reading, models):
  typed = "\n".join([*QUESTIONS, "/reset", "", QUESTIONS[1], "/exit", "never read"])
  code, out, err = reading("chat", "--model=chat", *FLAGS, typed=typed)
  assert (code, err) == (0, "")
  assert out == "".join(f"{a}\n" for a in answers(models, QUESTIONS, QUESTIONS[1:]))


def test_a_conversation_through_pipes(models):
  process = processes.start("chat", "--model", models / "chat", *FLAGS, stdin=subprocess.PIPE)
  done = processes.finish(process, f"{QUESTIONS[0]}\n")
  assert (done.returncode, done.stderr) == (0, "")
  assert done.stdout == f"{answers(models, QUESTIONS[:1])[0]}\n"


def test_what_a_conversation_begins_with(reading, models):
  code, out, _ = reading("chat", "--model=chat", "--system=The cat", *FLAGS, typed=QUESTIONS[0])
  assert (code, out) == (0, f"{answers(models, QUESTIONS[:1], system='The cat')[0]}\n")


def test_a_model_without_a_template_says_so(reading):
  code, out, err = reading("chat", "--model=bytes", *FLAGS, typed="Hello")
  assert code == 0 and out.endswith("\n")
  assert err.startswith("lm-jax: the model has no chat template") and err.count("\n") == 1


def test_an_unknown_word_is_told_and_not_asked(reading):
  code, out, err = reading("chat", "--model=chat", *FLAGS, typed="/rest\n")
  assert (code, out) == (0, "")
  assert err == "lm-jax: /rest: no such command; did you mean '/reset'?\n"


def test_a_question_beyond_the_context_is_one_line(reading):
  code, out, err = reading("chat", "--model=chat", typed="The cat " * 100)
  assert_refused(code, out, err, "the conversation has", "the model's context of 64")


def test_at_a_terminal_a_bad_question_is_told_and_the_next_one_asked_for(models):
  ours, theirs = pty.openpty()
  process = processes.start("chat", "--model", models / "chat", *FLAGS, stdin=theirs)
  os.close(theirs)
  os.write(ours, b"/rest\n" + b"The cat " * 100 + b"\n" + QUESTIONS[0].encode() + b"\n\x04")
  done = processes.finish(process)
  os.close(ours)
  assert done.returncode == 0
  assert answers(models, QUESTIONS[:1])[0] in done.stdout
  told = done.stderr.splitlines()
  assert told[0].startswith("lm-jax: /reset begins a new conversation, /exit ends")
  assert told[1] == "lm-jax: /rest: no such command; did you mean '/reset'?"
  assert told[2].startswith("lm-jax: the conversation has") and len(told) == 3


def test_ctrl_c_stops_the_answer_and_not_the_program(models):
  long = small_models.of_bytes(context_length=2**13)  # its answer would take many seconds
  small_models.save(long, models / "long")
  words = ["--model", models / "long", f"--max_new_tokens={2**13 - 100}", "--ignore_end", "--top_k=200"]
  process = processes.start("chat", *words, stdin=subprocess.PIPE, bufsize=1)
  process.stdin.write("Hello\n")
  assert os.read(process.stdout.fileno(), 1)  # it answers
  process.send_signal(signal.SIGINT)
  done = processes.finish(process, "/exit\n")
  assert done.returncode == 0 and done.stdout.endswith("\n")
  assert done.stderr.splitlines()[1:] == ["lm-jax: stopped"]


def test_a_stopped_answer_is_kept_as_far_as_it_came(models, capsys, monkeypatch):
  asked, before = [], signal.getsignal(signal.SIGINT)

  def answer(_, messages, settings, stream, is_stopped):
    asked.append((messages, settings["seed"]))
    stream("The ")
    signal.raise_signal(signal.SIGINT)
    assert is_stopped()
    raise KeyboardInterrupt

  monkeypatch.setattr(talk.text_generation, "answer", answer)
  chat = talk._Chat(LanguageModel(small_models.of_pieces()), "Be kind.", {"seed": 3})
  chat.answer("Who?")
  chat.answer("Where?")
  messages, seed = asked[-1]
  assert [m["content"] for m in messages] == ["Be kind.", "Who?", "The ", "Where?"]
  assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
  assert seed == 4  # answers do not draw the same numbers
  assert signal.getsignal(signal.SIGINT) is before
  assert capsys.readouterr() == ("The \n" * 2, "lm-jax: stopped\n" * 2)


# --- convert --------------------------------------------------------------------------------------


def test_a_model_is_converted_and_is_the_same(reading, here):
  code, out, err = reading("convert", "--source=chat", "--target=there", "--quiet")
  assert (code, err, out.count("\n")) == (0, "", 1) and out.startswith("there: GPT2LMHeadModel")
  code, out, _ = reading("convert", "--source=there", "--target=back", "--to=lm_jax")
  assert code == 0 and out.startswith("back: ")
  assert texts("back", "The", temperature=0) == texts("chat", "The", temperature=0)
