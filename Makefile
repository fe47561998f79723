# make demo    set up and watch a few synthetic cameras; Ctrl-C ends it
# make test    set up and run the tests
# make setup   only set up: a virtual environment in .venv with the package, compiled
# make stress  the random tests for longer: make stress SECONDS=300
# make litmus  the orderings of the ring on weak machines (C11, aarch64, RISC-V), with herd7
# make pythons the tests under every supported Python that is installed
# make bench   compare with other ways to share frames; BENCH=--short takes a minute
# make bench-cameras  what a camera costs, beside a bare decode and OpenCV; BENCH=--short takes a minute
# make docs    the documentation, in build/docs
# make lint    ruff, mypy, cython-lint
# make clean   remove what was built

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(wildcard _shm/*.pyx _shm/*.pxi _shm/*.pxd _shm/*.h _pixels/*.pyx _pixels/*.h)
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: setup demo test stress litmus pythons bench bench-cameras docs lint clean
.NOTPARALLEL:

setup: $(VENV)/installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "valkka-async needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' \
	    || { echo "Python lacks venv: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(s.get_path("include") + "/Python.h"))' \
	    || { echo "Python lacks its C headers: apt-get install python3-dev"; exit 1; }
	@command -v $${CC:-gcc} > /dev/null || { echo "there is no C compiler: apt-get install gcc libc6-dev"; exit 1; }
	@echo "making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade "pip>=25.1"

# (setuptools would say at length that folders here come first on import; that is what is wanted.)
$(VENV)/installed: $(SOURCES) | $(VENV)/bin/python
	@echo "compiling and installing valkka-async into $(VENV) ..."
	@PYTHONWARNINGS="ignore:Editable installation" $(PIP) install --editable '.[all]'
	@touch $@

$(VENV)/installed-for-tests: $(VENV)/installed
	@echo "installing what the tests need into $(VENV) ..."
	@$(PIP) install --group test
	@touch $@

# On a terminal the demo gets a process group of its own (set -m), so that Ctrl-C ends the demo and not
# make, which would report an error.
demo: setup
	@if [ -t 0 ]; then set -m; fi; $(BIN)/valkka-async demo; exit $$?

# Tests wait for other processes most of the time. A file's tests stay together, as they share what is costly to make.
test: $(VENV)/installed-for-tests
	@tests/system-packages
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

SECONDS ?= 60
stress: $(VENV)/installed-for-tests
	@VALKKA_STRESS_SECONDS=$(SECONDS) VALKKA_EXAMPLES=2000 $(BIN)/python -m pytest --timeout 3600 \
	    tests/ring/test_adversity.py tests/ring/test_fork.py tests/ring/test_state_machine.py tests/proof/test_proof_c.py tests/service/test_service_page.py

# Fetches herd7 (40 MB, into .cache) unless it is installed.
litmus: | $(VENV)/bin/python
	@proof/litmus/fetch-herd7
	@$(BIN)/python proof/litmus/run.py

# Each in a virtual environment of its own.
pythons:
	@for version in 3.11 3.12 3.13; do \
	    python$$version -c '' 2> /dev/null || { echo "python$$version is not installed: skipped"; continue; }; \
	    echo "python$$version"; \
	    $(MAKE) --no-print-directory test PYTHON=python$$version VENV=.venv-$$version || exit 1; \
	done

# The peers go into an environment of their own; nothing but the benchmark needs them.
bench:
	@$(MAKE) --no-print-directory setup VENV=.venv-bench
	@.venv-bench/bin/python -m pip --disable-pip-version-check -q install -r benchmarks/requirements.txt
	@.venv-bench/bin/python benchmarks/run.py $(BENCH)

bench-cameras:
	@$(MAKE) --no-print-directory setup VENV=.venv-bench
	@.venv-bench/bin/python -m pip --disable-pip-version-check -q install -r benchmarks/requirements.txt
	@tests/system-packages
	@.venv-bench/bin/python benchmarks/cameras.py $(BENCH)

$(VENV)/installed-for-docs: $(VENV)/installed
	@echo "installing what the documentation needs into $(VENV) ..."
	@$(PIP) install --group docs
	@touch $@

docs: $(VENV)/installed-for-docs
	@$(BIN)/python -m sphinx -W --keep-going -n -q -E docs build/docs
	@echo "build/docs/index.html"

lint: $(VENV)/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(BIN):$$PATH" $(BIN)/cython-lint _shm _pixels

clean:
	rm -rf .venv .venv-* build dist *.egg-info valkka_async/*/*.so valkka_async/*/*/*.so
