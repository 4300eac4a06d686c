# Two commands for a fresh Debian 12 machine: `make run` and `make test`. Each does its own set-up.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
DURATION ?=
ROUNDS ?= 200
SEED ?=
ARGS ?=
WHICH ?=
TORCH ?= torch
MINUTES ?= 5
SECONDS ?= 60
TARGET ?=
KEY ?=
export PATH := $(CURDIR)/.cache/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: chaos fuzz gpu-bench gpu-test help setup system-packages run test test-unit test-integration test-faults test-model test-system test-vm lint docs pictures deb reproducible apt-repo bench simulate overload proto lock clean soak

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: system-packages $(VENV)/.done  ## install what run and test need

system-packages:
	@packaging/setup_system.sh

# A virtual environment with locked versions where a lock for this Python exists
$(VENV)/.done: pyproject.toml $(wildcard requirements/*.txt) packaging/setup_venv.sh
	@PYTHON=$(PYTHON) packaging/setup_venv.sh $(VENV)
	@touch $@

run: setup  ## demo: cameras, daemon, live detections (DURATION=20 stops by itself and prints a JSON summary)
	@$(PY) -m tests.demo $(if $(DURATION),--duration $(DURATION)) $(ARGS)

test: setup  ## unit and integration tests, and the quick ones of faults
	@$(MAKE) --no-print-directory test-unit test-integration
	@$(MAKE) --no-print-directory test-faults WHICH="not slow"
	@$(MAKE) --no-print-directory fuzz

test-unit: setup
	$(PY) -m pytest tests/unit -n 2 $(ARGS)

test-integration: setup
	$(PY) -m pytest tests/integration $(ARGS)

test-faults: setup  ## the whole matrix of faults: cameras, processes, resources
	$(PY) -m pytest tests/faults -m "$(WHICH)" $(ARGS)

test-system: setup  ## the Debian package in a booted systemd: install, run, kill, upgrade, purge (root; FACEDETD_DEB=FILE tests that one)
	@packaging/setup_packaging.sh system
	$(if $(FACEDETD_DEB),,XZ_LEVEL=0 packaging/build_deb.sh build/deb/test && packaging/check_deb.sh build/deb/test)
	FACEDETD_DEB=$(or $(FACEDETD_DEB),$$(ls -t build/deb/test/facedetd_*.deb | head -1)) $(PY) -m pytest tests/system $(ARGS)

test-vm: setup  ## the package on an emulated kernel: limits and confinement that a container can't show (root; slow; FACEDETD_DEB=FILE)
	@packaging/setup_packaging.sh vm
	$(if $(FACEDETD_DEB),,XZ_LEVEL=0 packaging/build_deb.sh build/deb/test && packaging/check_deb.sh build/deb/test)
	FACEDETD_DEB=$(or $(FACEDETD_DEB),$$(ls -t build/deb/test/facedetd_*.deb | head -1)) $(PY) -m pytest tests/vm $(ARGS)

gpu-test: setup  ## tests that need an NVIDIA GPU; skipped, with the reason, where there is none (docs/gpu.md)
	$(PY) -m pytest tests/gpu --ignore tests/gpu/test_nvdec.py $(ARGS)
	$(PY) -m pytest tests/gpu/test_nvdec.py $(ARGS)

gpu-bench: setup  ## the ladder of docs/performance.md on this machine's GPU, as a table and JSON (PLANS=DIR RUNGS=1,rtsp:70 ARGS="--seconds 15")
	$(PY) -m tests.gpu.bench --plans $(PLANS) $(if $(RUNGS),--rungs $(RUNGS)) $(ARGS)

test-model: system-packages  ## the walk of docs/models.md from a checkpoint to a running INT8 model (wants FACEDETD_TEST_MODELS; TORCH=torch)
	@[ -x .venv-model/bin/python ] || PYTHON=$(PYTHON) packaging/setup_venv.sh .venv-model
	@.venv-model/bin/python -c 'import torch' 2>/dev/null || .venv-model/bin/python -m pip install -q $(TORCH)
	@.venv-model/bin/python -m tests.model_walk $(ARGS)

chaos: setup  ## processes killed and stopped at random moments (ROUNDS=200 SEED=7; ARGS=--strict judges times, on an idle machine)
	$(PY) -m tests.faults.chaos --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

simulate: setup  ## replay a load against the degradation controller (ARGS="--trace decode --plot FILE.svg")
	@$(PY) -m facedetd.degradation.simulator $(ARGS)

overload: setup  ## offer the daemon three times what this machine carries (LOAD=inference or decode, ARGS="--seconds 60")
	@$(PY) -m tests.overload $(or $(LOAD),inference) $(ARGS)

fuzz: setup  ## hostile bytes for every place that reads some (SECONDS=3600 TARGET=rtsp SEED=random ARGS="--keep DIR")
	$(PY) -m tests.fuzz --seconds $(SECONDS) --seed $(or $(SEED),1) $(if $(TARGET),--target $(TARGET)) $(ARGS)

lint: setup  ## ruff, mypy, buf, and generated code that is up to date
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/buf lint
	@packaging/check_proto.sh

docs: setup  ## make the pages that are made from the code
	@$(PY) -m docs.tools.reference_pages && $(PY) -m facedetctl.reference >docs/cli.md

pictures: setup  ## make docs/stats.png and docs/watch.png anew; wants an idle machine
	@$(PY) -m docs.tools.terminal_picture

bench: setup  ## the ladder of docs/benchmarks.md, with the baseline beside it (ARGS="--ladder 1,2,4,8")
	$(VENV)/bin/facedetctl bench $(ARGS)

soak: setup  ## faults, cameras and clients at random, and nothing may grow (MINUTES=60 SEED=1; docs/soak.md)
	$(PY) -m tests.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

deb: setup  ## the Debian package, from the last commit, into dist/ (lintian and sizes included)
	@packaging/setup_packaging.sh deb
	packaging/build_deb.sh dist
	packaging/check_deb.sh dist

reproducible: setup  ## build the Debian package twice, differently, and compare the bytes
	@packaging/setup_packaging.sh deb
	XZ_LEVEL=0 packaging/check_reproducible.sh

apt-repo:  ## a signed apt repository of the packages in dist, in dist/apt (KEY=FINGERPRINT of a key of yours)
	@packaging/apt_repo.sh "$(KEY)"

proto: setup  ## regenerate facedetd/v1 from proto/
	packaging/gen_proto.sh

lock: setup  ## renew the locked versions for this Python
	packaging/lock.sh

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
