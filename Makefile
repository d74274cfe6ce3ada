# Every target sets up what it needs first, in .venv; with nothing missing that costs 0.3 s.
# PYTHON chooses the interpreter, ARGS is handed on: make test PYTHON=python3.12 ARGS="-k graph"
PYTHON ?= python3
PY := .venv/bin/python

# Tests that run at the same time. More than there are cores: most tests wait for a process.
JOBS ?= 4

# Node and Go are linked into .venv where the distribution's own are too old.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# Tests start Python some thousand times: without its caches, which images of Docker like to turn
# off, each start compiles all of Emit and each process of xdist all tests, for a third of the time.
unexport PYTHONDONTWRITEBYTECODE

.NOTPARALLEL:
.PHONY: help setup demo demo-celery test quick check format lint types bench chaos docs examples conformance dist try-dist

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile

setup: ## Make .venv and install what is missing: dependencies, Ruby, Node, Go, Redis, RabbitMQ, Graphviz
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	  { echo "Emit needs Python 3.10 or newer; choose one with PYTHON=. $(PYTHON) says: $$($(PYTHON) -V 2>&1)" >&2; exit 1; }
	@$(PYTHON) -m scripts.setup

demo: setup ## Run the graph of examples/polyglot
	@$(PY) examples/polyglot/graph.py $(ARGS)
	@$(PY) -m scripts.tools

demo-celery: setup ## Count words through a Celery worker: without a server, and by Redis
	@$(PY) examples/celery/demo.py
	@if [ -n "$$REDIS_URL" ] || command -v redis-server >/dev/null; then \
	  . examples/redis.sh && $(PY) examples/celery/demo.py "$$REDIS_URL"; fi

test: setup ## Run every test: of the Ruby, Node and Go SDKs, then of Python
	@$(PY) -m scripts.languages test
	@$(PY) -m pytest -n $(JOBS) --dist worksteal --durations=10 $(ARGS)
	@$(PY) -m scripts.tools

quick: setup ## Run what is pure, and one program of each language: in a minute
	@$(PY) -m pytest -n 2 --dist worksteal --durations=5 -m "quick or not slow" $(ARGS)
	@$(PY) -m scripts.tools

chaos: setup ## Run the tests of faults with ten times as many messages, kills and interrupts
	@EMIT_CHAOS=1 $(PY) -m pytest -o faulthandler_timeout=1800 tests/faults tests/test_codec.py tests/test_session.py tests/test_values_sdks.py $(ARGS)

conformance: setup ## Test every SDK against all of the protocol, in both codecs
	@$(PY) -m scripts.conformance
	@$(PY) -m scripts.tools

check: lint types test ## All that CI runs

format: setup ## Format the Python and Go code, and mend what the linter can
	@$(PY) -m ruff check --fix --quiet . ; $(PY) -m ruff format .
	@if command -v gofmt >/dev/null; then gofmt -l -w $$(find sdks runtimes examples -name "*.go" -not -path "*/template/*"); fi

lint: setup ## Check style and shape: ruff, ruby -wc, node --check, gofmt, go vet, scripts.figures
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m scripts.languages lint
	@$(PY) -m scripts.figures

types: setup ## Check types: mypy --strict
	@$(PY) -m mypy

bench: setup ## Measure every figure of the documentation
	@$(PY) -m benchmarks $(ARGS)

docs: setup ## Build the pages of docs/, warnings being errors: build/docs/index.html
	@$(PY) -m sphinx -W --keep-going -q -b html docs build/docs

dist: setup ## Build what a release publishes, into dist/: wheels, source distributions, gem, npm package
	@$(PY) -m scripts.dist

try-dist: setup ## Build it, and run a graph of four languages where it is installed, with each Python at hand
	@$(PY) -m scripts.dist try

examples: setup ## Run every example
	@set -e; for run in $(wildcard examples/*/run); do echo "== $$run"; $$run; done
	@$(PY) -m scripts.tools
