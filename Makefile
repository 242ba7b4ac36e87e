# Two commands: `make quickstart` builds the small study, `make test` runs the tests in minutes.
# Both set up what they need once, in .venv, and spend no time on it again.
# `make test-all` also runs the slow tests: kills, floods of bad input, whole studies, a cluster.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
STUDY ?= quickstart
# In the order of tests/conftest.py, not by the number of tests.
BY_FILE := --dist loadfile --no-loadscope-reorder --durations=5
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help quickstart setup test test-slow test-all lint clean

help:
	@sed -n 's/^# //p' $(firstword $(MAKEFILE_LIST))
	@echo "Also: make lint, make clean (removes results and the environment)."

quickstart: $(READY)
	@snakemake --configfile config/$(STUDY).yaml
	@echo && cd results/tables/$(STUDY) && { cat accuracy.md 2>/dev/null || cat *.md; }
	@echo && echo "The report: $(CURDIR)/results/report/$(STUDY).html"

setup: $(READY)

test: lint
	@python -m pytest -m "not slow" -n auto $(BY_FILE)

# One process more than there are cores, since one waits for the cluster for minutes.
test-slow: $(READY)
	@python -m pytest -m slow -n $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )) $(BY_FILE)

test-all: test test-slow

lint: $(READY)
	@ruff check . && ruff format --check . && snakefmt --check -l 100 Snakefile workflow
	@shown=$$(lint-imports --no-logo --no-cache) || { echo "$$shown"; exit 1; }
	@shown=$$(mypy) || { echo "$$shown"; exit 1; }

$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "fedgloss: error: Python 3.11 or newer is needed; name one: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
		|| { echo "fedgloss: error: this Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	@echo "Setting up $(VENV) (once, a few minutes)..."
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python envs/install.py --constraint constraints.txt --editable '.[workflow,test,docs,flower]'
	@rm -f $(VENV)/ready-* && touch $@

# The pages of the API reference, from the docstrings: docs/api/index.html.
.PHONY: docs
docs: $(READY)
	@python docs/reference.py docs/api
	@echo "$(CURDIR)/docs/api/index.html"

# What was reproduced, from the archives of runs: reproduction/REPRODUCTION.md and its figures.
.PHONY: reproduction
reproduction: $(READY)
	@python reproduction/build.py

clean:
	rm -rf $(VENV) .snakemake results/[!R]* logs
