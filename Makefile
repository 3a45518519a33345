# Everything runs in .venv, which the first target that needs it makes.
PYTHON  ?= python3
STORAGE ?= results
# The tests' S3 server, ceph or moto: who asks for one gets it or a failure. Else Ceph's gateway if it is there, or moto's.
S3      :=
BIN     := .venv/bin
PIP     := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable
PYTEST  := $(BIN)/python -m pytest
# Several processes, each with whole files, since the tests of one share what is slow to make; three, since they wait for Ray.
SPREAD  := --numprocesses 3 --dist loadfile --no-loadscope-reorder
# Eight workers that wait for each other at every batch norm: beside them Ray does not start in its half a minute.
CROWDED := tests/resnet_dist/test_law_1_worker_count.py tests/resnet_dist/training/test_exact.py
APART   := $(CROWDED:%=--ignore=%)

ifneq ($(filter-out ceph moto,$(S3)),)
  $(error S3=$(S3) is not allowed; it may be ceph or moto)
endif
ifneq ($(S3),)
  export RESNET_DIST_TEST_S3 := $(S3)
endif

# Images of containers tend to set it. Each of the many processes of Ray would then compile thousands of files anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo s3 ceph test unit integration clusters lint format mutations bench gpu clean

help:            ## show this list
	@grep -hE '^[a-z0-9]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):[^#]*## /\1\t/' | expand -t 14

setup: .venv/base ## install into .venv

demo: .venv/base ## run a small grid on this machine and print its table (STORAGE=dir or s3://…)
	$(BIN)/resnet-dist grid run demo --storage $(STORAGE)

s3: .venv/base ## start an S3 server for trying out (Ceph's gateway, installed from Debian if missing; Ctrl-C ends it)
	@$(BIN)/python -m tests.s3_server --install
	@$(BIN)/python -m tests.s3_server

test: .venv/test $(filter ceph,$(S3)) ## run the tests (S3=ceph: on Ceph's gateway, installed from Debian if missing)
	$(PYTEST) $(CROWDED)
	$(PYTEST) $(SPREAD) $(APART) -m "not clusters"

unit: .venv/test $(filter ceph,$(S3)) ## run the fast ones of them
	$(PYTEST) $(SPREAD) -m "not integration"

integration: .venv/test $(filter ceph,$(S3)) ## run those of them that start Ray, servers and worker processes
	$(PYTEST) $(CROWDED) -m integration
	$(PYTEST) $(SPREAD) $(APART) -m "integration and not clusters"

clusters: .venv/test ## run the other tests, on Ray clusters of several nodes and hosts
	$(PYTEST) $(SPREAD) -m clusters

lint: .venv/dev  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev ## put the code into the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

mutations: .venv/test ## put faults into a copy of the code and see which test notices (a quarter of an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutations

bench: .venv/test ## measure speed against targets (QUICK=1: under three minutes)
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

gpu: .venv/test ## measure and train on this machine's GPU, without Ray or a network (MINUTES=8, GPU=dir for the results)
	$(BIN)/python -m benchmarks.gpu --minutes $(or $(MINUTES),8) --into $(or $(GPU),gpu-results)

clean:           ## remove .venv and the demo's results
	rm -rf .venv results

ceph: .venv/python
	@$(BIN)/python -m tests.s3_server --install

.venv/python: # the virtual environment itself
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; run make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "error: cannot make .venv; on Debian: apt-get install python3-venv"; exit 1; }
	@touch $@

.venv/base: .venv/python pyproject.toml constraints.txt
	@echo "installing into .venv (a few minutes the first time)"
	@$(PIP) .
	@touch $@

# Each of these brings what those before it do: whoever needs the last one runs pip once.
.venv/test: .venv/python pyproject.toml constraints.txt
	@echo "installing into .venv (a few minutes the first time)"
	@$(PIP) '.[test]'
	@touch .venv/base $@

.venv/dev: .venv/python pyproject.toml constraints.txt
	@echo "installing into .venv (a few minutes the first time)"
	@$(PIP) '.[dev]'
	@touch .venv/base .venv/test $@
