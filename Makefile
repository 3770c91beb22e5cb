# `make demo` and `make test` do all the set-up themselves; a set-up that is already done costs nothing.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DEMO ?= demo
PYTEST = $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test check lint setup compiler training clean
.NOTPARALLEL:  # one installer at a time in the environment

demo: $(VENV)/.demo  ## the whole path on small real pixels, a report at the end
	$(BIN)/mmdiff demo $(DEMO)

test: $(VENV)/.compiler  ## the whole suite
	$(PYTEST) tests

check: $(VENV)/.everything  ## while working: lint, and the tests of what was changed but for slow ones
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(PYTEST) --quiet -m 'not slow' $$($(BIN)/python tests/changed.py)

lint: $(VENV)/.everything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck -x .ci/install.sh tpu_scripts/*.sh

compiler: $(VENV)/.compiler  ## libtpu: `mmdiff compile` says without a TPU what fits on one

setup: $(VENV)/.everything  ## about 7 GB, most of it torch's libraries for the detectors

training: $(VENV)/.training  ## about 1.5 GB: everything but preprocessing and the demo

$(VENV)/.training: WANTED = .
$(VENV)/.demo: WANTED = .[preprocess]
$(VENV)/.demo: HELD = .training
$(VENV)/.everything: WANTED = .[preprocess,beam,dev]
$(VENV)/.everything: HELD = .training .demo
# Apart, because JAX says a few lines at every start where libtpu is and a TPU is not.
$(VENV)/.compiler: WANTED = .[tpu]
$(VENV)/.compiler: $(VENV)/.everything

# The stamps are newer than the files that say what to install exactly when nothing is left to do.
$(VENV)/.training $(VENV)/.demo $(VENV)/.everything $(VENV)/.compiler: setup.py constraints.txt
	PYTHON='$(PYTHON)' bash .ci/install.sh '$(VENV)' '$(WANTED)'
	@touch $@ $(HELD:%=$(VENV)/%)

clean:
	rm -rf $(VENV) .cache
