# The only door: every target sets up what it needs, so each works from a fresh clone.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
WORKERS ?= 2
REPORT ?= demo
SWEEP ?= demo
# Two spinning OpenMP threads beside a busy process run ten times slower than one; read when torch loads.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup demo test test-slurm check mutants lint smoke plan report bench base clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## .venv with pinned versions; a no-op the second time

$(STAMP): pyproject.toml constraints.txt constraints-torch.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v[:2] <= (3, 13) else \
	  f"error: Python {v[0]}.{v[1]} is not supported, 3.11 to 3.13 are; try: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -c constraints-torch.txt -e '.[dev]'
	@touch $@

demo: setup ## the main job: three arms of an ablation on this machine's CPU, then a curve, a table and a page
	$(BIN)/python -m ablate +sweep=demo
	$(BIN)/python -m analysis report=demo

test: setup ## all tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slurm"

test-slurm: setup ## the launcher slurm on a real SLURM, brought up on this host; skipped where it cannot be installed
	$(BIN)/python tests/slurm/cluster.py install
	timeout 900 $(BIN)/python -m pytest -m slurm -rs tests/slurm

check: lint ## ruff, mypy, and the tests that take seconds
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not gpu and not slurm"

mutants: setup ## plant bugs in the parts, one at a time, and count those that a test finds: many minutes
	$(BIN)/python -m tests.mutants

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

smoke: setup ## one run on mixture2d, seconds
	$(BIN)/python -m ablate

plan: setup ## make plan SWEEP=demo: what a grid would run, and what it refuses
	$(BIN)/python -m runners plan +sweep=$(SWEEP)

report: setup ## make report REPORT=demo: figures and tables from recorded runs
	$(BIN)/python -m analysis report=$(REPORT)

bench: setup ## samples per second on shapes, and the network's share of an iteration
	$(BIN)/python -m ablate.bench

base: setup ## pretrain both testbeds' bases from nothing (shapes: about a quarter of an hour on one core)
	$(BIN)/python -m ablate.mixture2d.pretrain
	$(BIN)/python -m ablate.shapes.pretrain

clean: ## remove .venv and caches; runs/ and reports/ stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
