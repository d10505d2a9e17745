# make serve   train on real images, export, verify, and answer on http://localhost:3000
# make test    the tests that run all day          make test-slow   conversion, servers, the whole road
# make check   formatting, lint, types             make clean       forget the environment, the run and the bundle

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# the first interpreter of these that starts and is new enough; PYTHON=... chooses another
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/digits
PORT ?= 3000
# digits in under three minutes on two cores; the pilot that chose this is in benchmarks/README.md
RECIPE := --data digits --objective sla-sd --transformations rotation --backbone resnet8 --epochs 30 --batch-size 32
# with pip's own progress bars where somebody watches
PIP := $(BIN)/python -m pip install --disable-pip-version-check $$([ -t 2 ] || echo --quiet) --constraint constraints.txt

.PHONY: help serve test test-slow test-serving test-lowest check format clean

help:
	@sed -n 's/^# //p' Makefile | head -3

serve: bundle/manifest.json
	@echo "== serving bundle/ on port $(PORT)"
	@$(BIN)/viewfold serve bundle --port $(PORT)

bundle/manifest.json: $(RUN)/result.json
	@echo "== exporting $(RUN) to ONNX and verifying it (about 20 seconds)"
	@$(BIN)/viewfold export $(RUN) bundle --name digits --overwrite

# an interrupted run is continued, not begun again
$(RUN)/result.json: | $(VENV)/.export
	@echo "== training on scikit-learn's digits (about 2 minutes on 2 cores)"
	@if [ -f $(RUN)/SHA256SUMS ]; then $(BIN)/viewfold train --resume $(RUN); \
	else $(BIN)/viewfold train $(RECIPE) --out $(RUN); fi

# a process for each processor, and a thread for each process: threads of several processes hold each other up
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

# the bare install, in an environment of its own: it serves, and holds no torch
test-serving: $(VENV)-serving/bin/python
	$(VENV)-serving/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt \
		--editable . httpx httpx2 onnx pytest
	! $(VENV)-serving/bin/python -c 'import torch' 2>/dev/null
	$(VENV)-serving/bin/python -m pytest -m "not slow" tests/serving
	$(VENV)-serving/bin/python -m pytest tests/serving/test_{server,embed_server,protocol_clients,repository_end,stopping}.py

# the oldest versions that pyproject.toml admits, in an environment of their own
test-lowest: $(VENV)-lowest/bin/python
	$(VENV)-lowest/bin/python .ci/lowest.py > $(VENV)-lowest/constraints.txt
	$(VENV)-lowest/bin/python -m pip install --disable-pip-version-check --quiet \
		--constraint $(VENV)-lowest/constraints.txt --editable '.[dev]'
	$(VENV)-lowest/bin/python -m pytest -m "not slow"

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/bin/python $(VENV)-serving/bin/python $(VENV)-lowest/bin/python:
	@[ -n "$(PYTHON)" ] || { echo "viewfold needs Python 3.11 or newer; none was found. Name one: make PYTHON=/path/to/python3.12"; exit 2; }
	@echo "== creating $(@D:/bin=) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(@D:/bin=) || \
		{ echo "no venv module: on Debian and Ubuntu, apt-get install python3-venv"; rm -rf $(@D:/bin=); exit 2; }

# one stamp an extra; the larger one contains the smaller
$(VENV)/.export: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "== installing torch, onnx, onnxruntime and bentoml (about 2 minutes, 7 GB)"
	@start=$$SECONDS; $(PIP) --editable '.[export]'; echo "   installed in $$((SECONDS - start)) s"
	@touch $@

$(VENV)/.dev: $(VENV)/.export
	@echo "== installing what the tests need"
	@start=$$SECONDS; $(PIP) --editable '.[dev]'; echo "   installed in $$((SECONDS - start)) s"
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-serving $(VENV)-lowest $(RUN) bundle build *.egg-info
