# `make demo` and `make test` need nothing but Python 3.11 or later: the virtual environment is made here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo docs test lint format clean

demo: $(VENV)/.installed
	$(BIN)/maskmend demo --out demo

docs: $(VENV)/.installed
	$(BIN)/python docs/build.py
	@echo "open build/site/index.html"

test: lint
	$(BIN)/pytest

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
