# Every target installs what it needs by itself and says what it is doing.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCHMARKS := ab_validity audit_planted audit_scale checkpoint_stall demo_seeds drift_validity endpoint_throughput engine_throughput faults ray_overhead serve_latency sweep_gain sweep_quality sweep_throughput train_throughput
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup demo cluster-demo loop-demo check test faults docs docs-test bench clean

help:  ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 16

setup: $(READY)  ## create .venv, install, build DeepSpeed's CPU collective

$(READY): pyproject.toml constraints.txt
	@echo "setup: creating $(VENV) and installing (a few minutes the first time) …"
	@$(PYTHON) -c 'import sys; sys.exit("hone needs Python 3.11 or newer; set PYTHON=…" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@$(BIN)/python -m trainers.ops
	@touch $@

demo: setup  ## the main job on real input: data, a base model, training on 2 workers, evaluation, gate, registry
	@began=$$SECONDS; $(BIN)/hone demo $(DEMO); echo "demo: done in $$((SECONDS - began)) s"

cluster-demo: setup  ## a cluster of two nodes on this machine: submit, follow, stop, resume, list
	@$(BIN)/python -m cluster.cluster_demo

loop-demo: setup  ## a release, traffic that changes, drift, feedback, and a child that wins its place
	@began=$$SECONDS; $(BIN)/hone loop-demo $(DEMO); echo "loop-demo: done in $$((SECONDS - began)) s"

check: setup  ## format, lint, types, imports, generated docs, unit tests
	@began=$$SECONDS
	@echo "check: ruff …"; $(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .
	@echo "check: types …"; $(BIN)/basedpyright --level error
	@echo "check: imports …"; $(BIN)/lint-imports --no-logo 2>&1 | tail -n 4
	@echo "check: generated docs …"; $(BIN)/python -m tests.generated_docs --check
	@echo "check: unit tests …"; began=$$SECONDS; $(BIN)/pytest -q tests/unit tests/contracts; echo "check: unit tests took $$((SECONDS - began)) s"

test: check  ## check, then integration tests on a local Ray, and the fast ones that kill things
	@began=$$SECONDS; echo "test: integration …"; \
	$(BIN)/pytest -q tests --ignore=tests/unit --ignore=tests/contracts -m "not slow"; \
	echo "test: integration took $$((SECONDS - began)) s"

faults: setup  ## every test that kills processes, damages files or fills disks
	@began=$$SECONDS; $(BIN)/pytest -q tests/faults $(FAULTS); echo "faults: took $$((SECONDS - began)) s"

docs: setup  ## write the generated reference pages
	@$(BIN)/python -m tests.generated_docs

docs-test: setup  ## run every command of the guides in docs/
	@$(BIN)/python -m tests.docs_commands

bench: setup  ## benchmarks, an hour or more (each prints its own results)
	@$(BIN)/pip install --quiet --quiet -c constraints.txt -e ".[bench]"
	@for name in $(BENCHMARKS); do echo "bench: $$name"; $(BIN)/python benchmarks/$$name.py; done

clean:  ## remove .venv, .hone and caches
	@rm -rf $(VENV) .hone .pytest_cache .ruff_cache .import_linter_cache *.egg-info
