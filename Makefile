# `make demo` and `make test` need nothing but Python 3.11 or newer: they make
# .venv themselves the first time, and again when the requirements change.

PYTHON ?= python3
BIN := .venv/bin
WITH_DISPLAY := scripts/with_display.sh
# More arguments for pytest: make test ARGS="-m slow", or ARGS="-k cells -m ''"
ARGS ?=
# How many processes run the tests: make test JOBS=4
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help env demo test gpu lint format docs docs-pictures clean

help: ## List these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

env: ## Make .venv with everything, if it is not there or out of date
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) was not found. Install Python 3.11 or newer, or name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) scripts/bootstrap.py

demo: env ## Classify the cells of a sample: in a window, or to files without a display
	$(BIN)/napari-sparseattn demo

# One thread for torch and BLAS: the tests' arrays are small, and threads that
# wait for a busy core make them many times slower.
test: export OMP_NUM_THREADS ?= 1
test: export MKL_NUM_THREADS ?= 1
# Compiled modules are kept whatever the machine's habit: many tests begin processes of their own.
test: export PYTHONDONTWRITEBYTECODE :=
# Each process gets a virtual display of its own where there is Xvfb.
test: env ## Run the quick tests; those that take seconds each by make test ARGS="-m slow"
	$(WITH_DISPLAY) $(BIN)/python -m pytest --no-xvfb -n $(JOBS) $(ARGS)

gpu: env ## Run the tests that need a GPU, and measure it; without one, the CPU with small sizes
	$(BIN)/python -m pytest --no-xvfb -q -m gpu
	$(BIN)/python benchmarks/gpu.py

lint: env ## Check style, types, import directions, manifest, stray addresses and documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/npe2 validate --imports napari-sparseattn
	$(BIN)/python scripts/check_tree.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs: env ## Serve the documentation on this machine, following changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

format: env ## Put the code in the common format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs-pictures: env ## Take the pictures of the documentation from the real window
	$(WITH_DISPLAY) $(BIN)/python scripts/screenshots.py

clean: ## Remove .venv and everything built
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
