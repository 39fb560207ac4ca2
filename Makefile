# Two commands for a newcomer: `make demo` and `make test`. Each makes its own virtual environment here, in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
export PYTHONPATH := $(CURDIR)/src:$(CURDIR)/examples

.PHONY: demo test check bench docs lock clean help format

help:  ## show the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(VENV)/run: requirements/run.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Ensue needs Python 3.11 or newer; this is %s. Say which: make PYTHON=python3.12 ..." % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/dev: requirements/dev.txt $(VENV)/run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

demo: $(VENV)/run  ## the shop's year through three services; ARGS="--orders 2000 --chaos"
	$(BIN)/python -m shop.demo $(ARGS)

test: $(VENV)/dev  ## all tests
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/dev  ## format, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev  ## let ruff rewrite what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/dev  ## benchmarks, each against a raw limit in the same run; ARGS="pipeline"
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/dev  ## the documentation site, in ./site
	$(BIN)/zensical build

lock: $(VENV)/dev  ## compile requirements/ anew from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --group run pyproject.toml -o requirements/run.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --group dev pyproject.toml -o requirements/dev.txt

clean:  ## remove what was built, and the embedded data in .ensue and .demo
	rm -rf $(VENV) .ensue .demo site .pytest_cache .mypy_cache .ruff_cache .hypothesis
