# Everything a fresh machine needs: Python >= 3.11 with venv, make and git. `make demo` and `make test` do the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Processes that the tests run in, side by side: they wait more than they compute. One at a time: make test WORKERS=0.
WORKERS ?= 4
MACHINES ?= 2

.PHONY: help setup demo lab lint test test-quick test-machines mutants soak bench screenshot docs prices lock clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or newer with the venv module is needed (Debian: apt-get install python3 python3-venv)"; exit 1; fi
	@echo "setting up $(VENV) with $$($(PYTHON) --version), a minute or two"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(READY)

setup: $(READY) ## make the virtual environment

demo: $(READY) ## run notebooks/quickstart.ipynb headless; print offers, the run's log and where the notebook is
	@$(BIN)/python tools/demo.py

lab: $(READY) ## open JupyterLab on the quickstart
	@$(BIN)/jupyter lab notebooks/quickstart.ipynb

lint: $(READY) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(READY) ## lint, types and all tests but those of `test-machines`, side by side (WORKERS=4)
	@$(MAKE) --no-print-directory lint & lint=$$!; \
	$(BIN)/python -m pytest -m "not machines" -n $(WORKERS) --dist worksteal; tests=$$?; \
	wait $$lint || { echo "lint or types are wrong: see above"; exit 1; }; exit $$tests

test-quick: $(READY) ## for the inner loop, at most 90 s: lint, types, the tests that your change touches
	@$(BIN)/python tools/quick.py -n $(WORKERS)

test-machines: $(READY) tools/node_modules/.ready ## real hosts (sshd, Docker) and JupyterLab in a real browser; as root on Debian: `.ci/run` installs what it needs
	@tools/ensure-chromium
	$(BIN)/python -m pytest -m machines -n $(MACHINES) --dist worksteal

mutants: $(READY) ## plant each known defect of tests/mutants in a copy of the tree and show which test catches it (PATCH=file: yours, or --machines)
	@$(BIN)/python tools/mutants.py $(PATCH)

soak: $(READY) ## hours: all pairs of crashes, 200 kills a database, long models, a day of virtual and an hour of real time (DJ_SOAK_*: tests/crash/soak.py)
	@$(BIN)/python -m tests.crash.soak

bench: $(READY) ## print the figures of docs/benchmarks.md
	@$(BIN)/python -m benchmarks $(BENCH)

screenshot: $(READY) tools/node_modules/.ready ## docs/quickstart.png from a real JupyterLab
	@tools/ensure-chromium
	@$(BIN)/python tools/screenshot.py

tools/node_modules/.ready: tools/package.json tools/package-lock.json
	@if command -v npm >/dev/null; then cd tools && npm ci --silent --ignore-scripts && touch node_modules/.ready; \
	else mkdir -p tools/node_modules && touch $@; fi

docs: $(READY) ## write docs/config-reference.md from the models
	@$(BIN)/python tools/config_reference.py > docs/config-reference.md

prices: $(READY) ## write the shipped list prices anew: make prices PRICES=folder AWS_TYPES=table.csv (tools/renew_prices.py -h)
	@$(BIN)/python tools/renew_prices.py $(PRICES) $(AWS_TYPES)

lock: $(READY) ## write constraints.txt from the present environment
	@$(BIN)/python -m pip freeze --exclude-editable | grep -v ' @ ' > constraints.txt

clean: ## remove what the commands above made
	rm -rf $(VENV) out tools/node_modules build dist
