# make demo and make test are all that a new user needs; both set the environment up first if it is not there yet.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo registry hospitals test test-deployed test-slurm install check format docs clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

demo: .venv/.run ## Train a federation on the embedded pancreas dataset, and write its page
	$(BIN)/python train.py
	$(BIN)/scfl-green report logs/runs/pancreas-actinn-baseline-federated-s42

hospitals: .venv/.run ## Federate four hospitals on this machine: a server, four sites, TLS and keys
	$(BIN)/python scripts/hospitals.py

registry: .venv/.share ## Serve a registry of models with MLflow's web page, http://127.0.0.1:5000
	mkdir -p registry
	MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
	  --backend-store-uri sqlite:///registry/mlflow.db --artifacts-destination registry

test: .venv/.dev ## Run the test suite, on as many cores as there are
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-deployed: .venv/.dev ## Run the tests of a deployed federation: servers and sites as processes, minutes
	$(BIN)/python -m pytest -m deployed tests/sites

test-slurm: .venv/.dev ## Try sweeps on a SLURM of one node, started here (root; apt-get install slurm-wlm munge)
	$(BIN)/python -m pytest -m slurm tests/test_slurm.py

install: .venv/.dev ## Set .venv up with the tested versions, tools for development included

check: .venv/.dev ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.dev ## Mend format and lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.docs ## Build the manual into docs/_build/html; a warning is an error
	rm -rf docs/_build docs/api
	PYTHONPATH=src $(BIN)/sphinx-build -q -W --keep-going docs docs/_build/html

clean: ## Remove .venv, caches and the built manual; what runs wrote (logs/) stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build docs/_build docs/api src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

.venv/.dev: .venv/.run
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

.venv/.share: .venv/.run
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[share]'
	@touch $@

.venv/.docs: .venv/.run
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	@touch $@
