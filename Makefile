# Thin: every target prints the plain commands it runs.
PYTHON ?= python3
VENV ?= .venv
SHAPES = d64 d128 d256 d384

.PHONY: demo test lint bench clean

# The quickstart sweep and its report.
demo: $(VENV)/installed
	$(VENV)/bin/lm-jax sweep --config=configs/sweeps/quickstart.py --workdir=runs/quickstart

test: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest

lint: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# A training step at four shapes, on one core, one after the other.
bench: $(VENV)/installed
	for shape in $(SHAPES); do $(VENV)/bin/lm-jax bench --config=configs/bench/$$shape.py --core=0; done

clean:
	rm -rf $(VENV)

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-test: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $(VENV)/installed $@
