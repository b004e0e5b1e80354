# make run    train a detector on a drawn picture set, or on yours: make run DATA=pictures/data.yaml
# make test   every test that needs no GPU and no cloud
# make kill-matrix  a run cut off at a hundred places, a bucket that fails a thousand times
# make check  format, lint, types, architecture, dependencies and their licences
# make audit  known weaknesses of the dependencies (asks the network)
# make images build the images that stages run in (needs a Docker Engine)
# make up     Prefect's server and workers on this machine, every night at 02:00; make down ends them
# make status what runs, what runs next, how the last run ended
# make bench  the benchmarks (BENCH_DATA=path/to/data.yaml adds those on real pictures)
# make lock   write the locks anew from pyproject.toml

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

DATA ?= sample
STORE ?= store
ifeq ($(DATA),sample)
NAME ?= demo
BUCKET ?= bucket
EPOCHS ?= 70
IMAGE_SIZE ?= 160
HYP ?= quick
else
EPOCHS ?= 100
IMAGE_SIZE ?= 640
HYP ?= scratch-low
endif
# anything else the command knows, as in ARGS="--cfg s --weights yolov5s.pt --device 0"
ARGS ?=

.PHONY: run images up down status test kill-matrix check audit bench lock clean

run: $(VENV)/.runtime
	$(BIN)/yolov5-retrain --data "$(DATA)" --store "$(STORE)" --epochs $(EPOCHS) \
		--image-size $(IMAGE_SIZE) --hyp "$(HYP)" $(if $(NAME),--name "$(NAME)") \
		$(if $(BUCKET),--bucket "$(BUCKET)") $(ARGS)

# IMAGE_ARGS="--build-arg BASE=..." another base image, CUDA=1 torch with its CUDA libraries,
# TORCH_INDEX=... where pip shall find another build of torch
IMAGE_ARGS ?=
images:
	set -e; for target in emulator cpu train; do \
		docker build --network host --file containers/Dockerfile --target $$target \
			--tag yolov5-retrain:$$target --build-arg VERSION=$(VERSION) \
			--build-arg REVISION=$(REVISION) $(IMAGE_ARGS) .; done
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)

# settings of the server (docs/server.md) may stand in a file .env
up down status: $(VENV)/.runtime
	@set -a; test ! -f .env || . ./.env; $(BIN)/python -m flows.server $@

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m "not gpu and not bench and not kill_matrix"

kill-matrix: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m kill_matrix tests/end_to_end

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py tests/test_dependencies.py \
		tests/test_licences.py

# known weaknesses of what is locked: asks a data base in the network, so it is no part of check
audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet pip-audit
	build/audit/bin/pip-audit --no-deps --disable-pip -r requirements.lock -r requirements-dev.lock

BENCH_DATA ?=
# trained checkpoints, to compare exported models with: BENCH_WEIGHTS="n.pt s.pt"
BENCH_WEIGHTS ?=
BENCH_PICTURES ?= 100000
bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.prepare --pictures $(BENCH_PICTURES)
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.transfers
	$(BIN)/python -m benchmarks.evolution
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.epoch
	$(BIN)/python -m benchmarks.checkpoint
	$(BIN)/python -m benchmarks.gpu
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.evaluation_speed --scale
ifneq ($(BENCH_DATA),)
	$(BIN)/python -m benchmarks.loader --data "$(BENCH_DATA)"
	$(BIN)/python -m benchmarks.faults --data "$(BENCH_DATA)"
	$(BIN)/python -m benchmarks.real_data --data "$(BENCH_DATA)"
ifneq ($(BENCH_WEIGHTS),)
	$(BIN)/python -m benchmarks.export_parity --data "$(BENCH_DATA)" --weights $(BENCH_WEIGHTS)
endif
endif

# Exact versions without their dependencies: the lock holds the whole closure, and a plain install
# of torch on Linux would add gigabytes of CUDA packages. CUDA=1 asks for them.
$(VENV)/.runtime: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV), a minute or two ..."
	$(PIP) install --no-deps -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
ifdef CUDA
	$(PIP) install torch==2.13.0
endif
	@$(BIN)/python -c 'import torch' || { echo "this is torch's CUDA build, without its libraries:" \
		"make run CUDA=1 installs them; on a machine without a GPU install torch's CPU build" \
		"(see pytorch.org) into $(VENV) instead"; exit 1; }
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	$(PIP) install --no-deps -r requirements-dev.lock
	@touch $@

lock:
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/python -m pip install --quiet .
	build/lock/bin/python -m pip freeze --all --exclude pip --exclude yolov5-retrain | \
		sed 's/+cpu$$//' > requirements.lock
	build/lock/bin/python -m pip install --quiet '.[dev]'
	build/lock/bin/python -m pip freeze --all --exclude pip --exclude yolov5-retrain | \
		sed 's/+cpu$$//' | grep -vxFf requirements.lock > requirements-dev.lock

clean:
	rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
