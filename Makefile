# Two commands for a newcomer: `make demo` and `make test`. Each makes its own virtual environment here, in .venv;
# `make venv` makes it for programs of your own. What makes it speaks on standard error: the demo's --json is JSON alone.
# Wants Python 3.11 or newer; takes the first that is found. Another one: make PYTHON=/path/to/python demo
PYTHON ?= $(shell for each in python3 python3.11 python3.12 python3.13 python3.14; do \
	"$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$each"; exit; }; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS ?=
export PYTHONPATH := $(CURDIR):$(CURDIR)/src:$(CURDIR)/examples
export ENSUE_TEST_SERVERS_DIR ?= $(CURDIR)/.servers
# Thousands of processes are started, each of which would compile all of Ensue first.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help servers venv demo test check format bench bench-peers bench-workflows bench-event-sourced docs floor lock clean

help:  ## show the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

venv: $(VENV)/dev  ## .venv with Ensue and all that the tutorial and the how-to pages use; then: . .venv/bin/activate
	@echo "$(VENV) is ready: . $(BIN)/activate"

servers:  ## PostgreSQL, MariaDB, Redis, NATS, RabbitMQ, Kafka and more, for tests, benchmarks and --stack (apt-get, Maven, Go)
	@servers/install

demo: $(VENV)/$(if $(findstring --stack,$(ARGS)),run,demo)  ## the shop's year through three services; ARGS="--orders 2000 --chaos"
	@$(BIN)/python -m shop.demo $(ARGS)

test: $(VENV)/dev  ## all tests; ARGS="tests/unit -k chain", ARGS="-n 2 --dist loadfile"
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/dev  ## format, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/dev  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev  ## benchmarks, each against a raw limit in the same run; ARGS="pipeline"
	$(BIN)/python -m benchmarks $(ARGS)

bench-peers: $(VENV)/dev .venv-peers/installed  ## Ensue against other libraries on one PostgreSQL and NATS; ARGS="--rounds 1 pgqueuer_jobs"
	$(BIN)/python -m benchmarks.peers $(ARGS)

bench-workflows: $(VENV)/dev .venv-peers/installed  ## sagas against durable workflows of DBOS on one PostgreSQL; ARGS="--rounds 1"
	$(BIN)/python -m benchmarks.peers.workflows $(ARGS)

bench-event-sourced: $(VENV)/dev .venv-peers/installed  ## aggregates against those of eventsourcing on one PostgreSQL; ARGS="--rounds 1"
	$(BIN)/python -m benchmarks.peers.event_sourced $(ARGS)

docs: $(VENV)/dev  ## the documentation site, in ./site
	$(BIN)/zensical build --clean --strict
	@echo "Open site/index.html in a browser"

floor: .venv-floor/installed  ## with the lowest versions that pyproject.toml allows, SQLAlchemy 2.0 among them: SQL stores, pages
	.venv-floor/bin/python -m pytest $(or $(ARGS),$(FLOOR))
	$(if $(ARGS),,.venv-floor/bin/python -m pytest $(FLOOR_OF_USERS))
	$(if $(ARGS),,.venv-floor/bin/python -m pytest $(FLOOR_OF_PAGES))

lock: $(VENV)/dev  ## compile requirements/ anew from pyproject.toml, with hashes and no address of a registry
	$(PIP) install uv
	$(COMPILE_ONLY) requirements/pip.in -o requirements/pip.txt
	$(call COMPILE,demo)
	$(call COMPILE,run)
	$(call COMPILE,dev)
	$(COMPILE_ONLY) --resolution lowest-direct --extra postgres --extra mariadb --extra fastapi --extra pydantic \
		--group floor pyproject.toml -o requirements/floor.txt
	$(COMPILE_ONLY) requirements/peers.in -o requirements/peers.txt

COMPILE_ONLY = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --no-annotate
COMPILE = $(COMPILE_ONLY) --group $(1) pyproject.toml -o requirements/$(1).txt

# Sessions, rows and cancellations: what SQLAlchemy and the drivers are asked for.
FLOOR = tests/unit/stores/test_postgres.py tests/unit/stores/test_mariadb.py tests/unit/stores/test_sqlite.py \
	tests/unit/stores/test_cancelled_statements.py \
	-k "(session or row or cancelled) and not PgBouncer and not moment"
# What users write: declarations, events as pydantic models, routes of FastAPI, entities; and the pages that say how.
FLOOR_OF_USERS = $(addprefix tests/unit/test_,handling.py event.py service.py step.py command.py) \
	tests/unit/integrations/test_problems.py tests/unit/integrations/test_steps_of_dependencies.py \
	tests/unit/stores/test_mapped_features.py -k "not mariadb and not postgres"
FLOOR_OF_PAGES = README.md docs/tutorial.md \
	$(addprefix docs/how-to/,entity-steps.md databases.md idempotent-http.md change-a-service.md commands.md)

clean:  ## remove what was built, and the embedded data in .ensue and .demo
	rm -rf $(VENV) .venv-peers .venv-floor .ensue .demo site build dist .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the virtual environments: `demo` for the demo alone, `run` for its stacks of real servers too, `dev` for everything.
# Nothing is compiled ahead: what is imported is at its first import, and most of it never is. The lock files are whole,
# so nothing is left to resolve.
INSTALL = @$(1)/bin/python -m pip --disable-pip-version-check --quiet install --no-compile --no-deps --require-hashes \
	-r requirements/$(2).txt >&2
define MAKE_VENV
@$(PYTHON) -m venv $(1) >&2
$(call INSTALL,$(1),pip)
endef

$(VENV)/demo: requirements/demo.txt requirements/pip.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Ensue needs Python 3.11 or newer; this is %s. Say which: make PYTHON=python3.12 ..." % sys.version.split()[0])'
	@echo "Making $(VENV); the first time this takes a minute or two" >&2
	$(call MAKE_VENV,$(VENV))
	$(call INSTALL,$(VENV),demo)
	@$(PIP) install --no-deps --no-build-isolation -e . >&2
	@touch $@

$(VENV)/run: requirements/run.txt $(VENV)/demo
	$(call INSTALL,$(VENV),run)
	@touch $@

$(VENV)/dev: requirements/dev.txt $(VENV)/demo
	$(call INSTALL,$(VENV),dev)
	@touch $@

# The peers of the benchmark pin other versions of libraries than ours; Ensue itself is not in there.
.venv-peers/installed: requirements/peers.txt
	$(call MAKE_VENV,.venv-peers)
	$(call INSTALL,.venv-peers,peers)
	@touch $@

.venv-floor/installed: requirements/floor.txt
	$(call MAKE_VENV,.venv-floor)
	$(call INSTALL,.venv-floor,floor)
	@touch $@
