# One command each, on a machine that has only Python 3.11 and make.
#   make sweep   set-up, then the main job on real data     make check   the quick part of the tests, under two minutes
#   make test    set-up, then the whole test suite          make bench   the benchmarks (see benchmarks/README.md)
#   make fuzz    10,000 pictures, tables and paths, some of them damaged; a few hundred of them are in make check
#   make audit   known vulnerabilities of what is installed; fails, too, where nobody could be asked

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
# processes that share the tests; a file's go to one of them (tests/conftest.py)
JOBS ?= 2
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --no-loadscope-reorder

.PHONY: setup sweep test check fuzz audit bench pictures constraints

sweep: setup
	$(BIN)/python -m raystudy.sweep dividemix

test: check
	$(PYTEST) -m slow

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks/*.py
	$(BIN)/lint-imports
	$(PYTEST) -m "not slow"

fuzz: setup
	RAYSTUDY_FUZZ=10000 $(BIN)/python -m pytest tests/data/test_fuzz.py

audit: setup
	$(BIN)/python .ci/audit.py

bench: setup
	for b in training tracking dividemix sweep overhead reading scale; do $(BIN)/python benchmarks/$$b.py || exit 1; done

pictures: setup  # needs chromium and chromedriver
	$(BIN)/python docs/make_pictures.py

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("raystudy needs Python 3.11 or newer, not " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

constraints: setup
	@echo "pip freeze of a fresh environment; keep the torch lines with their platforms"
	$(BIN)/python -m pip freeze --exclude-editable
