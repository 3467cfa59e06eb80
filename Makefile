# `make demo` and `make test` are all that a fresh machine needs: they create the environment (.venv) themselves.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
GPUVM := $(BIN)/gpuvm
JOBS ?= auto
ARGS ?=

.PHONY: help demo test lint format types rooms check bench paper long guests ci doctor env clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/.run ## two virtual machines share one GPU and run the 17 workloads; under two minutes
	@$(GPUVM) demo $(ARGS)

test: $(VENV)/.dev ## the tests, on all cores
	@$(BIN)/pytest -n $(JOBS) $(ARGS)

lint: $(VENV)/.dev ## ruff
	@$(BIN)/ruff check .

format: $(VENV)/.dev ## let ruff lay the code out
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

types: $(VENV)/.dev ## mypy --strict
	@$(BIN)/mypy --strict

rooms: $(VENV)/.dev ## the direction of imports between the rooms
	@$(BIN)/lint-imports

check: lint types rooms test ## everything that must be green before a commit

bench: $(VENV)/.run ## all workloads, all modes, at paper size: bench.json
	@$(GPUVM) bench --mode all --workload all --size paper --json bench.json $(ARGS)

long: $(VENV)/.dev ## the long sweeps that `make test` leaves out
	@$(BIN)/pytest -n $(JOBS) -m long --timeout 3600 $(ARGS)

guests: $(VENV)/.dev ## tests that boot stock Linux guests under QEMU; prepares both in the cache
	@$(BIN)/pytest -m guests tests/guests $(ARGS)

doctor: $(VENV)/.run ## what this machine has and lacks
	@$(GPUVM) doctor $(ARGS)

ci: ## what continuous integration runs
	@.ci/run

env: $(VENV)/.dev ## only create the environment

clean: ## remove the environment and what the tools left
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .import_linter_cache build dist src/*.egg-info bench.json
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +

# A stamp is as new as the environment that was made for this pyproject.toml.
$(VENV)/.run: pyproject.toml .ci/environment
	@.ci/environment $(VENV) .
	@touch $@

$(VENV)/.dev: pyproject.toml .ci/environment
	@.ci/environment $(VENV) '.[dev]'
	@touch $@ $(VENV)/.run
