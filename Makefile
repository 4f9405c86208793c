# Every target is complete on a fresh machine with Python 3.11 or newer and make:
# it creates .venv, installs what it needs there and runs. Re-runs install again
# only when pyproject.toml or the file of constraints changed.

PYTHON ?= python3
OLDEST_PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt
PYTEST_ARGS ?=
SPHINXOPTS ?= -W --keep-going

# The tests for which the versions of the dependencies matter most; none of them needs
# the extra lm.
CORE_TESTS := tests/engine tests/networks tests/coders tests/interactions \
	tests/clustering tests/storage tests/persistence tests/plotting tests/test_common.py
# The tests' problems are small: more threads would only wait for each other. Processes
# do not, a few at a time.
PYTEST = MPLBACKEND=Agg OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
	--numprocesses auto --maxprocesses 4

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-core test-oldest test-peers test-fleet test-kills lint format docs clean distclean

help:
	@echo "make demo       set up .venv and run examples/plot_digits.py"
	@echo "make test       set up .venv and run all static checks and tests"
	@echo "make test-core  the tests of the core, with few dependencies"
	@echo "make test-oldest"
	@echo "                the same in .venv-oldest, with the oldest versions of the"
	@echo "                dependencies that pyproject.toml admits"
	@echo "make test-peers the dictionaries of other packages, against these packages,"
	@echo "                in .venv-peers"
	@echo "make test-fleet analyses and searches on clusters of dask and ray, in .venv-fleet"
	@echo "make test-kills hundreds of processes, killed at random while they write"
	@echo "make lint       the static checks of 'make test' only"
	@echo "make format     let ruff fix and format the code"
	@echo "make docs       build the documentation into docs/_build/html"
	@echo "make clean      remove caches and build products"
	@echo "make distclean  the same, and remove .venv and .venv-*"
	@echo
	@echo "PYTHON=python3.12 chooses the interpreter that .venv is made with, VENV=DIR"
	@echo "another place for it: make test-core PYTHON=python3.13 VENV=.venv-3.13"
	@echo "PYTEST_ARGS='-k mlp' passes arguments to pytest."

demo: $(VENV)/.installed-plot
	$(BIN)/python examples/plot_digits.py

test: lint
	$(PYTEST) $(PYTEST_ARGS)

test-core: $(VENV)/.installed-test-core
	$(PYTEST) -m "not slow" $(CORE_TESTS) $(PYTEST_ARGS)

test-oldest:
	@$(MAKE) --no-print-directory test-core PYTHON=$(OLDEST_PYTHON) VENV=.venv-oldest \
		CONSTRAINTS=constraints-oldest.txt

# The other packages warn of many things, which are not ours to mend.
test-peers: .venv-peers/.installed
	SKLEARN_CCX_PEERS=1 OMP_NUM_THREADS=1 .venv-peers/bin/python -m pytest \
		-W ignore tests/peers $(PYTEST_ARGS)

# torch comes first, and is held: they ask for the newest, with the libraries of CUDA.
# torchvision, which nothing here needs, fails beside a torch that is built without them.
.venv-peers/.installed: pyproject.toml constraints-peers.txt
	@$(MAKE) --no-print-directory VENV=.venv-peers .venv-peers/.created
	.venv-peers/bin/python -m pip install --constraint constraints-peers.txt torch
	.venv-peers/bin/python -m pip install --constraint constraints-peers.txt \
		sae-lens dictionary-learning eai-sparsify pytest --editable .
	.venv-peers/bin/python -m pip uninstall --yes torchvision
	@touch $@

test-fleet:
	@$(MAKE) --no-print-directory VENV=.venv-fleet .venv-fleet/.installed-test-fleet
	OMP_NUM_THREADS=1 .venv-fleet/bin/python -m pytest tests/test_fleets.py $(PYTEST_ARGS)

test-kills: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m kills $(PYTEST_ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs
	MPLBACKEND=Agg $(BIN)/python -m sphinx -b html $(SPHINXOPTS) docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

clean:
	rm -rf build dist docs/_build docs/auto_examples docs/generated
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f docs/sg_execution_times.rst plot_*.png examples/plot_*.png
	find sklearn_ccx tests examples docs -name __pycache__ -type d -prune \
		-exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) .venv-*

# .installed-EXTRA: the package, editable, with that extra.
.PRECIOUS: $(VENV)/.installed-%
$(VENV)/.installed-%: $(VENV)/.created pyproject.toml $(CONSTRAINTS)
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) --editable ".[$*]"
	@touch $@

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
		echo "No $(PYTHON) found; set PYTHON to a Python 3.11 or newer:" \
			"make PYTHON=/path/to/python3" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
		sys.exit(0 if v >= (3, 11) else "sklearn_ccx needs Python 3.11 or " \
		"newer, and $(PYTHON) is %d.%d; choose another with " \
		"make PYTHON=python3.11" % v[:2])'
	@$(PYTHON) -m venv $(VENV) || { \
		echo "$(PYTHON) could not create $(VENV); on Debian and Ubuntu," \
			"install its venv package (apt install python3-venv)." >&2; \
		exit 1; }
	@touch $@
