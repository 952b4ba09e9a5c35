# Every developer command. Each is complete on a fresh machine with Python >= 3.11, git and make.
#
# PyPI's torch for Linux carries CUDA (several GB). For the CPU build:
#   make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
# Another Python:  make setup PYTHON=python3.12

PYTHON ?= python3
TORCH_INDEX ?=
BIN := .venv/bin
TORCH := $(shell sed -n '/^torch==/p' .ci/constraints.txt)
READY := .venv/.installed
# Of `make weights`: trainings side by side, and processes that make samples for each. On a GPU with 16 cores: 5 and 3.
AT_ONCE ?= 1
WORKERS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check audit bench soak weights clean

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 14

setup: $(READY) ## make .venv and install the project with everything its tests need

demo: $(READY) ## make a small degraded archive, restore it, say where the report is
	$(BIN)/fdi demo out/demo

test: $(READY) ## run the tests: minutes, offline, no root
	$(BIN)/python -m pytest

check: $(READY) ## format, lint, types, layers, tests, audit: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory test
	$(MAKE) --no-print-directory audit

audit: $(READY) ## known vulnerabilities of the pinned versions; says so where PyPI can't be asked
	$(BIN)/python .ci/audit.py

bench: $(READY) ## throughput and overhead tables of this machine
	$(BIN)/fdi bench manifests/bench/compact-cpu.yaml

soak: $(READY) ## very many small images, drivers killed at random: hours
	$(BIN)/python -m tests.faults.soak out/soak

weights: $(READY) ## train the compact preset from nothing: make weights FDI_DATA=FOLDER (minutes on a GPU, days on two cores)
	$(BIN)/python -m jobs.training.weights --at-once $(AT_ONCE) --workers $(WORKERS)
	$(BIN)/fdi evaluate manifests/evaluate/compact.yaml
	$(BIN)/fdi evaluate manifests/evaluate/whole.yaml
	$(BIN)/python -m jobs.cards out/evaluate/metrics.json out/evaluate-whole/metrics.json

clean: ## remove the environment, caches and results
	rm -rf .venv out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed; name one: make setup PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX) )$(TORCH)
	$(BIN)/python -m pip install --quiet -c .ci/constraints.txt -e '.[dev]'
	touch $@
