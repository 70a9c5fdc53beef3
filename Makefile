# make demo [IMAGE=disk.qcow2]   set up and inspect a guest
# make test                      everything that CI checks

PYTHON ?= python3
VENV ?= .venv
IMAGE ?= tests/data/debian-12.qcow2
BIN = $(VENV)/bin
JOBS ?= 2

.PHONY: demo test lint docs bench tools volume-images

demo: $(VENV)/.installed
	$(BIN)/guestctl inspect $(IMAGE)

test: $(VENV)/.installed-test tools lint
	$(BIN)/pytest -n $(JOBS) --dist loadfile

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.installed
	bench/run

tools:
	tools/install-test-tools

# Boots a small virtual machine; what it makes is in git.
volume-images:
	tools/make-volume-images tests/data/volumes

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group test
	touch $@

$(VENV)/.installed-docs: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group docs
	touch $@
