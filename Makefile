# Every command that the README and CI use. `make install` is implied by the others.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CHECKS := $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/python -m mypy

# On a small or busy machine torch's own threads cost more than they give.
export OMP_NUM_THREADS ?= 1

.PHONY: install demo test lint bench

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[all,test]'
	touch $@

demo: install
	$(BIN)/python -m ppl_gen demo $(if $(BACKEND),--backend $(BACKEND))

# A lint error fails the target but does not hide the tests' result, whose closing line comes last.
test: install
	$(CHECKS); checks=$$?; $(BIN)/python -m pytest -n 2 && exit $$checks

lint: install
	$(CHECKS)

bench: install
	$(BIN)/python benchmarks/step_time.py
