# The commands people type. `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help site serve test check pr new bench fuzz faults screenshots clean

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
export NO_MKDOCS_2_WARNING := 1

help: ## List these commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1|/' | awk -F'|' '{printf "  make %-11s %s\n", $$1, $$2}'

# One environment for everything, at exactly the versions of constraints.txt.
# torch goes first: with it in place no other package asks for another build of it.
$(READY): pyproject.toml constraints.txt
	@echo "papernotes: setting up $(VENV) (a few minutes, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "papernotes needs Python 3.11 or newer; point PYTHON at one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip setuptools wheel
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $(READY)

site: $(READY) ## Install, run the snippets that are stale, build site/
	@echo "papernotes: running what is stale, then building site/"
	@$(BIN)/mkdocs build
	@echo "papernotes: site/ is built; browse it with 'make serve'"

serve: $(READY) ## Browse at localhost:8000; edits show at once
	@$(BIN)/mkdocs serve

test: $(READY) ## Run every test: notes, methods, kernels, generator, browser
	@echo "papernotes: running what is stale, then testing, a worker a core"
	@$(BIN)/papernotes run
	@$(BIN)/python -m pytest -n auto --dist loadgroup

check: $(READY) ## Lint, types, and every problem of every note
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/papernotes fmt --check && $(BIN)/papernotes check

# What a pull request is held to, here and in CI. On a system that cannot confine snippets: make pr CONFINED=
BASE     ?= origin/main
CONFINED ?= --confined

pr: $(READY) ## Check, run and test what changed since BASE (origin/main) and what depends on it; build strictly
	@$(BIN)/papernotes touched --since "$(BASE)"
	@$(BIN)/papernotes check $(if $(GITHUB_ACTIONS),--format github)
	@$(BIN)/papernotes run $(CONFINED)
	@$(BIN)/papernotes touched --since "$(BASE)" --test $(CONFINED)
	@$(BIN)/mkdocs build --strict

new: $(READY) ## Begin a note: make new SLUG=my_paper TITLE="My Paper"
	@$(BIN)/papernotes new $(SLUG) $(if $(TITLE),--title "$(TITLE)")

bench: $(READY) ## Measure the generator, and the run engine against its peers (benchmarks/)
	@$(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks.engine

fuzz: $(READY) ## Look for inputs that break a reader: make fuzz TIME=60 (seconds for each target)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	@$(BIN)/python tests/fuzz/run.py --seconds $(or $(TIME),60)

faults: $(READY) ## Kill a hundred builds, fill disks, change files midway: nothing may be lost
	@FAULTS=$(or $(KILLS),100) $(BIN)/python -m pytest tests/test_faults.py -o timeout=3600

screenshots: site ## Pictures of the main pages, light and dark, wide to phone, in build/screenshots/
	@$(BIN)/python tests/screenshots.py site build/screenshots

clean: ## Remove built pages, stored results and caches; keep the environment
	@rm -rf .papernotes build .pytest_cache .ruff_cache .mypy_cache
	@find site -mindepth 1 ! -name .gitkeep -delete
	@echo "papernotes: cleaned; $(VENV) is kept (remove it by hand)"
