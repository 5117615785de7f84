# The project's commands. The first one that needs an environment makes it in .venv and installs rnnlab there.

VENV := .venv
# The first interpreter on PATH that is new enough; python3 if none is, for the error message. Another: make PYTHON=...
PYTHON ?= $(or $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done),python3)
NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
# What is installed for the tests beside rnnlab: test, or dev for all but torch.
EXTRA ?= test
# A file's tests stay in one process, so that they share what it has compiled.
# A process that crashes ends the run: a new one would wait for ever for the files of the other.
PYTEST_ARGS ?= -n auto --maxprocesses 8 --max-worker-restart 0 --dist loadfile --durations=10

# pyright is pinned: do not look for a newer one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1
# mkdocs is pinned below 2: material need not speak of it in every build.
export NO_MKDOCS_2_WARNING = 1

# Bytecode is kept, whatever the shell says: without it each of the tests' processes compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install train test test-slow selfcheck lint format docs docs-serve notebooks lock clean
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## make .venv and install rnnlab there, editable

train: $(VENV)/.installed ## train an IRNN on the adding problem; results in runs/adding
	$(VENV)/bin/python -m rnnlab.train --config=configs/adding.py --workdir=runs/adding

test: $(VENV)/.test-installed ## run the tests; other flags for pytest: make test PYTEST_ARGS="-k lstm"
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

test-slow: $(VENV)/.test-installed ## run the slow tests
	$(VENV)/bin/python -m pytest -m "slow and not exhaustive" $(PYTEST_ARGS)

selfcheck: $(VENV)/.installed ## compare this machine's gradients, compiled in several ways, in a hundred random programs
	$(VENV)/bin/python -m rnnlab.selfcheck --seconds=0

lint: $(VENV)/.test-installed ## check style, format and types
	$(VENV)/bin/python -m ruff check
	$(VENV)/bin/python -m ruff format --check
	$(VENV)/bin/python -m pyright --pythonpath $(VENV)/bin/python

format: $(VENV)/.test-installed ## mend what ruff can mend
	$(VENV)/bin/python -m ruff check --fix --exit-zero
	$(VENV)/bin/python -m ruff format

# Not --quiet: it keeps the warnings from --strict, too.
docs: $(VENV)/.docs-installed ## build the documentation into site/, where a broken link or a page left out is an error
	$(VENV)/bin/python -m mkdocs build --strict

docs-serve: $(VENV)/.docs-installed ## show the documentation while you write, at http://127.0.0.1:8000
	$(VENV)/bin/python -m mkdocs serve --dev-addr 127.0.0.1:8000

notebooks: $(VENV)/.test-installed ## run the notebooks of docs/tutorials and write their outputs into them
	$(VENV)/bin/python -m scripts.run_notebooks

# uv resolves for every Python and system at once. What it writes are pip's constraints: they install nothing.
lock: $(VENV)/bin/pip ## write constraints.txt anew, the newest versions of all that rnnlab and its extras need
	@$(PIP) uv
	$(VENV)/bin/uv pip compile --quiet --universal --upgrade --python-version 3.11 --all-extras --no-annotate \
		--custom-compile-command="make lock" --output-file constraints.txt pyproject.toml

clean: ## remove .venv, site/ and caches; leaves runs/
	rm -rf $(VENV) dist site .pytest_cache .ruff_cache
	find rnnlab configs scripts tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/pip:
	@$(PYTHON) -c '$(NEW_ENOUGH)' 2>/dev/null || { echo "rnnlab needs Python 3.11 or newer: $(PYTHON) is" \
		"$$($(PYTHON) --version 2>/dev/null || echo missing). Name another:" \
		"make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
		exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/pip
	@echo "Installing rnnlab into $(VENV)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.docs-installed: pyproject.toml | $(VENV)/bin/pip
	@echo "Installing rnnlab[docs] into $(VENV)"
	@$(PIP) --editable '.[docs]'
	@touch $(VENV)/.installed $@

# torch 2.13.0 is not built for every machine. Where it cannot be installed, everything else is, and the tests that
# compare with torch skip. A failure with any other cause fails again in the second attempt, and make stops.
$(VENV)/.test-installed: pyproject.toml | $(VENV)/bin/pip
	@echo "Installing rnnlab[$(EXTRA)] into $(VENV)"
	@$(PIP) --editable '.[$(EXTRA)]' || { \
		echo "That failed. Installing without torch: the tests that compare with it will skip."; \
		$(PIP) --editable '.[dev]'; }
	@touch $(VENV)/.installed $@
