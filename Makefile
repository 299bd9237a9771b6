# `make demo` and `make test` need nothing but Python 3.11 or later: the virtual environment is made here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo docs test test-minimal test-newest lint format dist check-dist clean

# What test-minimal and test-newest run, for example TESTS='tests/test_cli.py -k help'.
TESTS ?= tests
# A process a core, a file of tests at a time, and no threads beside them.
SPREAD := -n auto --dist loadfile
test test-minimal test-newest: export OMP_NUM_THREADS = 1

demo: $(VENV)/.installed
	$(BIN)/maskmend demo --out demo

docs: $(VENV)/.installed
	$(BIN)/python docs/build.py
	@echo "open build/site/index.html"

test: lint
	$(BIN)/pytest $(SPREAD)

# The lowest versions that pyproject.toml admits, and the newest of everything but torch.
test-minimal:
	$(PYTHON) -m venv --clear build/minimal
	build/minimal/bin/pip install --quiet --constraint constraints-minimal.txt --editable '.[test]'
	build/minimal/bin/pytest $(SPREAD) -W ignore::DeprecationWarning $(TESTS)  # old ones warn of newer ones

test-newest:
	$(PYTHON) -m venv --clear build/newest
	grep '^torch==' constraints.txt > build/torch.txt
	build/newest/bin/pip install --quiet --constraint build/torch.txt --editable '.[test]'
	build/newest/bin/pytest $(SPREAD) $(TESTS)

dist: $(VENV)/.installed
	rm -rf dist
	$(BIN)/python -m build --outdir dist

# The wheel alone in a fresh environment, away from the source tree.
check-dist: dist
	$(PYTHON) -m venv --clear build/fresh
	build/fresh/bin/pip install --quiet --constraint constraints.txt dist/*.whl
	cd build && fresh/bin/maskmend doctor && fresh/bin/maskmend demo --out fresh/demo

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build dist .cache
