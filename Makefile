# Diptych: `make run` sets everything up and starts the server; `make help` lists the rest.
# Recipes use relative paths only, so that a checkout path with spaces works.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run demo test bench lint setup clean constraints starter

# Reach the recipes through the environment, where quoting cannot go wrong.
export PORT DATA PYTHON ARGS WORKERS

help: ## what can be made
	@echo 'Diptych. Targets:'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'
	@echo 'Variables: PORT=8000 (address), DATA=folder (jobs, pictures, models), PYTHON=python3.12 (for .venv),'
	@echo '           ARGS="…" (more arguments for the command behind the target)'

run: ## set up, make a first picture and a first answer, and serve until Ctrl-C
	@sh scripts/setup.sh run
	@sh scripts/diptych.sh demo

demo: ## the same, but end after the first picture and the first answer
	@sh scripts/setup.sh run
	@sh scripts/diptych.sh demo --exit

setup: ## create .venv and install everything that `make run` needs
	@sh scripts/setup.sh run

test: ## set up and run all tests, ruff, mypy and import-linter among them
	@sh scripts/setup.sh test
	@sh scripts/test.sh

bench: ## measure against other software on this machine (about 20 minutes; ARGS=--quick: a smoke test)
	@sh scripts/setup.sh test
	@sh scripts/bench.sh

lint: ## ruff, mypy and import-linter only
	@sh scripts/setup.sh test
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy
	.venv/bin/python -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

starter: ## train the starter image model again from nothing (about two hours on two cores)
	@sh scripts/setup.sh run
	.venv/bin/python tools/starter/train.py $(ARGS)

constraints: ## write constraints.txt anew from the newest versions that pyproject.toml allows
	@sh scripts/constraints.sh

clean: ## remove .venv, caches and build products (never your data)
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
