# The targets use the virtual environment that is active, else .venv, which the first of them makes.
# TORCH is what pip installs first. From PyPI on Linux that is the CUDA build, several gigabytes; for the CPU build:
#   make demo TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
PYTHON ?= python3

ifdef VIRTUAL_ENV
BIN := $(VIRTUAL_ENV)/bin
else
BIN := .venv/bin
endif
STAMP := $(BIN)/../.memit-vc-installed

.PHONY: demo test test-slow attack lint bench docs

demo: $(STAMP)
	$(BIN)/memitvc demo

# in the files' order: else the files with few tests, which take the longest, come last, and one process waits
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP)
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest -q

# kills, changed inputs and racing writers: tests/support/attack; for instance ATTACK="--kills 100 --seed 2"
attack: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.support.attack $(ATTACK)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# the command reference, and the pages as a site in build/site
docs: $(STAMP)
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict --quiet

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@
