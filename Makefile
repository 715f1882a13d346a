PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip --disable-pip-version-check
STAMP := $(VENV)/.installed
STUDY := examples/icu_sepsis/study.toml

.PHONY: run test lint campaign benchmark

run: $(STAMP)
	$(VENV)/bin/secure-frl run $(STUDY)

test: $(STAMP) lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 -m "not campaign"

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

campaign: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m campaign

benchmark: $(STAMP)
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/secure_sum.py --json
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/privacy.py --json
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/encrypted_sum.py --json
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/learning_speed.py --json

$(STAMP): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)
