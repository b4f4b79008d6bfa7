# Every target works alone on a machine that has git, make and Python 3.11, nothing else.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# What `make tune` and `make bench` work on.
SHAPE ?= 256x256x256
DTYPE ?= f32
BUDGET ?= 30s
# So many tests run at a time.
JOBS ?= 2
# Continuous integration has no GPU: there the tests must find the software adapter or fail.
ifneq ($(CI),)
export GEMMTUNE_EXPECT_ADAPTER ?= llvmpipe
export GEMMTUNE_EXPECT_BROWSER ?= 1
# Tests start Python hundreds of times, which is to compile the modules once.
unexport PYTHONDONTWRITEBYTECODE
endif
export PYTHON
# Those of a file stay together, but for what a process takes over that has nothing left to do.
PARALLEL := --numprocesses $(JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help tune test test-coop lint format bench wheel clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | sort | expand -t 10

tune: $(VENV)/.adapter ## tune one small problem here and print what lookup now returns
	$(BIN)/gemmtune tune --shape $(SHAPE) --dtype $(DTYPE) --budget $(BUDGET)
	$(BIN)/gemmtune lookup $(SHAPE) --dtype $(DTYPE)

test: lint $(VENV)/.adapter $(VENV)/.postgres $(VENV)/.browser ## lint, then run every test on the adapter here
	$(BIN)/pytest $(PARALLEL) -m 'not alone'
	$(BIN)/pytest -m alone

test-coop: ## run tests/coop on a software adapter with cooperative matrices, made in .coop
	GEMMTUNE_EXPECT_FRAGMENTS=1 GEMMTUNE_EXPECT_ADAPTER=llvmpipe \
		scripts/coop-rootfs.sh run python -m pytest $(PARALLEL) tests/coop

lint: $(VENV)/.installed ## check format, lint rules and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: $(VENV)/.installed ## rewrite the code in the project's format
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format

bench: $(VENV)/.adapter ## time tuned, default and naive kernels side by side (SHAPE=, DTYPE=)
	$(BIN)/gemmtune bench $(SHAPE) --dtype $(DTYPE)

wheel: $(VENV)/.installed ## build the wheel into dist/
	$(BIN)/python -m hatchling build -t wheel

clean: ## delete what was built here, the virtual environment and .coop too
	rm -rf $(VENV) .coop dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Stamps: a second run starts at once unless what they depend on has changed.
$(VENV)/.installed: pyproject.toml scripts/ensure-venv.sh scripts/apt-install.sh
	@scripts/ensure-venv.sh $(VENV)
	@touch $@

$(VENV)/.adapter: $(VENV)/.installed scripts/ensure-vulkan.sh
	@scripts/ensure-vulkan.sh $(BIN)/python
	@touch $@

$(VENV)/.postgres: $(VENV)/.installed scripts/ensure-postgres.sh
	@scripts/ensure-postgres.sh
	@touch $@

$(VENV)/.browser: $(VENV)/.installed scripts/ensure-browser.sh
	@scripts/ensure-browser.sh
	@touch $@
