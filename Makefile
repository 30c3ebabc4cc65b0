# Every target does its own set-up. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help quickstart test lint setup latest clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv || echo .tools/bin/uv)
CONSTRAINTS ?= --constraint constraints.txt

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

quickstart: $(VENV)/assets  ## expert -> dataset -> replay buffer -> BC and IQL -> evaluation on a RoboHive kitchen (5 min)
	$(BIN)/python examples/quickstart.py

test: $(VENV)/assets  ## run the tests, those on real RoboHive included
	$(BIN)/python -m pytest

lint: $(VENV)/installed  ## check style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

setup: $(VENV)/assets  ## only build the environment, with RoboHive and its assets

latest:  ## run the tests with the newest versions that setup.py allows (its own environment, some minutes)
	$(MAKE) test VENV=.venv-latest CONSTRAINTS=

clean:  ## remove what the set-up made inside this clone
	rm -rf .venv .venv-latest .tools

.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv

# The two stamps: a second call repeats nothing, a changed requirement starts again.
$(VENV)/installed: setup.py constraints.txt | $(filter .tools/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip install --python $(BIN)/python $(CONSTRAINTS) --editable '.[robohive,train,pixels,formats,dev]'
	touch $@

$(VENV)/assets: $(VENV)/installed
	UV=$(abspath $(UV)) $(BIN)/rlhive setup
	touch $@
