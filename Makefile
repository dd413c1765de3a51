# Every target sets itself up in .venv. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1
# Compiled once, not by every process: three seconds of each.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
task ?= power
model ?= diffusion

.PHONY: help setup search demo table1 readme ablations figures audit report status missing publish check-records chaos wandb-sync test test-slow test-cuda lint format fetch docs gallery config-docs architecture dist

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install the package with the tested versions

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "Python 3.11 to 3.13 is needed; set PYTHON=python3.12, say"; exit 1; }
	@echo "installing into $(VENV): a few minutes, about 2 GB"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## train every kind of predictor on simulated load in small, and print the table
	$(BIN)/python scripts/demo.py

table1: setup ## the paper's Table 1 beside ours, from the records there are
	$(BIN)/python scripts/make_tables.py

search: setup ## hyperparameters of a model's rows on the days before the test: task=power model=diffusion
	$(BIN)/python scripts/search.py task=$(task) model=$(model) $(if $(grad),grad=$(grad))

readme: setup ## Table 1 in short, from the committed records, into README.md
	$(BIN)/python scripts/make_tables.py --readme README.md

ablations: setup ## one setting of a cell moved at a time, from the records there are
	$(BIN)/python scripts/make_ablations.py

audit: setup ## docs/audit.md: the paper's claims against records, studies and the released protocol
	$(BIN)/python scripts/make_audit.py

figures: setup ## the paper's figures from the records there are
	$(BIN)/python scripts/make_figures.py

report: setup ## results/report/index.html: tables, curves, studies, audit and every run in one page
	$(BIN)/python scripts/make_report.py

status: setup ## planned, finished, running, failed and missing runs of the tables
	$(BIN)/python scripts/status.py

missing: setup ## the commands that complete the tables
	$(BIN)/python scripts/status.py --missing

publish: setup ## finished runs into results/published; what does not belong is named
	$(BIN)/python scripts/publish.py

check-records: setup ## published records against their digests and today's presets
	$(BIN)/python scripts/check_records.py

fetch: setup ## download the real load data into data/
	$(BIN)/python scripts/fetch_data.py

chaos: setup ## a sweep under kill -9, full disks, damaged files; compared with the unbroken one
	$(BIN)/python scripts/chaos.py
	$(BIN)/python scripts/chaos.py --hosts --workers 3 --kills 150
	$(BIN)/python scripts/chaos.py --launchers basic joblib dask --seeds 2 --kills 40
	$(BIN)/python scripts/chaos.py --launchers submitit --seeds 1 --kills 40

wandb-sync: setup ## upload what logger=wandb wrote offline
	$(BIN)/python scripts/wandb_sync.py

test: setup ## the fast tests, in minutes
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-slow: setup ## the long tests
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m slow

test-cuda: setup ## the tests that need a CUDA device
	$(BIN)/python -m pytest -q -m cuda

lint: setup ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## rewrite files in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

config-docs: setup ## docs/config.md from conf/ and the schemas
	$(BIN)/python scripts/make_config_docs.py

gallery: setup ## run the gallery's scripts; their numbers into docs/gallery/, their notebooks beside them
	$(BIN)/python scripts/make_gallery.py

architecture: setup ## docs/architecture.md and its picture from the imports of the source
	$(BIN)/python scripts/make_architecture.py

dist: setup ## the wheel and the source archive in build/dist, checked for an index
	rm -rf build/dist
	$(BIN)/python -m build --no-isolation --outdir build/dist .
	$(BIN)/twine check --strict build/dist/*
	$(BIN)/check-wheel-contents build/dist/*.whl

docs: setup ## the documentation as a site, site/index.html; VERSION=0.2.0 beside older versions
	$(BIN)/python scripts/make_docs.py $(if $(VERSION),--version $(VERSION))
