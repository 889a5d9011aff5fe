# Everything is set up in .venv on first use: Python 3.11, 3.12 or 3.13 and make are enough.
#
#   make test PYTHON=python3.12     with a Python of your choice
#   make test ARGS="-k windows"     ARGS goes to nightload demo, pytest, the soak, the bench, or uv lock
#   make setup UV=                  with pip, though uv is there

PYTHON ?=
UV ?= uv
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready
DOCS := .venv/docs

# Whatever the caller's shell is set to, packages go into .venv and come from the lock.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV
unexport PIP_CONSTRAINT PIP_PREFIX PIP_REQUIRE_HASHES PIP_ROOT PIP_TARGET PIP_USER
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export UV_PROJECT_ENVIRONMENT := .venv
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test soak lint type audit bench look dagster docs lock clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## install the locked dependencies and nightload into .venv
	@echo ".venv is ready: `$(BIN)/python -V`"

demo: $(READY) ## a night against the sandbox vendors, nothing to configure
	@$(BIN)/nightload demo $(ARGS)

test: $(READY) ## run the tests
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY) ## ruff, the package order, and that pyproject.toml, uv.lock and requirements.lock agree
	@$(BIN)/python .ci/locks.py
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache >/dev/null || $(BIN)/lint-imports --no-cache

type: $(READY) ## mypy
	@$(BIN)/mypy

soak: $(READY) ## a year of nights with faults (ARGS="--nights 365 --seed 7 --warehouse postgres")
	@$(BIN)/python tests/soak.py $(ARGS)

audit: $(READY) ## known holes in what is locked (ARGS=--strict: fail where none can be asked)
	@$(BIN)/python .ci/audit.py $(ARGS)

bench: $(READY) ## measure the ways to load, side by side
	@$(BIN)/python -m bench $(ARGS)

look: $(READY) ## photograph the report of a year (needs chromium, or CHROMIUM=/path)
	@$(BIN)/python -m bench.look $(ARGS)

dagster: $(READY) ## Dagster's UI over a home (NIGHTLOAD_HOME, else here; ARGS="--port 3001")
	@$(BIN)/python -m pipelines.scheduling.dagster $(ARGS)

docs: $(DOCS)/.ready ## build the pages of docs/ and the API into site/
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict

$(DOCS)/.ready: $(READY) requirements-docs.lock
	@$(BIN)/python -m venv --clear $(DOCS)
	@$(DOCS)/bin/python -m pip install -qq --no-deps --require-hashes --only-binary :all: -r requirements-docs.lock
	@touch $@

lock: ## write uv.lock and the requirements locks again (needs uv; ARGS=--upgrade takes newer versions)
	@command -v '$(UV)' >/dev/null || { echo "make lock needs uv on the PATH, or UV=/path/to/uv" >&2; exit 1; }
	@'$(UV)' lock $(ARGS)
	@'$(UV)' export --quiet --locked --all-groups --no-group docs --no-emit-project --no-header \
		--format requirements-txt --output-file requirements.lock.new >/dev/null
	@{ echo '# What nightload is tested with, on Python 3.11 to 3.13. Written by "make lock" from uv.lock; do not edit.'; \
		cat requirements.lock.new; } >requirements.lock
	@rm requirements.lock.new
	@'$(UV)' export --quiet --locked --only-group docs --no-emit-project --no-header \
		--format requirements-txt --output-file requirements-docs.lock >/dev/null

clean: ## remove .venv, caches and builds; never your data
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Set up again when the locks are newer, and when .venv was moved here from elsewhere, has lost
# its Python, or is of another Python than the one asked for.
MINOR := import sys; print(sys.version_info[:2])
FRESH := $(shell \
	test "`cat $(READY) 2>/dev/null`" = "`pwd -P`" && \
	has=`$(BIN)/python -SIc '$(MINOR)' 2>/dev/null` && \
	{ test -z '$(PYTHON)' || test "$$has" = "`'$(PYTHON)' -SIc '$(MINOR)' 2>/dev/null`"; } && \
	echo yes)

$(READY): pyproject.toml requirements.lock uv.lock $(if $(FRESH),,FORCE)
	@sh .ci/setup '$(PYTHON)' '$(UV)'
