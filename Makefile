# Two commands: `make demo` and `make test`. Both do their own set-up into .venv. `make help` lists the others.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
BIN := $(VENV)/bin
# Workers of pytest-xdist; `make test JOBS=0` runs everything in one process.
JOBS ?= auto
# Says what runs now.
STAGE = @printf '==> %s\n'

export VENV
export PYTHONUTF8 := 1

.PHONY: help setup demo test lint types contracts bench golden soak docs format clean

help:  ## Show these lines
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## Make or refresh .venv from requirements.lock
	@scripts/setup.sh

demo: setup  ## Run the main job on the shipped shop and write a report
	@$(BIN)/penstock demo

test: lint types contracts  ## Run every check and every test (soak tests excepted)
	@scripts/setup.sh --for-tests
	$(STAGE) "tests: unit, golden, scenarios, house and notebooks"
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --nbmake tests notebooks

lint: setup  ## Check style of Python and SQL, and the generated pages
	$(STAGE) "ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	$(STAGE) "sqlfluff"
	@$(BIN)/sqlfluff lint --disable-progress-bar dbt_project
	$(STAGE) "reference pages"
	@$(BIN)/python scripts/reference.py --check

types: setup  ## Check types (mypy, strict)
	$(STAGE) "mypy"
	@$(BIN)/mypy

contracts: setup  ## Check who may import whom
	$(STAGE) "import contracts"
	@$(BIN)/lint-imports --no-cache

bench: setup  ## Measure speed and memory, and print them
	@$(BIN)/python -m tests.load.bench

golden: setup  ## Rewrite the golden files from what the compiler gives now
	@$(BIN)/python -m pytest tests/golden --update-golden

soak: setup  ## Run the tests that take long
	@$(BIN)/python -m pytest tests -m soak

docs: setup  ## Generate the reference pages
	@$(BIN)/python scripts/reference.py
	@$(BIN)/python -m tests.destinations.conformance

format: setup  ## Rewrite Python and SQL in the house style
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

clean:  ## Remove caches and local state; .venv stays
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist .penstock dbt_project/.penstock dbt_project/target dbt_project/logs
