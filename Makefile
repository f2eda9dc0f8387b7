# One word for each task, the same by hand and in CI.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
BIN := .venv/bin
# The interpreter and the tools of the environment, wherever the caller's shell points.
export VIRTUAL_ENV := $(CURDIR)/.venv
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Tests start a thousand interpreters; without byte code each compiles Weirgate anew.
unexport PYTHONDONTWRITEBYTECODE

CRATES := weirgate-shared weirgate-edge weirgate-appgw
CRATE_DIRS := shared/dataplane edge/dataplane appgw/dataplane shared/native
RUST := $(shell find $(CRATE_DIRS) -name '*.rs' -o -name 'Cargo.toml') Cargo.toml Cargo.lock
SHIPPED := $(shell find edge appgw shared python -name '*.py')
PYTHON_DIRS := edge appgw shared tests benchmarks loadtests scripts deploy
PYTEST_ARGS ?=
# 1 = run what failed once more, when all else is done (CI).
RETRY_FAILED ?=
# Of the images; empty = python:3.12-slim-bookworm where it can be had, else one of our own.
BASE ?=
# Of compose-demo and drill: apart = edge and gateways relay, shared = the edge hands sockets over.
FORM ?= apart
# load = Locust with its own page, observe = Prometheus and Grafana.
PROFILE ?=
LOADTEST ?=
# Empty = the fixed runs of CI; a number = look for something new for so many seconds a target.
FUZZ_SECONDS ?=

.PHONY: help setup demo test check build base-image image compose-demo compose-down drill loadtest bench docs lock clean fuzz-smoke

help: ## list the words
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/.system .venv/.native ## make the environment and build Weirgate into it

.venv/.python: requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	touch $@

.venv/.native: .venv/.python pyproject.toml $(RUST)
	$(BIN)/maturin develop --release --locked
	touch $@

.venv/.system: scripts/system_packages.sh | .venv/.python
	scripts/system_packages.sh
	touch $@

demo: setup ## run a node with small applications behind it
	$(BIN)/weirgate demo

test: setup ## all tests, with coverage of the Python side, child processes included
	cargo test --locked --release $(addprefix -p ,$(CRATES))
	RETRY_FAILED=$(RETRY_FAILED) scripts/run_tests.sh $(PYTEST_ARGS)
	$(MAKE) fuzz-smoke

fuzz-smoke: setup ## every fuzz target on its corpus and some more
	fuzz/smoke $(FUZZ_SECONDS)

check: setup ## format, lint, types, borders between packages, licences
	$(BIN)/ruff check $(PYTHON_DIRS)
	$(BIN)/ruff format --check $(PYTHON_DIRS)
	$(BIN)/mypy -p weirgate -p tests -p benchmarks -p loadtests -p scripts
	$(BIN)/mypy deploy/compose/applications/*.py
	$(BIN)/stubtest --mypy-config-file pyproject.toml weirgate._native
	$(BIN)/lint-imports
	cargo fmt --all --check
	cargo clippy --locked --release --all-targets -- -D warnings
	$(BIN)/python -m scripts.check_licences

build: build/wheels/.built ## the wheel, in build/wheels

build/wheels/.built: .venv/.python pyproject.toml $(RUST) $(SHIPPED)
	rm -f build/wheels/*.whl
	$(BIN)/maturin build --release --locked --out build/wheels
	touch $@

base-image: setup ## a base for the images, where no registry has one (as root)
	$(BIN)/python -m scripts.image base

image: setup build ## the container image weirgate:latest; BASE=… chooses another base
	$(BIN)/python -m scripts.image $(if $(BASE),--base $(BASE)) weirgate

compose-demo: setup build ## the tiers and applications in containers; FORM=shared: with shared sockets
	$(BIN)/python -m scripts.compose up --form $(FORM) $(if $(PROFILE),--profile $(PROFILE))

compose-down: setup ## remove the containers, networks and volumes of compose-demo
	for form in apart shared; do $(BIN)/python -m scripts.compose down --form $$form; done

drill: setup build ## break parts of compose-demo under load: build/drill/report.html
	$(BIN)/python -m loadtests.drills --form $(FORM)

loadtest: setup ## Locust against a node of its own, or LOADTEST="--target compose …": build/loadtest/report.html
	$(BIN)/python -m loadtests $(LOADTEST)

bench: setup ## measure against HAProxy, nginx and Envoy
	$(BIN)/python -m benchmarks

docs: setup ## write the generated pages anew
	$(BIN)/python -m weirgate.shared.config.reference
	$(BIN)/python -m weirgate.shared.observability.reasons
	$(BIN)/python -m tests.migrating.page

lock: ## write requirements.lock anew, with the newest versions that fit
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet pip-tools
	build/lock/bin/python scripts/list_requirements.py > build/lock/requirements.in
	build/lock/bin/pip-compile --quiet --upgrade --strip-extras --generate-hashes --no-header \
	  --no-annotate --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	  --output-file build/lock/requirements.txt build/lock/requirements.in
	{ head -1 requirements.lock; cat build/lock/requirements.txt; } > build/lock/new
	mv build/lock/new requirements.lock

clean: ## remove what was built; the environment stays
	rm -rf build dist target fuzz/target .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache
	rm -f python/weirgate/_native*.so .venv/.native
	find $(PYTHON_DIRS) python -name __pycache__ -type d -prune -exec rm -rf {} +
