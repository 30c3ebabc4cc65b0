# Every target does its own set-up. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow package fuzz torture memory lint setup assets docs latest matrix peers bench bench-sampling bench-export bench-import bench-training bench-scaling coverage results clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv || echo .tools/bin/uv)
CONSTRAINTS ?= --constraint constraints.txt
UV_READY := $(filter .tools/bin/uv,$(UV))
# What the wheel is tested with: its names and types, a recording, its versions and loaders.
PACKAGE_TESTS ?= tests/test_public_api.py tests/data/versions tests/data/recording/test_recorder.py tests/dataset

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

quickstart: $(VENV)/assets  ## expert -> dataset -> replay buffer -> BC and IQL -> evaluation on a RoboHive kitchen (5 to 7 min)
	$(BIN)/python examples/quickstart.py

test: $(VENV)/assets  ## run the tests, those on real RoboHive included, on all cores (10 min on 2 cores)
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

test-slow: $(VENV)/assets  ## run the tests that make test leaves out: trainings, experts, memory, benchmarks (10 min)
	$(BIN)/python -m pytest -n auto --dist loadfile -m slow

fuzz: $(VENV)/assets  ## damage manifests, shards and caches, and use buffers in 2,000 ways each (20 min)
	RLHIVE_FUZZ=2000 $(BIN)/python -m pytest -q tests/data/test_fuzz.py tests/data/formats/test_import_fuzz.py tests/sim_algos/test_run_folders.py \
		tests/data/formats/test_hdf5.py tests/data/formats/test_source_files.py tests/data/release/test_croissant.py \
		tests/data/replay/test_ahead.py tests/data/replay/test_online.py --timeout 1800

torture: $(VENV)/installed  ## kill a recorder 500 times at random moments and look for what is lost (some minutes)
	folder=$$(mktemp -d) && $(BIN)/python -m tests.data.recording.torture $$folder 500 $$RANDOM && rm -r $$folder

memory: $(VENV)/installed  ## export, merge, verify, check and pack 2 GB in a process that may take 200 MB (some minutes)
	folder=$$(mktemp -d) && trap "rm -r $$folder" EXIT && $(BIN)/python -m tests.data.limited $$folder 200

lint: $(VENV)/installed  ## check style (ruff), types (mypy, strict) and the import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The tests run from the unpacked sdist without its rlhive/, so that what they import is the installed wheel.
package: $(UV_READY)  ## build the sdist and the wheel, and test the wheel with the sdist's tests in a fresh environment (3 min)
	rm -rf dist .venv-wheel
	$(UV) build --quiet --out-dir dist
	$(UV) venv --quiet --python $(PYTHON) .venv-wheel
	$(UV) pip install --quiet --python .venv-wheel/bin/python $(CONSTRAINTS) "$$(ls dist/*.whl)[robohive,train,formats,dev]"
	folder=$$(mktemp -d) && trap "rm -rf $$folder $(CURDIR)/.venv-wheel" EXIT && tar xzf dist/*.tar.gz -C $$folder --strip-components=1 && \
		rm -r $$folder/rlhive && cd $$folder && $(CURDIR)/.venv-wheel/bin/python -m pytest -q -n auto --dist loadfile -m "not slow" $(PACKAGE_TESTS)

setup: $(VENV)/assets  ## only build the environment, with RoboHive and its assets

assets: $(VENV)/installed  ## install other simulation assets: ASSETS=git, or ASSETS=FOLDER that contains them
	UV=$(abspath $(UV)) $(BIN)/rlhive setup $(if $(ASSETS),--assets $(ASSETS))
	touch $(VENV)/assets

docs: $(VENV)/installed  ## build the documentation site into build/site, without network (1 min)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/site

latest:  ## run the tests with the newest versions that setup.py allows (its own environment, some minutes)
	$(MAKE) test VENV=.venv-latest CONSTRAINTS=

# MATRIX="3.11-oldest 3.13-newest" chooses combinations, MATRIX_TESTS=tests/dataset a part of the tests.
matrix: $(UV_READY)  ## the data tests on Python 3.11, 3.12 and 3.13 with the oldest and newest versions, no simulator (1 h)
	UV=$(abspath $(UV)) $(PYTHON) -m tests.matrix $(MATRIX) $(if $(MATRIX_TESTS),--tests $(MATRIX_TESTS))

peers: $(VENV)/installed  ## the environments of the benchmarks' peers, whose tests are skipped without (2 min, 14 GB)
	$(BIN)/python -m benchmarks.peers.environments

# PEERS="minari lerobot", SIZE="1e5 1e7" (1e5 1e6 1e7 where the disk has room), WORKLOADS=random_256 and ROUNDS=3 choose parts; without them everything runs.
bench: bench-sampling bench-export  ## RLHive and its peers side by side, each in its own environment (1 h on quiet cores; 60 GB of disk)

bench-sampling: $(VENV)/installed  ## batches of every kind from every peer; SIZE=1e5 PEERS="torchrl minari" for parts (40 min)
	$(BIN)/python -m benchmarks.bench_sampling $(if $(PEERS),--peers $(PEERS)) $(if $(SIZE),--sizes $(SIZE)) \
		$(if $(WORKLOADS),--workloads $(WORKLOADS)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(THREADS),--threads $(THREADS)) $(if $(LOAD),--load $(LOAD))
	$(BIN)/python -m benchmarks.report

bench-export: $(VENV)/installed  ## record and commit with every peer's writer, check, diff (20 min)
	$(BIN)/python -m benchmarks.bench_export $(if $(PEERS),--peers $(PEERS)) $(if $(ROUNDS),--rounds $(ROUNDS))
	$(BIN)/python -m benchmarks.report

bench-import: $(VENV)/installed  ## memory and interruption of imports of 1 GB; KINDS="rlds minari" for parts (30 min, 3 GB)
	$(BIN)/python -m benchmarks.bench_import $(if $(KINDS),--kinds $(KINDS))
	$(BIN)/python -m benchmarks.report

bench-training: $(VENV)/installed  ## CPU time of gradient steps beside d3rlpy, TorchRL's script and CORL's manner; ROUNDS=3 for a quick look (5 min)
	$(BIN)/python -m benchmarks.bench_training $(if $(ROUNDS),--rounds $(ROUNDS))
	$(BIN)/python -m benchmarks.report

# LARGEST=1e4 for a quick look (2 min); with all sizes, docs/scale.md and its picture are written again.
bench-scaling: $(VENV)/installed  ## how the cost of every step grows, to 1e6 episodes and 1e8 transitions (30 min, 10 GB of disk)
	$(BIN)/python -m benchmarks.scaling $(if $(LARGEST),--largest $(LARGEST)) $(if $(PARTS),--parts $(PARTS))

# Families whose assets are missing are counted as such: rlhive setup --assets git, or a folder that holds them.
coverage: $(VENV)/assets  ## run all 524 ids of RoboHive; seeds, checkpoints and replays of the 438 with states, bit for bit (1 h on one core)
	$(BIN)/python -m benchmarks.env_coverage --workers $(or $(WORKERS),1)
	$(BIN)/python -m benchmarks.env_conformance --workers $(or $(WORKERS),1)

results: $(VENV)/assets  ## run missing cells of the offline-RL table; TASKS="reach" SPLITS="medium mixed" ALGORITHMS="bc iql" SHARD=1/2
	$(BIN)/python -m benchmarks.offline_rl.run $(if $(TASKS),--tasks $(TASKS)) $(if $(SPLITS),--splits $(SPLITS)) $(if $(ALGORITHMS),--algorithms $(ALGORITHMS)) $(if $(SHARD),--shard $(SHARD))
	$(BIN)/python -m benchmarks.offline_rl.report

clean:  ## remove what the set-up made inside this clone
	rm -rf .venv .venv-latest .venv-matrix-* .tools benchmarks/.venvs

.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv

# The two stamps: a second call repeats nothing, a changed requirement starts again.
$(VENV)/installed: setup.py constraints.txt | $(UV_READY)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(UV) pip install --python $(BIN)/python $(CONSTRAINTS) --editable '.[robohive,train,pixels,formats,release,docs,dev]'
	touch $@

$(VENV)/assets: $(VENV)/installed
	$(MAKE) assets
