# The two commands of the README, and what a developer needs besides.
#
#   make demo    environment, synthetic data, training, scores and pictures: minutes on two cores
#   make test    the same environment, then the tests
#
# `make test-fast` runs the quick ones of them, in some three minutes on two cores.
# Besides: `make demo-video`, a demo on tracklets; `make parity`, the tests that lay our numbers beside
# those of PyTorch, which it installs; `make pose`, joints found by BlazePose, which it installs, too;
# `make trackers`, an exported network in BoxMOT and Ultralytics, which it installs (6 GB of disk);
# `make browser`, the pages in Chromium, which has to be there with its driver (Debian: chromium,
# chromium-driver); `make docs`, the documentation into build/docs, and its examples; `make schema`,
# Kubernetes's own schema on launch/kubernetes.yaml; and
#
#   make gpu PYTHON=python3.12 VENV=.venvgpu    the examination on a GPU, at tiny sizes on the CPU
#   make lint    formatting, style and types
#   make bench   the figures of benchmarks/RESULTS.md that need no accelerator

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
# What else pytest is told, as in PYTEST='-m "not slow"'.
PYTEST ?=
READY := $(VENV)/.ready
# Tests that have an environment of their own, or need more than Python.
OWN := parity pose trackers browser
SLOW := $(addprefix tests/,$(OWN) models backbones benchmarks test_launch.py test_distributed.py \
	test_survival.py test_package.py test_export.py test_main.py test_train.py test_video.py test_tables.py)

.PHONY: demo demo-video test test-fast parity pose trackers browser docs schema gpu lint bench clean

demo:
	@started=$$(date +%s) && $(MAKE) --no-print-directory $(READY) && \
		$(BIN)/python -m jaxreid.demo --started=$$started

demo-video:
	@started=$$(date +%s) && $(MAKE) --no-print-directory $(READY) && \
		$(BIN)/python -m jaxreid.demo --video --started=$$started

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist=worksteal $(OWN:%=--ignore=tests/%) $(PYTEST)

# Without the folders and files that take longest, and without what is marked slow.
test-fast: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist=worksteal -m "not slow" $(SLOW:%=--ignore=%) $(PYTEST)

parity: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pytest -n $(WORKERS) --dist=worksteal tests/parity

# BlazePose has an environment of its own.
pose: $(READY)
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venvpose
	$(BIN)/uv pip install --quiet --python .venvpose/bin/python mediapipe==0.10.21
	JAXREID_POSE_PYTHON=.venvpose/bin/python $(BIN)/python -m pytest tests/pose

# They have one, too: BoxMOT takes one ONNX Runtime alone.
trackers: $(READY)
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venvtrackers
	$(BIN)/uv pip install --quiet --python .venvtrackers/bin/python boxmot==25.0.0 ultralytics==8.4.190 \
		onnx==1.23.2 onnxruntime==1.24.3
	JAXREID_TRACKERS_PYTHON=.venvtrackers/bin/python $(BIN)/python -m pytest tests/trackers

browser: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check selenium==4.51.0
	$(BIN)/python -m pytest tests/browser

docs: $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs build/docs
	$(BIN)/python -m sphinx -W -q -b doctest docs build/doctest

# In an environment of its own: what it needs holds TensorFlow back.
schema: $(READY)
	$(BIN)/uvx --quiet kubernetes-validate --strict launch/kubernetes.yaml

# The examination on a GPU, at tiny sizes and on the stack of a GPU machine without TensorFlow.
gpu:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c benchmarks/gpu/constraints.txt -e . pytest
	JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.gpu --tiny --minutes=20 --out=build/gpu

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.pipeline
	$(BIN)/python -m benchmarks.pipeline --video
	$(BIN)/python -m benchmarks.ranking
	$(BIN)/python -m benchmarks.reranking
	$(BIN)/python -m benchmarks.dual_attention
	$(BIN)/python -m benchmarks.search

# uv installs about three times faster than pip; where it cannot (an index that only pip knows),
# pip does. constraints.txt pins what the tests passed with.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[data,test,lint]' || \
		$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[data,test,lint]'
	@touch $@

clean:
	rm -rf .venv .venv311 .venv312 .venv313 .venvgpu .venvpose .venvtrackers runs/demo runs/demo_video runs/synthetic runs/synthetic_video
