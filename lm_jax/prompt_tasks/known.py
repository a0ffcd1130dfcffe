"""Tasks that are known by name: how rows of published data sets are asked.

Their files are not part of lm_jax: they lie in $LM_JAX_SHARED/data/tasks, a folder each. Prompts are our own
unless a comment says whose; forms "query, choices, gold" and "context, continuation" are llm-foundry's, whose
rows have the prompt built in.
"""

from collections.abc import Mapping
from typing import Any

from lm_jax.prompt_tasks.items import hashed
from lm_jax.prompt_tasks.row_files import Row
from lm_jax.strict import ConfigError

_SPLITS = {"train": "train.jsonl", "dev": "valid.jsonl", "test": "test.jsonl"}
_CHOICES = {
  "kind": "choice",
  "test": "data.jsonl",
  "query": "{{query}}",
  "choices": "choices",
  "gold": "gold",
}
_CONTINUES = {
  "kind": "continuation",
  "test": "data.jsonl",
  "query": "{{context}}",
  "answer": "{{continuation.strip()}}",
}


def _sentiment(what: str, **fields: Any) -> dict[str, Any]:
  """Sentiment of a sentence, in words that people have used for it."""
  return {
    "kind": "choice", "query": f"{what}: {{{{text}}}}\nSentiment:", "choices": ["negative", "positive"],
    "gold": "label", "id": "text", "content": "text",
    "templates": {
      "great": {"query": "{{text}}\nAll in all, it was", "choices": ["terrible", "great"]},  # LM-BFF's words
      "question": {
        "query": f"{what}: {{{{text}}}}\nQuestion: Is this {what.lower()} positive or negative?\nAnswer:",
      },
      "described": {
        "description": f"Say whether the {what.lower()} is positive or negative.",
        "query": "{{text}} =>", "separator": "\n",
      },
    },
  } | _SPLITS | fields  # fmt: skip


def _translation(source: str, target: str, a: str, b: str, **fields: Any) -> dict[str, Any]:
  return {
    "kind": "generation", "query": f"{source}: {{{{{a}}}}}\n{target}:", "answer": f"{{{{{b}}}}}",
    "metrics": ["bleu", "chrf"], "max_new_tokens": 256,
    "templates": {
      "described": {"description": f"Translate {source} to {target}."},
      "arrow": {"query": f"{{{{{a}}}}} =", "separator": "\n"},  # GPT-3's (arXiv:2005.14165, appendix G)
    },
  } | fields  # fmt: skip


_READING = {
  "kind": "generation", "query": "{{context}}\nQuestion: {{question}}\nAnswer:", "answer": "{{answers[0]}}",
  "references": "answers", "metrics": ["quasi_exact_match", "f1"], "max_new_tokens": 64, "id": "id",
}  # fmt: skip
_INTENT = {
  "kind": "choice", "train": "train.jsonl", "dev": "val.jsonl", "test": "test.jsonl",
  "query": "Query: {{text}}\nIntent:", "gold": "label.replace('_', ' ')", "balanced": False,
  "content": "text",
}  # fmt: skip
_ARC = _CHOICES | {"query": "{{query}}\nAnswer:"}
# Descriptions are those of Suzgun et al. (arXiv:2210.09261).
_LOGICAL_DEDUCTION = "A logical deduction task which requires deducing the order of a sequence of objects."
_TRACKING_SHUFFLED_OBJECTS = (
  "A task requiring determining the final positions of a set of objects given their "
  "initial positions and a description of a sequence of swaps."
)
_BBH = {
  "boolean_expressions": "Evaluate the result of a random Boolean expression.",
  "causal_judgement": "Answer questions about causal attribution.",
  "date_understanding": "Infer the date from context.",
  "disambiguation_qa": "Clarify the meaning of sentences with ambiguous pronouns.",
  "dyck_languages": "Correctly close a Dyck-n word.",
  "formal_fallacies": "Distinguish deductively valid arguments from formal fallacies.",
  "geometric_shapes": "Name geometric shapes from their SVG paths.",
  "hyperbaton": "Order adjectives correctly in English sentences.",
  "logical_deduction_five_objects": _LOGICAL_DEDUCTION,
  "logical_deduction_seven_objects": _LOGICAL_DEDUCTION,
  "logical_deduction_three_objects": _LOGICAL_DEDUCTION,
  "movie_recommendation": "Recommend movies similar to the given list of movies.",
  "multistep_arithmetic_two": "Solve multi-step arithmetic problems.",
  "navigate": (
    "Given a series of navigation instructions, determine whether one would end up back "
    "at the starting point."
  ),
  "object_counting": "Questions that involve enumerating objects and asking the model to count them.",
  "penguins_in_a_table": "Answer questions about a table of penguins and their attributes.",
  "reasoning_about_colored_objects": (
    "Answer extremely simple questions about the colors of objects on a surface."
  ),
  "ruin_names": "Select the humorous edit that 'ruins' the input movie or musical artist name.",
  "salient_translation_error_detection": (
    "Detect the type of error in an English translation of a German source sentence."
  ),
  "snarks": (
    "Determine which of two sentences is sarcastic.\n\n"
    'According to Cambridge University Dictionary, sarcasm is "the use of remarks that '
    "clearly mean the opposite of what they say, made in order to hurt someone's feelings"
    ' or to criticize something in a humorous way." Sarcastic sentences often contain '
    "satirical or ironic utterances, hyperboles, ambivalent or witty remarks."
  ),
  "sports_understanding": (
    "Determine whether an artificially constructed sentence relating to sports is plausible or not."
  ),
  "temporal_sequences": (
    "Task description: Answer questions about which times certain events could have occurred."
  ),
  "tracking_shuffled_objects_five_objects": _TRACKING_SHUFFLED_OBJECTS,
  "tracking_shuffled_objects_seven_objects": _TRACKING_SHUFFLED_OBJECTS,
  "tracking_shuffled_objects_three_objects": _TRACKING_SHUFFLED_OBJECTS,
  "web_of_lies": "Evaluate a random boolean function expressed as a word problem.",
  "word_sorting": "Sort a list of words.",
}
_STEP_BY_STEP = "Let's think step by step."
_BIGBENCH_CHOICES = (
  "conceptual_combinations", "logical_deduction", "misconceptions", "novel_concepts", "strategy_qa",
  "understanding_fables",
)  # fmt: skip
_BIGBENCH_CONTINUES = (
  "conlang_translation", "cs_algorithms", "dyck_languages", "operators", "repeat_copy_logic",
  "simple_arithmetic",
)  # fmt: skip

# {name: (folder, definition)}
KNOWN: dict[str, tuple[str, Mapping[str, Any]]] = {
  # Sentiment, topic, intent.
  "mr": ("mr", _sentiment("Review")),
  "cr": ("cr", _sentiment("Review")),
  "poem_sentiment": (
    "poem_sentiment",
    _sentiment(
      "Verse", train="train.tsv", dev="dev.tsv", test="test.tsv", columns=["id", "text", "label"],
      choices=["negative", "no impact", "positive", "mixed"], gold="label|int + 1", templates={},
    ),
  ),
  "subj": (
    "subj",
    _SPLITS | {
      "kind": "choice", "query": "Sentence: {{text}}\nType:", "choices": ["objective", "subjective"],
      "gold": "label", "id": "text", "content": "text",
    },
  ),
  "banking77": (
    "banking77",
    {
      "kind": "choice", "train": "train.csv", "test": "test.csv", "query": "Query: {{text}}\nIntent:",
      "gold": "category.replace('_', ' ')", "balanced": False, "content": "text",
    },
  ),
  "clinc150": ("clinc150", _INTENT),
  # With the queries of no intent among the 150, "out of scope" (Larson et al., arXiv:1909.02027).
  "clinc150_oos": (
    "clinc150",
    _INTENT | {
      "dev": ["val.jsonl", "oos_val.jsonl"], "test": ["test.jsonl", "oos_test.jsonl"],
      "answerable": "label != 'oos'",
    },
  ),
  # Questions.
  "boolq": ("boolq", _ARC),
  "arc_easy": ("arc_easy", _ARC),
  "arc_challenge": ("arc_challenge", _ARC),
  "commonsense_qa": ("commonsense_qa", _CHOICES),
  "pubmed_qa": (
    "pubmed_qa",
    {
      "kind": "choice", "test": "data.jsonl", "query": "{{context.rstrip()}}",
      "choices": ["yes", "no", "maybe"], "gold": "continuation", "balanced": False,
    },
  ),
  "mmlu_lite": (
    "mmlu_lite",
    {
      "kind": "choice", "train": "dev.jsonl", "test": "test_25_per_subject.jsonl",
      # Hendrycks et al. (arXiv:2009.03300): letters are the choices, demonstrations are of the same subject,
      # of which there are 5, and the description names it.
      "description": "The following are multiple choice questions (with answers) about "
      "{{subject.replace('_', ' ')}}.",
      "group": "subject", "balanced": False,
      "query": "{{question.strip()}}\n"
      "{% for c in choices %}{{'ABCD'[loop.index0]}}. {{c}}\n{% endfor %}Answer:",
      "choices": ["A", "B", "C", "D"], "gold": "answer",
      "templates": {
        "cloze": {
          "description": "", "query": "Question: {{question.strip()}}\nAnswer:",
          "choices": "choices|map('trim')",
        },
      },
    },
  ),
  "nq_open": (
    "nq_open",
    {
      "kind": "generation", "test": "NQ-open.dev.jsonl", "query": "Q: {{question}}?\nA:",
      "answer": "{{answer[0]}}", "references": "answer", "metrics": ["quasi_exact_match", "f1"],
      "max_new_tokens": 32,
    },
  ),
  "xquad_en": ("xquad", _READING | {"test": "xquad.en.jsonl"}),
  "xquad_de": (
    "xquad", _READING | {"test": "xquad.de.jsonl", "query": "{{context}}\nFrage: {{question}}\nAntwort:"}
  ),
  # Half of the questions about a paragraph that does not answer them: see `with_other_paragraphs`.
  "xquad_en_abstain": ("xquad", _READING | {"test": "xquad.en.jsonl", "answerable": "answerable"}),
  # The same questions without their paragraph, which is one of the 240 that there are.
  "xquad_en_open": (
    "xquad",
    _READING | {
      "test": "xquad.en.jsonl",
      "knowledge": {
        "documents": "xquad.en.jsonl", "id": "context", "text": "context", "words": None,
        "search": "{{question}}", "passages": 3, "evidence": "context",
      },
      "query": "{% for p in passages %}{{p.text}}\n\n{% endfor %}Question: {{question}}\nAnswer:",
      "templates": {"closed_book": {"reads": "nothing"}, "gold": {"reads": "evidence"}},
    },
  ),
  # Common sense, the last word.
  "winogrande": (
    "winogrande",
    {
      "kind": "choice", "test": "data.jsonl", "contexts": "context_options", "answer": "{{continuation}}",
      "gold": "gold",
    },
  ),
  "lambada": ("lambada", _CONTINUES),
  # Reasoning.
  "gsm8k": (
    "gsm8k",
    {
      "kind": "generation", "train": "train_2500.jsonl", "test": "test.jsonl",
      # An answer has lines, and none between them is empty: after one, a model invents the next question.
      "query": "Question: {{question}}\nAnswer:", "answer": "{{answer.replace('\n\n', '\n')}}",
      "metrics": ["final_number"], "max_new_tokens": 256, "stop": ["\n\n", "\nQuestion:"],
      "templates": {
        "direct": {"answer": "{{answer.split('####')[1].strip()}}"},  # without a chain of thought
      },
    },
  ),
  "aqua": (
    "aqua",
    {
      "kind": "generation", "test": "data.jsonl", "query": "Question: {{context}}\nAnswer:",
      "answer": "{{answer.strip()}}", "metrics": ["quasi_exact_match"],
      # Of the questions without their options. What is compared are texts: 0.5 is not 1/2.
      "templates": {
        "chain_of_thought": {
          "answer": "{{chain_of_thought.strip()}}\nThe answer is {{answer.strip().removesuffix('.')}}.",
          "metrics": ["final_answer"], "max_new_tokens": 512, "stop": ["\n\n", "\nQuestion:"],
        },
      },
    },
  ),
  **{
    f"bbh_{name}": (
      "bbh",
      {
        "kind": "generation", "test": f"bbh/{name}.json", "records": "examples", "query": "Q: {{input}}\nA:",
        "answer": "{{target}}", "metrics": ["exact_match"], "max_new_tokens": 64,
        "description": description,
        "templates": {
          # The prompts of Suzgun et al., k of whose three demonstrations are shown.
          "chain_of_thought": {
            "shown": f"cot-prompts/{name}.txt", "query": f"Q: {{{{input}}}}\nA: {_STEP_BY_STEP}",
            "answer": "{{reasoning|default('So the answer is ' ~ target ~ '.')}}",
            "gap": " " if name == "sports_understanding" else "\n",
            "metrics": ["final_answer"], "max_new_tokens": 512, "stop": ["\n\n", "\nQ:"],
          },
          "answer_only": {"shown": f"cot-prompts/{name}.txt"},  # the same ones without the reasoning
        },
      },
    )
    for name, description in _BBH.items()
  },
  **{
    f"bigbench_{name}": (
      "bigbench_lite", _CHOICES | {"test": f"bigbench_{name}.jsonl", "query": "{{query.rstrip()}}"}
    )
    for name in _BIGBENCH_CHOICES
  },
  **{
    f"bigbench_{name}": ("bigbench_lite", _CONTINUES | {"test": f"bigbench_{name}.jsonl"})
    for name in _BIGBENCH_CONTINUES
  },
  # Translation, summarization, dialogue.
  "tatoeba_en_de": ("tatoeba_en_de", _SPLITS | _translation("English", "German", "en", "de")),
  **{
    f"ntrex_en_{code}": (
      "ntrex", _translation("English", language, "en", code, test="ntrex_en_de_fr_es.jsonl")
    )
    for code, language in (("de", "German"), ("fr", "French"), ("es", "Spanish"))
  },
  "scitldr": (
    "scitldr",
    {
      "kind": "generation", "train": "train.jsonl", "dev": "dev.jsonl", "test": "test.jsonl",
      "id": "paper_id", "query": "Abstract: {{source|map('trim')|join(' ')}}\nTL;DR:",
      "answer": "{{target[0].strip()|replace('\n', ' ')}}",
      "references": "target|map('trim')|map('replace', '\n', ' ')",
      "metrics": ["rouge1", "rouge2", "rougeL"],
    },
  ),
  "qmsum_spans": (
    "qmsum_spans",
    {
      "kind": "generation", "test": "product_test_spans.jsonl",
      "query": "Meeting:\n{{transcript.strip()}}\n\nQuestion: {{query}}\nSummary:", "answer": "{{summary}}",
      "metrics": ["rouge1", "rouge2", "rougeL"], "max_new_tokens": 128,
    },
  ),
  "sgd": (
    "sgd",
    {
      "kind": "generation", "train": "train.jsonl", "dev": "dev.jsonl", "test": "test.jsonl", "id": "id",
      # A turn is a line, whatever white space is in it.
      "query": "{% for t in before %}{{'User' if t.speaker == 'USER' else 'Assistant'}}: "
      "{{t.utterance.split()|join(' ')}}\n{% endfor %}Assistant:",
      "answer": "{{utterance.split()|join(' ')}}", "metrics": ["bleu", "f1"],
    },
  ),
  # Code.
  "humaneval": (
    "humaneval",
    {
      "kind": "code", "test": "HumanEval.jsonl.gz", "query": "{{prompt}}", "gap": "", "id": "task_id",
      "answer": "{{canonical_solution}}", "max_new_tokens": 512,
      "program": "{{prompt}}{{completion}}\n{{test}}\ncheck({{entry_point}})\n",
      # Chen et al. (arXiv:2107.03374, section 2.1).
      "stop": ["\nclass", "\ndef", "\n#", "\nif", "\nprint"],
    },
  ),
  "mbpp": (
    "mbpp",
    {
      "kind": "code", "train": "mbpp.jsonl", "dev": "mbpp.jsonl", "test": "mbpp.jsonl", "gap": "",
      "id": "task_id", "max_new_tokens": 512,
      # Austin et al. (arXiv:2108.07732, section 3): the tests are part of the question.
      "query": "You are an expert Python programmer, and here is your task: {{text}} Your code should pass "
      "these tests:\n\n{{test_list|join('\\n')}}\n[BEGIN]\n",
      "answer": "{{code.replace('\\r\\n', '\\n')}}\n[DONE]",
      "references": "[code.replace('\\r\\n', '\\n')]",
      "program": "{{completion}}\n{{test_setup_code}}\n{{test_list|join('\\n')}}\n", "stop": ["[DONE]"],
    },
  ),
}  # fmt: skip


def answered_turns(rows: list[Row], split: str) -> list[Row]:
  """Makes a row of each answer of the system in a dialogue, with the turns before it."""
  found = []
  for row in rows:
    turns = row.fields.get("turns")
    if not isinstance(turns, list):
      raise ConfigError(f"{row.where}: has no list of 'turns'")
    for i, turn in enumerate(turns):
      if turn["speaker"] == "SYSTEM":
        fields = {
          "id": f"{row.fields['dialogue_id']}/{i}",
          "before": turns[:i],
          "utterance": turn["utterance"],
        }
        found.append(Row(f"{row.where} turn {i + 1}", fields))
  return found


# Ids of the splits of MBPP (arXiv:2108.07732, section 2.1); its few-shot prompts are of the first ten.
_MBPP = {"train": range(1, 11), "test": range(11, 511), "dev": range(511, 601)}


def mbpp_split(rows: list[Row], split: str) -> list[Row]:
  return [row for row in rows if row.fields["task_id"] in _MBPP[split]]


def mmlu_split(rows: list[Row], split: str) -> list[Row]:
  """Leaves out rows whose right choice is there twice, and tells demonstrations apart by their place.

  One of the five of college physics is published twice: without its place there would be four.
  """
  found = []
  for number, row in enumerate(rows):
    choices, gold = row.fields["choices"], row.fields["answer"]
    if choices.count(choices[gold]) == 1:
      found.append(row._replace(fields=row.fields | {"number": number}) if split == "train" else row)
  return found


def chains_of_thought(rows: list[Row], split: str) -> list[Row]:
  """Makes rows {input, reasoning, target} of the paragraphs of a prompt that begin with "Q: "."""
  if split != "shown":
    return rows
  found = []
  for row in rows:
    question, is_there, reasoning = row.fields["text"].partition(f"\nA: {_STEP_BY_STEP}")
    if is_there:
      target = reasoning.rpartition("the answer is ")[2].removesuffix(".")
      fields = {
        "input": question.removeprefix("Q: "), "reasoning": reasoning.strip(), "target": target,
      }  # fmt: skip
      found.append(Row(row.where, fields))
  return found


def with_other_paragraphs(rows: list[Row], split: str) -> list[Row]:
  """Gives every second question, by a hash of its id, another question's paragraph, which has no answer.

  Questions without an answer are SQuAD 2.0's idea (arXiv:1806.03822). There people wrote them to look as if
  the paragraph had an answer; these are made by a rule, and a model that knows what a paragraph is about can
  tell them apart. The words of no reference stand in the new paragraph, whether in capitals or not.
  """
  paragraphs = sorted({row.fields["context"] for row in rows})
  found = []
  for row in rows:
    fields = row.fields | {"answerable": hashed("answerable", row.fields["id"]) % 2 == 0}
    if not fields["answerable"]:
      first = hashed("paragraph", row.fields["id"]) % len(paragraphs)
      others = (p for p in (*paragraphs[first:], *paragraphs[:first]) if p != row.fields["context"])
      wanted = [answer.casefold() for answer in row.fields["answers"]]
      without = (p for p in others if not any(answer in p.casefold() for answer in wanted))
      paragraph = next(without, None)
      if paragraph is None:
        raise ConfigError(f"{row.where}: all other paragraphs hold an answer of {row.fields['answers']}")
      fields |= {"context": paragraph, "answers": [], "answer_start": []}
    found.append(Row(row.where, fields))
  return found


ADAPT = {
  "mbpp": mbpp_split, "mmlu_lite": mmlu_split, "sgd": answered_turns,
  **{f"bbh_{name}": chains_of_thought for name in _BBH},
  "xquad_en_abstain": with_other_paragraphs,
}  # fmt: skip
