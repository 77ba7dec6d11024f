PYTHON ?= python3
VENV := .venv
PYTEST = python -m pytest -n 3 --dist worksteal
UV := $(shell command -v uv 2> /dev/null)
# Modules are compiled when they are first imported, which saves a minute; all at once if Python may not write what it compiles.
UV_INSTALL = uv pip install --python $(VENV) $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode)
PIP_INSTALL = python -m pip install --quiet --disable-pip-version-check $(if $(PYTHONDONTWRITEBYTECODE),,--no-compile)
INSTALL = $(if $(UV),$(UV_INSTALL),$(PIP_INSTALL)) --quiet
# TORCH names a build of PyTorch's own index, such as cpu or cu130. Without it: the build that is installed, at first that in
# the usual index.
INSTALLED := $(shell cat $(VENV)/torch 2> /dev/null)
ifneq ($(and $(TORCH),$(wildcard $(VENV)/torch)),)
ifneq ($(TORCH),$(INSTALLED))
$(error $(VENV) has PyTorch's $(or $(INSTALLED),usual) build: remove it to install $(TORCH), as in rm -r $(VENV))
endif
endif
TORCH := $(or $(TORCH),$(INSTALLED))
PYTORCH_INDEX := $(if $(TORCH),--extra-index-url https://download.pytorch.org/whl/$(TORCH))
HASHED := --no-deps --no-build-isolation --require-hashes --requirement
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help run report test test-long test-all coverage bench ui lint check-lock golden install hashes

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*##/  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

run: $(VENV)/installed  ## get the data, run the pipeline, show the result
	@samebits run

install: $(VENV)/installed  ## install the pinned libraries into .venv: TORCH=cpu for PyTorch without CUDA

report: $(VENV)/installed  ## write report.html, a page about the result in the workspace
	@samebits report

test: $(VENV)/installed-dev  ## run the tests
	$(PYTEST)

test-long: $(VENV)/installed-dev  ## run what takes minutes more: 25 kills of a training, 40 edits while the pipeline runs
	$(PYTEST) -m long

test-all: $(VENV)/installed-dev  ## run every test, also 200 kills, 200 edits and 50 experiments (hours)
	$(PYTEST) -m ""

coverage: $(VENV)/installed-dev  ## run the tests and show which lines they reach, in subprocesses too (half as long again)
	$(PYTEST) --cov --cov-report=term

lint: $(VENV)/installed-dev  ## check format, style and types
	ruff format --check .
	ruff check .
	mypy

check-lock: $(VENV)/installed  ## check that dvc.lock is the result of this code and these parameters
	@python -m samebits.gate.lock_check

golden: $(VENV)/installed  ## record the first training steps of each recipe
	python -m samebits.golden tests/golden.json

bench: $(VENV)/installed  ## measure: the table of ratios in docs/benchmarks.md
	python -m benchmarks

ui: $(VENV)/installed  ## open the tracking page of this project's runs
	@samebits ui

hashes: $(VENV)/installed-dev  ## write the hashes of the pinned libraries again, after a pin has changed
	python hashes/update.py

$(VENV)/installed: pyproject.toml compute.lock requirements.lock hashes/build.txt hashes/product.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "samebits needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": set PYTHON, as in make run PYTHON=python3.12")'
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@echo "Installing the pinned libraries into $(VENV) with $(if $(UV),uv,pip): a minute or more."
	@$(INSTALL) $(HASHED) hashes/build.txt
	@$(INSTALL) $(HASHED) hashes/product.txt
	@$(INSTALL) $(PYTORCH_INDEX) --no-build-isolation --editable .
	@echo $(TORCH) > $(VENV)/torch
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed hashes/dev.txt
	@$(INSTALL) $(HASHED) hashes/dev.txt
	@$(INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $@
