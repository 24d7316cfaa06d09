# gpufleet's commands. `make help` lists them; every target explains itself after its double hash.

# Any Python 3.11 or newer that can make virtual environments; `make PYTHON=/path/to/python3.12 …` names one.
PYTHONS = python3 python3.13 python3.12 python3.11
FITS = import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in $(PYTHONS); do $$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)

RUN = .venv/bin/python
DEV = .venv-dev/bin/python
# Management commands that look at a database get one of their own for as long as they run.
WITH_SERVERS = $(DEV) -m gpufleet.embedded run --
# Two cores are the smallest machine that we test on; `make test WORKERS=8` uses more.
WORKERS ?= 2
# `make test TESTS="jobs -k placement"` runs a part.
TESTS ?=
# `make reconcile SEED=7 TENANT_MONTHS=400` lives through other worlds, or fewer.
SEED ?= 1
TENANT_MONTHS ?= 10000

# What an installation behind TLS sets. The address leads nowhere: `check` opens no connection.
PRODUCTION = SECRET_KEY=$$($(DEV) -c 'import secrets; print(secrets.token_urlsafe(64))') \
	DATABASE_URL=postgres://nobody@127.0.0.1:9/none HTTPS_ONLY=1 ALLOWED_HOSTS=gpufleet.example

.DEFAULT_GOAL := help
.PHONY: help up reset test lint screenshots seed-large bench-console bench-leakage bench-scheduler bench-submit bench-ingest bench-ingest-sustained bench-series bench-alerts reconcile replay format coverage manage install install-dev python

help:  ## Show what there is
	@echo "gpufleet: the control plane of a GPU cloud. Start with \`make up\`."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Variables of \`make up\`: PORT (8000), HOST (127.0.0.1), DEMO=0 (no demo fleet), GPUFLEET_STATE (its folder),"
	@echo "DATABASE_URL and REDIS_URL (servers to use instead of its own). The others are in .env.example."

up: install  ## Start everything and print where it is; Ctrl-C stops it
	@$(RUN) -m gpufleet.up

reset: install  ## Empty the state folder: database, keys, logs
	@$(RUN) -m gpufleet.up reset

manage: install  ## Run a management command on what `make up` runs: make manage CMD="changepassword operator"
	@$(RUN) -m gpufleet.up run -- $(RUN) manage.py $(CMD)

test: install-dev  ## Run all tests, on a PostgreSQL and a Valkey of their own
	@$(DEV) -m pytest -n $(WORKERS) --dist loadgroup -q -rfEs $(TESTS)

coverage: install-dev  ## Run all tests and show which lines they do not reach
	@$(DEV) -m pytest -n $(WORKERS) --dist loadgroup -q --cov --cov-report=term-missing:skip-covered $(TESTS)

lint: install-dev  ## Style, types, import rules, migrations, deployment settings, API schema
	@echo "ruff";             $(DEV) -m ruff check --quiet .
	@echo "ruff format";      $(DEV) -m ruff format --quiet --check .
	@echo "import rules";     .venv-dev/bin/lint-imports --no-logo
	@echo "agent's imports";  cd agent && ../.venv-dev/bin/lint-imports --no-logo
	@echo "mypy --strict";    $(WITH_SERVERS) $(DEV) -m mypy .
	@echo "migrations";       $(WITH_SERVERS) $(DEV) manage.py makemigrations --check --dry-run
	@echo "check --deploy";   $(PRODUCTION) $(DEV) manage.py check --deploy --fail-level WARNING
	@echo "API schema";       $(WITH_SERVERS) $(DEV) manage.py spectacular --validate --fail-on-warn --file /dev/null
	@echo "Everything is in order."

bench-leakage: install-dev  ## Time the leakage report of 90 days over 10,000 GPUs and a million allocations
	@$(WITH_SERVERS) $(DEV) -m benchmarks.bench_leakage

# All of the scheduler's benchmark, or with SCALE=0.1 a tenth of it.
SCALE ?= 1
bench-scheduler: install-dev  ## Time the scheduler's cycles at 10,000 and 100,000 GPUs with 100,000 queued jobs
	@$(WITH_SERVERS) $(DEV) -m benchmarks.bench_scheduler --scale $(SCALE)

bench-submit: install-dev  ## Time submissions with 100,000 queued jobs, beside select_for_update, SUM and create
	@$(WITH_SERVERS) $(DEV) -m benchmarks.bench_submit

reconcile: install-dev  ## Compare 10,000 simulated tenant-months of billing with an oracle, to the cent
	@$(WITH_SERVERS) $(DEV) -m benchmarks.reconcile --seed $(SEED) --tenant-months $(TENANT_MONTHS) --workers $(WORKERS)

# `make replay TRACE=folder EVERY=100 SPEED=2 PODS=pods_gpuspec33.csv PLOT=replay.svg`
PODS ?= pods.csv
SPEED ?= 1
EVERY ?= 1
PLOT ?= replay.svg
replay: install-dev  ## Replay a published trace through the real services: make replay TRACE=folder
	@test -n "$(TRACE)" || { echo "error: name the trace's folder: make replay TRACE=folder" >&2; exit 1; }
	@$(WITH_SERVERS) sh -c '$(DEV) manage.py migrate -v 0 && \
	  $(DEV) manage.py replay --nodes "$(TRACE)/nodes.csv" --pods "$(TRACE)/$(PODS)" --speed $(SPEED) --every $(EVERY) --plot "$(PLOT)"'

bench-ingest: install-dev  ## Samples a second over HTTP, beside a bare COPY, a plain serializer and VictoriaMetrics
	@$(WITH_SERVERS) $(DEV) -m benchmarks.bench_ingest

bench-ingest-sustained: install-dev  ## Ten minutes of metric batches, with the checkpoints and vacuum of the time
	@$(WITH_SERVERS) $(DEV) -m benchmarks.bench_ingest --sustained 10

bench-series: install-dev  ## Time the reads of metrics of 10,000 GPUs: an hour, 90 days, the fleet
	@$(WITH_SERVERS) $(DEV) -m benchmarks.bench_series

bench-alerts: install-dev  ## Time an evaluation of 1,000 alert rules over 10,000 GPUs
	@$(WITH_SERVERS) $(DEV) -m benchmarks.bench_alerts

seed-large: install  ## Fill the empty database of `DEMO=0 make up` with 10,000 GPUs, 100,000 jobs, 90 days
	@$(RUN) -m gpufleet.up run -- $(RUN) manage.py seed_large

bench-console: install-dev  ## Time each page of the console over 10,000 GPUs, 100,000 jobs and 90 days
	@$(WITH_SERVERS) $(DEV) -m benchmarks.bench_console

screenshots: install-dev  ## Photograph the console of the demo that `make up` runs: PASSWORD=… make screenshots
	@$(DEV) -m benchmarks.screenshots

format: install-dev  ## Let ruff put imports and layout in order
	@$(DEV) -m ruff check --fix --quiet . ; $(DEV) -m ruff format .

install: python  ## Make .venv from requirements.txt (make up does it)
	@$(PYTHON) -m gpufleet.install .venv requirements.txt

install-dev: python  ## Make .venv-dev from requirements-dev.txt (make test does it)
	@$(PYTHON) -m gpufleet.install .venv-dev requirements-dev.txt

python:
	@$(or $(PYTHON),false) -c '$(FITS)' 2>/dev/null || { \
	  echo "error: gpufleet needs Python 3.11 or newer with its modules venv and ensurepip. Found:" >&2; \
	  for p in $(or $(PYTHON),$(PYTHONS)); do $$p -c 'import sys; v = sys.version_info; print("  %s: Python %d.%d" % (sys.executable, v[0], v[1]))' 2>/dev/null && \
	    { $$p -c 'import ensurepip, venv' 2>/dev/null || echo "    without venv or ensurepip (Debian and Ubuntu: apt-get install python3-venv)"; }; done >&2; \
	  echo "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
