# The verbs of this project. `make demo` and `make test` are all a newcomer needs.
PYTHON ?= python3
BIN = .venv/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
NOMINA_DATA ?= $(wildcard ../shared/data)
export NOMINA_DATA
# Tests and benchmarks may import torch before nomina, which then cannot say it (nomina/environment.py).
export GOMP_SPINCOUNT ?= 1000

# A test needs one core; those of a file stay together, because they share models.
WORKERS = --numprocesses 2 --dist loadfile

.PHONY: demo test test-oldest install check fix docs bench model clean

.venv/.base: pyproject.toml constraints.txt
	@test -x $(BIN)/pip || (echo "Making .venv" && $(PYTHON) -m venv .venv)
	@echo "Installing nomina and what it needs (some minutes, once)"
	@$(INSTALL) --editable .
	@touch $@

.venv/.dev: .venv/.base
	@echo "Installing what the tests need (once)"
	@$(INSTALL) --editable '.[dev]'
	@touch $@

install: .venv/.dev  ## everything for development

demo: .venv/.base  ## set up, prepare the default model, extract from three paragraphs
	@$(BIN)/nomina demo

test: .venv/.dev  ## set up and run the tests
	@NOMINA_DATA= $(BIN)/python -m pytest $(WORKERS)

# Its own environment. No tools of the docs: the site is built once, with the newest. The warnings
# are other people's: old libraries on a newer Python and numpy, PEFT 0.18 of a base in memory.
.venv-oldest/.done: pyproject.toml constraints-oldest.txt
	@test -x .venv-oldest/bin/pip || $(PYTHON) -m venv .venv-oldest
	@echo "Installing the oldest allowed versions (some minutes, once)"
	@.venv-oldest/bin/pip install --quiet --disable-pip-version-check \
		--constraint constraints-oldest.txt --editable \
		'.[train,serve,spacy,tables,yaml,datasets]' pytest pytest-xdist hypothesis seqeval nervaluate httpx selenium
	@touch $@

test-oldest: .venv-oldest/.done  ## run the tests with the oldest versions that pyproject.toml allows
	@NOMINA_DATA= .venv-oldest/bin/python -m pytest $(WORKERS) \
		-W ignore::DeprecationWarning -W ignore::FutureWarning \
		-W 'ignore:Could not find a config file:UserWarning'

check: .venv/.dev  ## formatting, lint, types, import order
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: .venv/.dev  ## format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.dev  ## build the site into site/, without a network and without a warning
	@$(BIN)/python tools/docs_site.py

bench: .venv/.dev  ## print every number that the README claims
	$(BIN)/python benchmarks/run.py

runs/queries.jsonl: .venv/.base tools/queries.py tools/queries.toml
	$(BIN)/python tools/queries.py $@

runs/written.jsonl: .venv/.base tools/written.py $(wildcard corpora/written/*.txt)
	$(BIN)/python tools/written.py $@

model: .venv/.dev runs/queries.jsonl runs/written.jsonl  ## train the shipped adapter anew from NOMINA_DATA (hours; resumes)
	@test -n "$(NOMINA_DATA)" || (echo "set NOMINA_DATA to the folder of the corpora" && exit 1)
	@echo "Training takes about two and a half hours on 2 cores of a Zen 4 and 10 GB; the same command goes on where it was stopped."
	OMP_NUM_THREADS=1 $(BIN)/torchrun --nproc-per-node 2 -m nomina.cli train recipes/default.toml

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info
