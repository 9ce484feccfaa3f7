# Consent Relay. `make` prints what there is. Needs Python 3.11 or newer and make, nothing else.
# Put the virtual environment elsewhere with VENV=..., choose the interpreter with PYTHON=...

SHELL := /bin/sh
VENV ?= .venv
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	command -v $$name >/dev/null 2>&1 && $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.run-installed
DEV_STAMP := $(VENV)/.dev-installed
BENCH_STAMPS := $(RUN_STAMP) .venv-bench/.installed .venv-bench-saq/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup run demo test lint types imports format bench bench-quick bench-sweep chaos lock clean

help: ## Print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(RUN_STAMP) ## Make .venv with everything needed to run, and the command .venv/bin/consent
	@echo "ready: $(BIN)/consent --help; try: $(BIN)/consent demo, or: $(BIN)/consent up --sandbox"

run: $(RUN_STAMP) ## The main job: everything with sandboxes, the sample events, a table; stays up until Ctrl-C
	@exec $(BIN)/consent demo --stay

demo: $(RUN_STAMP) ## The same, but ends by itself: exit code 0 once every sample is told
	@exec $(BIN)/consent demo

test: $(DEV_STAMP) lint types imports ## Lint, types, import contracts and all tests
	@tests/support/system_packages.sh
	$(BIN)/python -m pytest --reruns 1 -n auto tests/unit tests/vendors tests/test_architecture.py
	$(BIN)/python -m pytest --reruns 1 -n 2 --dist loadfile tests/flow tests/chaos

lint: $(DEV_STAMP) ## Check the code's style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV_STAMP) ## Check the types of pipeline and config
	$(BIN)/mypy

imports: $(DEV_STAMP) ## Check who imports whom
	$(BIN)/lint-imports

format: $(DEV_STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(BENCH_STAMPS) ## Measure beside the peers, up to 20 minutes on a calm machine; writes docs/benchmarks.md
	$(BIN)/python -m benchmarks run

bench-quick: $(BENCH_STAMPS) ## The same in short: one round of each, under 3 minutes
	$(BIN)/python -m benchmarks run --quick

bench-sweep: $(DEV_STAMP) ## Compare 100,000 people with a vendor that changed some of them: rate, our CPU, memory; a minute or two
	$(BIN)/python benchmarks/sweep.py

chaos: $(DEV_STAMP) ## Kill and disturb it for about five hours; writes docs/reliability.md; KILLS= SECONDS= (soak) SHARE= (the rest) SEED= ONLY=
	@tests/support/system_packages.sh
	$(BIN)/python -m tests.chaos run $(if $(KILLS),--kills $(KILLS)) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SHARE),--share $(SHARE)) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

lock: $(DEV_STAMP) ## Lock the dependencies of pyproject.toml anew, with hashes (needs the tool uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes pyproject.toml -o requirements/run.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes pyproject.toml --group dev -c requirements/run.txt -o requirements/dev.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --group bench -c requirements/run.txt -o requirements/bench.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --group bench-saq -o requirements/bench-saq.txt

clean: ## Remove .venv, the benchmarks' environments and caches; what `consent up` keeps in .consent stays
	rm -rf $(VENV) .venv-bench .venv-bench-saq .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer is needed and was not found; name one with: make PYTHON=/path/to/python3" >&2; exit 1; fi
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { echo "PYTHON=$(PYTHON) is no command: name Python 3.11 or newer, or leave PYTHON out to have one found" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "PYTHON=$(PYTHON) is older than Python 3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(RUN_STAMP): requirements/run.txt workers/launcher.py | $(BIN)/python
	@echo "installing what runs (about a minute the first time)"
	@$(PIP) install --quiet --require-hashes -r requirements/run.txt
	@$(BIN)/python workers/launcher.py $(BIN)
	@touch $@

$(DEV_STAMP): requirements/dev.txt $(RUN_STAMP)
	@echo "installing what tests"
	@$(PIP) install --quiet --require-hashes -r requirements/dev.txt
	@touch $@

.venv-%/.installed: requirements/%.txt | $(BIN)/python
	@echo "making $(@D) for what the benchmarks compare with"
	@$(BIN)/python -m venv $(@D)
	@$(@D)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r $<
	@touch $@
