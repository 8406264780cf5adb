# What there is to do with Paperboy. `make` alone tells.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 3
# The tests start hundreds of commands, and pytest caches the modules that it rewrites.
export PYTHONDONTWRITEBYTECODE :=
PORT ?= 8000
KILLS ?= 300

# The first Python here that is new enough.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
# uv is used where it is; otherwise pip brings it into the environment.
UV = $(or $(shell command -v uv),$(BIN)/uv)
INSTALL = $(UV) pip install --quiet --python $(BIN)/python
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 \
	--no-emit-index-url --generate-hashes --custom-compile-command "make lock"

.PHONY: help
help: ## Tell what there is to do
	@echo "Paperboy: a daily newsletter of research papers. make ..."
	@sed -n 's/^\([a-z-]*\):[^#]*## /  \1\t/p' Makefile | expand -t 14

.PHONY: install
install: $(VENV)/.installed ## Install what running it needs, and no more
	@echo "Paperboy is installed. Next: $(BIN)/paperboy init    (or try it first: make demo)"

.PHONY: demo
demo: $(VENV)/.installed ## Send a few digests to a folder; needs nothing but Python 3.11 or newer
	$(BIN)/paperboy demo

.PHONY: up
up: $(VENV)/.installed ## Run everything in this terminal: site, workers and a mailbox (PORT=8000)
	$(BIN)/paperboy up --port $(PORT)

.PHONY: semantic
semantic: $(VENV)/.installed ## Install what runs a model of meaning (docs/matching.md)
	@$(INSTALL) --require-hashes -r requirements-semantic.txt

.PHONY: test
test: $(VENV)/.installed-dev ## Run the tests that are quick; those of the database on SQLite
	@$(BIN)/python -m compileall -q pipeline
	$(BIN)/python -m pytest -n $(WORKERS) -m "not full" $(ARGS)

.PHONY: test-all
test-all: $(VENV)/.installed-dev ## Run every test, those of the database on SQLite and PostgreSQL
	@$(BIN)/python -m compileall -q pipeline
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

.PHONY: chaos
chaos: $(VENV)/.installed-dev ## Kill senders, ingest, compiling and servers for ten minutes (KILLS=300 SEED=...)
	$(BIN)/python -m tests.chaos --kills $(KILLS) $(if $(SEED),--seed $(SEED))

.PHONY: mutants
mutants: $(VENV)/.installed-dev ## Change the code and see whether a test fails (MODULES=... SAMPLE=5)
	$(BIN)/python -m tests.mutants $(MODULES) --sample $(or $(SAMPLE),5) $(if $(SEED),--seed $(SEED))

.PHONY: check
check: lint locks test-all ## Everything that must hold before a change is merged

.PHONY: lint
lint: $(VENV)/.installed-dev ## Look for mistakes without running anything
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(VENV)/.installed-dev ## Put the code into its usual form
	$(BIN)/ruff check --fix --select I
	$(BIN)/ruff format

.PHONY: bench
bench: $(VENV)/.installed-dev ## Measure sending, matching and the site
	$(BIN)/paperboy bench send
	$(BIN)/paperboy bench match
	$(BIN)/paperboy bench web

.PHONY: quality
quality: $(VENV)/.installed-dev ## Score matching on labelled sets (SETS="folder ...")
	$(BIN)/paperboy bench quality $(SETS)

.PHONY: migration
migration: export DATABASE_URL := sqlite:///var/draft.db
migration: export PATH := $(CURDIR)/$(BIN):$(PATH)
migration: $(VENV)/.installed-dev ## Draft a migration from the schema: make migration M="Add a column"
	@test -n "$(M)" || { echo 'Say what it does: make migration M="Add a column"'; exit 1; }
	@mkdir -p var && rm -f var/draft.db
	@paperboy db upgrade
	@alembic revision --autogenerate -m "$(M)"

.PHONY: reference
reference: $(VENV)/.installed-dev ## Generate the pages of settings, commands and tables in docs/
	$(BIN)/python -m tests.reference

.PHONY: messages
messages: $(VENV)/.installed-dev ## Extract the text of pages and mails, and compile its translations
	$(BIN)/pybabel -q extract -F pyproject.toml -k gettext_noop --add-location=file --sort-by-file \
		--no-wrap --omit-header -o pipeline/locale/paperboy.pot .
	$(if $(wildcard pipeline/locale/*/LC_MESSAGES/*.po),$(BIN)/pybabel compile -d pipeline/locale -D paperboy)

.PHONY: lock
lock: $(VENV)/.python ## Choose the versions of all packages again (ARGS=--upgrade for newer ones)
	$(COMPILE) $(ARGS) pyproject.toml --group build -o requirements.txt
	$(COMPILE) $(ARGS) pyproject.toml --group dev -c requirements.txt -o requirements-dev.txt
	$(COMPILE) $(ARGS) pyproject.toml --extra semantic -c requirements.txt -o requirements-semantic.txt

.PHONY: locks
locks: $(VENV)/.python ## Check that the lock files say what pyproject.toml asks for
	@mkdir -p var && cp requirements.txt requirements-dev.txt requirements-semantic.txt var/
	@$(COMPILE) pyproject.toml --group build -o var/requirements.txt
	@$(COMPILE) pyproject.toml --group dev -c requirements.txt -o var/requirements-dev.txt
	@$(COMPILE) pyproject.toml --extra semantic -c requirements.txt -o var/requirements-semantic.txt
	@diff -I '^ *#' requirements.txt var/requirements.txt \
		&& diff -I '^ *#' requirements-dev.txt var/requirements-dev.txt \
		&& diff -I '^ *#' requirements-semantic.txt var/requirements-semantic.txt \
		|| { echo "The lock files are out of date: run make lock"; exit 1; }

.PHONY: clean
clean: ## Remove what the other commands made
	rm -rf $(VENV) var demo-mail dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# --- The environment, made once and again when the versions change ---

.PHONY: venv
venv: $(VENV)/.installed-dev ## Make the environment in .venv

$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "Paperboy needs Python 3.11 or newer; name one with make PYTHON=..."; exit 1; }
	@if command -v uv >/dev/null; then uv venv --quiet --allow-existing --python $(PYTHON) $(VENV); \
	else $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv; fi
	@touch $@

$(VENV)/.installed: $(VENV)/.python requirements.txt pyproject.toml
	@echo "Installing Paperboy into $(VENV) ..." >&2
	@# Where PYTHONDONTWRITEBYTECODE is set, every command would compile all that it imports.
	@$(INSTALL) --compile-bytecode --require-hashes -r requirements.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	@echo "Installing what the tests need ..." >&2
	@$(INSTALL) --compile-bytecode --require-hashes -r requirements-dev.txt
	@touch $@
