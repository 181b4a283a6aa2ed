.DEFAULT_GOAL := help
# The newest that the packages are locked for and that is there; below 3.11 none.
PYTHON ?= $(shell for each in python3.13 python3.12 python3.11 python3; do \
	"$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$each" && break; done)
NEEDED := expected Python 3.11 or newer with its module venv; on Debian and Ubuntu: apt-get install python3-venv
OUT ?= ./sample-out
OLDEST ?= python3.11
PIPENV_VERSION := 2026.10.3
PIPENV := PIPENV_VENV_IN_PROJECT=1 PIPENV_IGNORE_VIRTUALENVS=1 .cache/pipenv/bin/pipenv
RUN := .venv/bin/python
INPUTS ?= 1000000
SEED ?= $(shell date +%s)
ROUNDS ?= 5
SUITES ?= bookworm trixie
# Most tests mostly wait: four in parallel, on two cores.
AT_ONCE := -n 4 --dist worksteal
# Some wait for a moment of the program, which a busy machine can let pass: what failed beside others is run again alone.
ALONE := --last-failed --last-failed-no-failures none
PLAIN := "not container and not browser and not reading and not croissant$(shell [ "$$(id -u)" = 0 ] || echo " and not root")"

.PHONY: help setup run test test-browser test-reading test-croissant test-image test-in-image test-debian test-3.14 audit fuzz chaos check format bench lock clean

help:  ## show these targets
	@awk -F ':.*## ' '/^[a-z0-9.-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

setup: .venv/.from-lock  ## make the virtual environment from Pipfile.lock

# What suits the oldest Python suits the newer ones too: a few small packages more. Not the other way round.
.cache/pipenv/bin/pipenv:
	$(OLDEST) -m venv .cache/pipenv
	.cache/pipenv/bin/pip install --quiet --disable-pip-version-check pipenv==$(PIPENV_VERSION)

.venv/.from-lock: Pipfile.lock docker/requirements.py
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "make setup: $(NEEDED)" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python docker/requirements.py Pipfile.lock default develop >.venv/requirements.txt
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r .venv/requirements.txt
	touch $@

run: setup  ## run the whole job on the sample that comes with the tool, into ./sample-out
	$(RUN) cli.py --all --sample --to $(OUT)

test: setup  ## run all tests but those of the image, of the card in a browser and of the frameworks (TESTS=files: these)
	$(RUN) -m pytest $(AT_ONCE) -m $(PLAIN) $(TESTS) || $(RUN) -m pytest $(ALONE) -m $(PLAIN) $(TESTS)

test-browser: setup  ## look at the dataset card in headless Chromium
	$(RUN) -m pytest -m browser

test-reading: setup .cache/reading/.made  ## run the examples of docs/reading.md with torch, tensorflow and datasets (7 GB)
	$(RUN) -m pytest -m reading

test-croissant: setup .cache/croissant/.made  ## load croissant.json with mlcroissant
	$(RUN) -m pytest -m croissant

.cache/croissant/.made:
	$(PYTHON) -m venv .cache/croissant
	.cache/croissant/bin/pip install --quiet mlcroissant==1.1.1
	touch $@

.cache/reading/.made: tests/reading-requirements.txt
	$(PYTHON) -m venv .cache/reading
	.cache/reading/bin/pip install --quiet -r $<
	touch $@

test-image: setup  ## build the image, with a Docker engine where none runs, and run its tests
	bash -c 'set -euo pipefail; source .ci/containers; CI=true $(RUN) -m pytest -m container'

test-in-image: setup  ## run the plain tests inside the image
	bash -c 'set -euo pipefail; source .ci/containers; .ci/in-image'

test-debian: setup  ## run "make run test" on a Debian 12 and 13 that have what README.md names (SUITES=trixie, TESTS=files)
	bash -c 'set -euo pipefail; source .ci/containers; TESTS="$(TESTS)" .ci/on-debian $(SUITES)'

test-3.14: setup  ## import everything and read archives on Python 3.14
	bash -c 'set -euo pipefail; source .ci/containers; .ci/on-3.14'

audit:  ## read scripts, workflows and Dockerfile, each by its linter; look for known vulnerabilities of the packages
	.ci/audit

fuzz: setup .cache/atheris  ## hostile archives, the long form: 5 GB, a million members, INPUTS=1000000 to the readers
	LONG=1 $(RUN) -m pytest tests/test_hostile_*.py
	PYTHONPATH=.:tests:.cache/atheris $(RUN) -m support.fuzzing .cache/fuzz/corpus -runs=$(INPUTS) -print_final_stats=1

chaos: setup  ## all that goes wrong, ROUNDS=5 times each, at moments that SEED= picks again; its log: .cache/chaos
	LONG=1 SEED=$(SEED) ROUNDS=$(ROUNDS) $(RUN) -m pytest $(AT_ONCE) tests/test_chaos*.py

.cache/atheris: | .venv/.from-lock
	$(RUN) -m pip install --quiet --target $@ atheris==3.0.0

check: setup  ## formatting, lint and types
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

format: setup  ## put the code in order
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

bench: setup  ## measure this tool beside others and at many sizes, into benchmarks/results (ARGS="--scale 0.02 --rounds 1")
	$(RUN) benchmarks/bench.py $(ARGS)

lock: .cache/pipenv/bin/pipenv  ## renew Pipfile.lock from Pipfile
	$(PIPENV) --python $(OLDEST) lock --dev

clean:  ## remove what these targets made
	rm -rf .venv .cache sample-out .mypy_cache .ruff_cache .pytest_cache .hypothesis
