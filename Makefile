# `make` lists the targets. The first one that needs it makes the environment in $(VENV), once, and again when
# pyproject.toml or constraints.txt change. GNU make 3.81 or newer.
#   make demo PYTHON=python3.12     another Python to make the environment with
#   make demo VENV=path             another folder, or an existing environment to install into
#   make bench BENCH=--help         what else can be measured
#   make test PYTEST=--slow         the tests that take long, too: some minutes more, as does PYTEST=--cov
#   make badges REPO=owner/name     another repository for the badges and the notebooks' set-up cells to lead to
# Only badges, bench and constraints change files of the repository: they are a maintainer's.

VENV ?= .venv
PYTHON ?= python3 python3.13 python3.12 python3.11

ENV_PYTHON := $(VENV)/bin/python
CIFARLIB := $(ENV_PYTHON) -m cifarlib
INSTALL := $(ENV_PYTHON) -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'

# Written last, so that an interrupted installation has none. It holds the folder whose cifarlib is installed:
# after a move, or where two clones share an environment, pip runs again.
STAMP := $(VENV)/.cifarlib-installed
# There while an environment made here is filled for the first time: if that was interrupted, it is removed and
# made anew. An environment that was there before is never removed.
UNFINISHED := $(VENV)/.cifarlib-unfinished

ifneq ($(shell test -x "$(ENV_PYTHON)" && cat "$(STAMP)" 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

.PHONY: help demo test faults colab badges report bench compare mutants lint lab env constraints clean
.DELETE_ON_ERROR:

help: ## list these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

demo: $(STAMP) ## the whole study on built-in images, no download, no GPU -> reports/demo
	@$(CIFARLIB) report --profile demo --out reports/demo

report: $(STAMP) ## the whole study on CIFAR-10 with ImageNet weights, on a GPU -> reports/full
	@$(CIFARLIB) report --profile full --out reports/full

test: $(STAMP) ## unit tests, doctests and notebook tests
	@$(ENV_PYTHON) -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST)

faults: $(STAMP) ## the whole fault suite: kills, damage, full disks, bad input; some minutes
	@$(ENV_PYTHON) -m pytest tests/faults tests/test_downloads.py --full-faults -q

colab: $(STAMP) ## the notebooks beside Colab's versions, in .venv-colab: some 5 GB, made once, and minutes
	@$(ENV_PYTHON) -m pytest tests/colab --colab -v --durations=8

badges: $(STAMP) ## stamp the version's tag, and REPO=owner/name, into badges and set-up cells
	@$(ENV_PYTHON) tools/badges.py "$(REPO)"

compare: $(STAMP) ## does a change leave every result as it was? REV=a commit, branch or tag; minutes a version
	@$(ENV_PYTHON) tools/compare.py "$(REV)"

mutants: $(STAMP) ## plant faults in copies of the project, one by one: do the tests catch them? half an hour
	@$(ENV_PYTHON) tools/mutants.py

lint: $(STAMP) ## ruff, formatting and types
	@$(ENV_PYTHON) -m ruff check
	@$(ENV_PYTHON) -m ruff format --check
	@$(ENV_PYTHON) -m mypy

bench: $(STAMP) ## speed, against the plain script everyone writes, into the READMEs' tables: a quarter of an hour
	@$(ENV_PYTHON) -m benchmarks $(BENCH)

lab: $(STAMP) ## open the notebooks in JupyterLab
	@$(ENV_PYTHON) -m jupyterlab notebooks

env: $(STAMP) ## make or update the environment, nothing else
	@echo "$(VENV) is up to date: $$($(ENV_PYTHON) --version)"

constraints: $(STAMP) ## take the newest version of every dependency and pin it in constraints.txt
	@$(ENV_PYTHON) -m pip install --quiet --upgrade --upgrade-strategy eager -e ".[test]"
	@# Without the build's suffix (+cpu, +cu130) and without CUDA's own packages the pins fit every machine.
	@sed -n '/^#/p' constraints.txt > constraints.txt.new
	@$(ENV_PYTHON) -m pip freeze --all --exclude-editable --exclude pip > $(VENV)/freeze.txt
	@sed 's/+.*//' $(VENV)/freeze.txt | grep -v -E '^(nvidia|cuda|triton)' >> constraints.txt.new
	@mv constraints.txt.new constraints.txt

clean: ## remove caches and build leftovers; keep .venv, data, runs and reports
	@rm -rf .coverage .pytest_cache .ruff_cache .mypy_cache build dist cifarlib.egg-info
	@find $(wildcard cifarlib tests notebooks benchmarks) \
	   \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@rm -f "$@"
	@if [ -e "$(UNFINISHED)" ]; then echo "Removing the unfinished $(VENV)"; rm -rf "$(VENV)"; fi
	@if [ -x "$(ENV_PYTHON)" ]; then exit 0; fi; \
	if [ -d "$(VENV)" ] && [ -n "$$(ls -A "$(VENV)")" ]; then \
	  echo "$(VENV) exists but has no working Python: remove it, or name another folder with VENV=..." >&2; \
	  exit 1; \
	fi; \
	found=""; \
	for python in $(PYTHON); do \
	  version=$$("$$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue; \
	  if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	    found="$$found  $$python is $$version, older than 3.11\n"; \
	  elif ! "$$python" -c 'import venv, ensurepip' 2>/dev/null; then \
	    found="$$found  $$python is $$version but cannot make environments (on Debian and Ubuntu: apt install python3-venv)\n"; \
	  else \
	    echo "Making $(VENV) with $$python ($$version)"; \
	    mkdir -p "$(VENV)" && : > "$(UNFINISHED)" && "$$python" -m venv "$(VENV)"; \
	    exit $$?; \
	  fi; \
	done; \
	{ echo "No usable Python >= 3.11 among: $(PYTHON)"; printf '%b' "$$found"; \
	  echo "Install one, or name it: make PYTHON=/path/to/python3.12"; } >&2; \
	exit 1
	@if [ -e "$(UNFINISHED)" ]; then \
	  echo "Installing cifarlib and its dependencies: 2 to 10 minutes, 2 GB on disk, and quiet."; \
	  if [ "$$(uname -s)" = Linux ]; then \
	    echo "On Linux the usual torch brings the CUDA libraries, several GB more; for a CPU build set PIP_INDEX_URL"; \
	    echo "or PIP_EXTRA_INDEX_URL to an index that has one."; \
	  fi; \
	else \
	  echo "Bringing $(VENV) up to date with pyproject.toml and constraints.txt"; \
	fi
	@$(INSTALL) --quiet --quiet || { \
	  echo "That failed, or was interrupted. Run make again, or see all that pip says:"; echo "  $(INSTALL)"; \
	  exit 1; } >&2
	@rm -f "$(UNFINISHED)"
	@printf '%s\n' "$(CURDIR)" > "$@"
