# Everything starts from Python 3.11 or newer and make: each target makes the virtual environment that it needs.
PYTHON ?= python3
PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV ?= .venv-$(PYTHON_VERSION)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
OUT ?= isoloss-demo
JOBS ?= auto

.PHONY: demo test test-slow lint format bench constraints clean

demo: $(VENV)/.runtime
	$(BIN)/isoloss demo --out $(OUT)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q --numprocesses $(JOBS) --dist worksteal

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ty check --python $(VENV)

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.runtime
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/reproduce.py --out figures

# Exact versions for every supported Python, from the lower bounds in pyproject.toml.
constraints: $(VENV)/.dev
	$(PIP) install uv
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --extra dev --fork-strategy requires-python \
		--no-header --no-annotate --upgrade --output-file constraints.txt

$(VENV)/.runtime: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "isoloss needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)"
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv-* build *.egg-info .pytest_cache .ruff_cache .hypothesis
