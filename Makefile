# The two commands: `make run` and `make test`. Each does its own set-up, once; the stamp files say it is done.

PYTHON ?= python3
VENV   ?= .venv
PEERS_VENV ?= .venv-peers
PIP     = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: run test system kills lint types docs bench lock format clean help

help:  ## what there is to make
	@sed -n 's/^\([a-z]*\):.*##/make \1 \t/p' $(MAKEFILE_LIST)

run: $(VENV)/run  ## the server on http://localhost:8000
	$(VENV)/bin/python -m server $(ARGS)

test: $(VENV)/dev  ## the whole test suite, but for what `system` tests
	$(VENV)/bin/python -m pytest -n auto -m "not system" $(ARGS)

system: $(VENV)/dev  ## with nginx, Chromium and Redis, which have to be installed
	$(VENV)/bin/python -m pytest -n auto -m system $(ARGS)

kills: $(VENV)/dev  ## kill -9 of servers, workers and stores, 200 times each (ARGS="--kills 20 --store redis")
	$(VENV)/bin/python -m tests.kills $(ARGS)

lint: $(VENV)/dev  ## style and likely bugs
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/dev  ## mypy, strict
	$(VENV)/bin/mypy strategies upstream server tests benchmarks

docs: $(VENV)/dev  ## the documentation into docs/_build/html
	$(VENV)/bin/sphinx-build -W --keep-going -q -b html docs docs/_build/html

bench: $(VENV)/run $(PEERS_VENV)/peers  ## CPU, goodput and overload against Go, aiohttp and FastAPI (ARGS=--quick)
	PEERS_VENV=$(PEERS_VENV) $(VENV)/bin/python -m benchmarks $(ARGS)

format: $(VENV)/dev  ## rewrite the code in the house's form
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

lock: $(VENV)/lock  ## requirements*.in -> requirements*.txt, pinned with hashes
	$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
		requirements.in -o requirements.txt
	$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
		requirements-dev.in -o requirements-dev.txt
	$(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
		benchmarks/peers/requirements.in -o benchmarks/peers/requirements.txt

clean:  ## forget the virtual environment and what was built
	rm -rf $(VENV) $(PEERS_VENV) docs/_build .tox benchmarks/.cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run: requirements.txt | $(VENV)/bin/python
	$(PIP) install --require-hashes -r requirements.txt
	@touch $@

$(VENV)/dev: requirements-dev.txt $(VENV)/run
	$(PIP) install --require-hashes -r requirements-dev.txt
	@touch $@

$(PEERS_VENV)/peers: benchmarks/peers/requirements.txt
	test -x $(PEERS_VENV)/bin/python || $(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r $<
	@touch $@

$(VENV)/lock: | $(VENV)/bin/python
	$(PIP) install uv
	@touch $@
