# Each target also works without make: the README names the commands.
PYTHON ?= python3
VENV := .venv
PYTEST = python -m pytest -n 3 --dist worksteal
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help run report test test-long test-all coverage bench ui lint check-lock golden

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*##/  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

run: $(VENV)/installed  ## get the data, run the pipeline, show the result
	@samebits run

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

bench: $(VENV)/installed  ## measure: the table of ratios in the README
	python -m benchmarks

ui: $(VENV)/installed  ## open the tracking page of this project's runs
	MLFLOW_DISABLE_TELEMETRY=true mlflow ui --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlflow.db}

$(VENV)/installed: pyproject.toml compute.lock requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "samebits needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": set PYTHON, as in make run PYTHON=python3.12")'
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
