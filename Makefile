# `make demo` and `make test` do all the set-up themselves; a set-up that is already done costs nothing.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DEMO ?= demo

.PHONY: demo test lint setup compiler training clean

demo: $(VENV)/.everything  ## the whole path on small real pixels, a report at the end
	$(BIN)/mmdiff demo $(DEMO)

test: $(VENV)/.compiler  ## the whole suite
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests

lint: $(VENV)/.everything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck -x tpu_scripts/*.sh

compiler: $(VENV)/.compiler  ## libtpu: `mmdiff compile` says without a TPU what fits on one

setup: $(VENV)/.everything  ## about 7 GB, most of it torch's libraries for the detectors

training: $(VENV)/.training  ## about 1.5 GB: everything but preprocessing and the demo

# The stamps are newer than the files that say what to install exactly when nothing is left to do.
$(VENV)/.everything: setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[preprocess,beam,dev]'
	@touch $@ $(VENV)/.training

# Apart, because JAX says a few lines at every start where libtpu is and a TPU is not.
$(VENV)/.compiler: $(VENV)/.everything
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[tpu]'
	@touch $@

$(VENV)/.training: setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'mmdiff needs Python 3.11 or newer: make PYTHON=python3.12 ...'; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .cache
