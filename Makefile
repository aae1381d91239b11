# llmos. Every target may be repeated: what is done already is not done again.
#
# PYTHON=python3.12 names the interpreter, VENV=folder the virtual environment, TESTS=tests/unit what to test,
# WORKERS=0 that it is tested in one process.

PYTHON ?= python3
VENV ?= .venv
TESTS ?= tests
TORCH ?= torch==2.13.0
WORKERS ?= 2
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install develop run test lint check bench bench-cpu soak clean distclean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## make the virtual environment and install llmos into it

develop: $(VENV)/.developed ## the same with the tools that test and check it

run: $(VENV)/.installed ## install, then the shell; without a terminal a short demonstration
	@if [ -t 0 ] && [ -t 1 ]; then $(BIN)/llmsh || true; else exec $(BIN)/llmos demo; fi

test: $(VENV)/.developed ## run the tests
	$(BIN)/pytest -n $(WORKERS) --dist loadfile $(TESTS)

lint: $(VENV)/.developed ## style, types, and which folder may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test ## lint and test: what must pass before a commit

bench: $(VENV)/.developed ## measure the kernel alone, calls, the socket, the system alone, then all workloads on llmos and every installed peer
	-$(BIN)/python benchmarks/overhead.py
	-$(BIN)/python benchmarks/syscall_latency.py --device cpu
	-$(BIN)/python benchmarks/wire.py --device cpu
	-$(BIN)/python benchmarks/runners.py
	-$(BIN)/python benchmarks/system.py
	$(BIN)/python benchmarks/run.py

bench-cpu: $(VENV)/.developed ## measure each kind of weights and each native function on this CPU, beside every installed peer
	-$(BIN)/llmos quantize smollm2 --to int8
	$(BIN)/python benchmarks/cpu.py

soak: $(VENV)/.developed ## run the tests that take minutes
	$(BIN)/pytest -m soak $(TESTS) || [ $$? -eq 5 ]

clean: ## remove caches and builds; the virtual environment and the models stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.*
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove the virtual environment too
	rm -rf '$(VENV)'

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("llmos needs Python 3.11 or newer and %s is %s; name another: make PYTHON=python3.12 ..." % (sys.executable, sys.version.split()[0]))'
	$(PYTHON) -m venv $(VENV)

# A venv's own pip reads the same settings, indexes and wheel folders as any other. torch comes first and by version where
# there is no GPU: a range would take the newest build, which brings several GB of CUDA libraries. One that is there is kept.
$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	@command -v nvidia-smi >/dev/null || $(BIN)/python -c 'import importlib.metadata as m; m.version("torch")' 2>/dev/null || \
		{ set -x; $(BIN)/pip install '$(TORCH)'; }
	$(BIN)/pip install -e .
	@touch $@

$(VENV)/.developed: $(VENV)/.installed
	$(BIN)/pip install -e '.[dev]'
	@touch $@
