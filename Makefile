# make demo    set up and watch a few synthetic cameras; Ctrl-C ends it
# make test    set up and run the tests
# make setup   only set up: a virtual environment in .venv with the package, compiled
# make browsers  the tests of the page in Chromium, Firefox and WebKitGTK
# make stress  the random tests for longer, and long tests: make stress SECONDS=300 COUNT=100000
# make mutants slips planted in the ring, each of which a test must notice; ONLY=TEXT for some of them
# make litmus  the orderings of the ring on weak machines (C11, aarch64, RISC-V), with herd7
# make pythons the tests under every Python that Debian has, in chroots made by mmdebstrap; as root. ONLY=3.14 TESTS=camera, ONLY=3.13t
# make fresh   make demo and make test from nothing, in new Debians, made by mmdebstrap; as root. ONLY=sid TESTS=none
# make oldest  the tests with the oldest versions of all packages that pyproject.toml allows
# make newest  the tests with the newest ones, and which have moved
# make wheels  the files of a release, in dist/: an sdist, and wheels for x86-64 and aarch64, glibc and musl. ONLY=aarch64
# make check-wheels  installs each where there is no compiler, in chroots, and runs the tests of rings there; as root
# make image   a container image of the service, in build/; as root. check-image runs it with podman
# make check-unit  the systemd unit of docs/ in a Debian that systemd-nspawn boots, with the wheel of dist/; as root
# make bench   compare with other ways to share frames; BENCH=--short takes a minute
# make bench-cameras  what a camera costs, beside a bare decode and OpenCV; BENCH=--short takes a minute
# make bench-latency  how late a camera's frames are, beside PyAV, OpenCV, ffmpeg and GStreamer; BENCH=--short takes two minutes
# make bench-start  how soon cameras are live after `run`, how soon a killed worker is back, and memory; BENCH=--short takes a minute
# make bench-recordings  a day of recordings of eight cameras: how soon any 30 s open, and the timeline; BENCH=--short takes ten seconds
# make bench-link  what a link to another host costs, beside framed TCP, Zenoh alone and pyzmq; BENCH=--short takes two minutes
# make bench-batches  batches of many rings in a model's size, beside ultralytics, roboflow and OpenCV; three minutes
# make bench-model  eight cameras, one model: age of frames at its results, and what a slow model costs the cameras
# make adapters  the tests of the adapters in examples/ with the real libraries, which it installs in part
#   (the last three install PyTorch. PyPI's brings CUDA, several GB; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
#   before them has pip take the one for CPUs)
# make docs    the documentation, in build/docs
# make lint    ruff, mypy, cython-lint
# make clean   remove what was built

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(wildcard _shm/*.pyx _shm/*.pxi _shm/*.pxd _shm/*.h _rows/*.pyx _rows/*.h _pixels/*.pyx _pixels/*.h _rtp/*.pyx)
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# Compiled at first use: most of what lies in these packages never is.
INSTALL := $(PIP) install --no-compile

.PHONY: setup demo test browsers stress mutants litmus pythons fresh oldest newest wheels check-wheels image check-image check-unit bench bench-cameras bench-latency bench-start bench-recordings bench-link bench-batches bench-model adapters docs lint clean
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
	@$(INSTALL) --upgrade "pip>=25.1"

# (setuptools would say at length that folders here come first on import; that is what is wanted.)
$(VENV)/installed: $(SOURCES) | $(VENV)/bin/python
	@echo "compiling and installing valkka-async into $(VENV) ..."
	@PYTHONWARNINGS="ignore:Editable installation" $(INSTALL) --editable '.[all]'
	@touch $@

$(VENV)/installed-for-tests: $(VENV)/installed
	@echo "installing what the tests need into $(VENV) ..."
	@$(INSTALL) --group test
	@touch $@

# On a terminal the demo gets a process group of its own (set -m), so that Ctrl-C ends the demo and not
# make, which would report an error.
demo: setup
	@if [ -t 0 ]; then set -m; fi; $(BIN)/valkka-async demo; exit $$?

# Both kinds of packages are fetched side by side. Tests wait for other processes most of the time. A file's tests stay
# together, as they share what is costly to make.
test:
	@tests/system-packages & \
	    $(MAKE) --no-print-directory $(VENV)/installed-for-tests; status=$$?; wait; exit $$status
	@$(BIN)/python -m pytest -n $$(($$(nproc) + 2)) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# BROWSERS=firefox for one of them; TESTS=FILE for some of the tests.
BROWSERS ?= chromium firefox webkit
browsers: TESTS := $(wildcard tests/service/test_service_page*.py)
browsers: $(VENV)/installed-for-tests
	@tests/system-packages browsers
	@for browser in $(BROWSERS); do \
	    echo "== $$browser"; VALKKA_BROWSER=$$browser $(BIN)/python -m pytest $(TESTS) || exit 1; \
	done

# Some tests take so many SECONDS, and some so many forks or signals (COUNT), however long those take.
SECONDS ?= 60
COUNT ?= 100000
stress: $(VENV)/installed-for-tests
	@VALKKA_STRESS_SECONDS=$(SECONDS) VALKKA_STRESS_COUNT=$(COUNT) VALKKA_EXAMPLES=2000 \
	    $(BIN)/python -m pytest --timeout 3600 tests/ring/test_adversity.py tests/ring/test_fork.py \
	    tests/ring/test_storm.py tests/ring/test_state_machine.py tests/proof/test_proof_c.py tests/service/test_service_page.py \
	    tests/camera/test_camera_chaos.py
	@VALKKA_STRESS_SECONDS=$(SECONDS) $(BIN)/python -m pytest -m long

# Takes half an hour. What was found is remembered in build/mutants, so that it may be interrupted.
mutants: $(VENV)/installed-for-tests
	@$(BIN)/python proof/mutants/run.py $(if $(ONLY),--only "$(ONLY)")

# Fetches herd7 (40 MB, into .cache) unless it is installed.
litmus: | $(VENV)/bin/python
	@proof/litmus/fetch-herd7
	@$(BIN)/python proof/litmus/run.py

# machines/matrix.json and docs/machines.md get the results.
pythons:
	@$(PYTHON) machines/pythons.py --only "$(ONLY)" $(if $(TESTS),--tests $(TESTS))

# What is committed, in machines with the packages that README names. The same tables get the results.
fresh:
	@$(PYTHON) machines/fresh.py --only "$(ONLY)" $(if $(TESTS),--tests $(TESTS))

# Each in a virtual environment of its own, made from nothing.
oldest: export PIP_CONSTRAINT = $(CURDIR)/.venv-oldest/lowest.txt
oldest: export PIP_BUILD_CONSTRAINT = $(PIP_CONSTRAINT)
oldest:
	@rm -rf .venv-oldest && mkdir .venv-oldest
	@$(PYTHON) machines/versions.py lowest $(PIP_CONSTRAINT)
	@$(MAKE) --no-print-directory test VENV=.venv-oldest
	@.venv-oldest/bin/python machines/versions.py passed lowest

newest:
	@rm -rf .venv-newest
	@$(MAKE) --no-print-directory .venv-newest/installed-for-tests VENV=.venv-newest
	@.venv-newest/bin/python machines/versions.py moved
	@$(MAKE) --no-print-directory test VENV=.venv-newest
	@.venv-newest/bin/python machines/versions.py passed newest

# Everything is cross-compiled, by a compiler that comes as a Python package.
.venv-wheels/installed: machines/wheels.txt
	@$(PYTHON) -m venv .venv-wheels
	@.venv-wheels/bin/python -m pip --disable-pip-version-check -q install --no-compile -r machines/wheels.txt
	@touch $@

# TAG=v1.2.3 refuses to make another version.
wheels: .venv-wheels/installed
	@.venv-wheels/bin/python machines/wheels.py --only "$(ONLY)" --tag "$(TAG)"

# machines/matrix.json and docs/machines.md get the results. ONLY=musl, FOR=3.14
check-wheels: .venv-wheels/installed
	@.venv-wheels/bin/python machines/check_wheels.py --only "$(ONLY)" --python "$(FOR)"

image: ONLY := manylinux_2_28_$(shell uname -m)
image: wheels
	@.venv-wheels/bin/python machines/image.py

check-image:
	@$(PYTHON) machines/check_image.py

check-unit:
	@$(PYTHON) machines/check_unit.py

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

bench-latency:
	@$(MAKE) --no-print-directory setup VENV=.venv-bench
	@.venv-bench/bin/python -m pip --disable-pip-version-check -q install -r benchmarks/requirements.txt
	@tests/system-packages latency
	@.venv-bench/bin/python benchmarks/latency.py $(BENCH)

bench-start:
	@$(MAKE) --no-print-directory setup VENV=.venv-bench
	@tests/system-packages
	@.venv-bench/bin/python benchmarks/start.py $(BENCH)

bench-recordings:
	@$(MAKE) --no-print-directory setup VENV=.venv-bench
	@tests/system-packages
	@.venv-bench/bin/python benchmarks/recordings.py $(BENCH)

bench-link:
	@$(MAKE) --no-print-directory setup VENV=.venv-bench
	@.venv-bench/bin/python -m pip --disable-pip-version-check -q install -r benchmarks/requirements.txt
	@.venv-bench/bin/python benchmarks/link.py $(BENCH)

# Without what the peers need for models alone, which would be gigabytes.
.venv-bench/installed-peers: benchmarks/batching/requirements.txt benchmarks/batching/without-dependencies.txt
	@$(MAKE) --no-print-directory setup VENV=.venv-bench
	@.venv-bench/bin/python -m pip --disable-pip-version-check -q install -r benchmarks/batching/requirements.txt
	@.venv-bench/bin/python -m pip --disable-pip-version-check -q install --no-deps \
	    -r benchmarks/batching/without-dependencies.txt
	@touch $@

bench-batches: .venv-bench/installed-peers
	@$(MAKE) --no-print-directory setup VENV=.venv-bench
	@.venv-bench/bin/python benchmarks/batches.py $(BENCH)

bench-model: .venv-bench/installed-peers
	@$(MAKE) --no-print-directory setup VENV=.venv-bench
	@.venv-bench/bin/python benchmarks/model.py $(BENCH)

adapters: .venv-bench/installed-peers $(VENV)/installed-for-tests
	@$(MAKE) --no-print-directory setup VENV=.venv-bench
	@$(BIN)/python -m pytest -m "long or not long" tests/examples/test_adapters.py

$(VENV)/installed-for-docs: $(VENV)/installed
	@echo "installing what the documentation needs into $(VENV) ..."
	@$(INSTALL) --group docs
	@touch $@

docs: $(VENV)/installed-for-docs
	@$(BIN)/python -m sphinx -W --keep-going -n -q -E docs build/docs
	@echo "build/docs/index.html"

lint: $(VENV)/installed-for-tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(BIN):$$PATH" $(BIN)/cython-lint _shm _rows _pixels _rtp

clean:
	rm -rf .venv .venv-* build dist *.egg-info valkka_async/*/*.so valkka_async/*/*/*.so
