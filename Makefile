# Everything runs from .venv, which is made on first use; the tests' packages are added by the first
# `make check` or `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo readme-figures test test-all learn check docs install bench gpu clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ludus needs Python 3.11 or newer; name one with make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[contrib,offline,pettingzoo]'
	@touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev-all]'
	@touch $@

# Three trainings of ten minutes at once, of another seed with `make demo SEED=1`.
SEED ?= 0
demo: .venv/.installed
	$(BIN)/ludus compare --env PongNoFrameskip-v4 --screen-size 60 --steps 10000000 --minutes 10 \
		--agents ppo_small dqn2013 sb3:ppo_small random --seeds 1 --first-seed $(SEED) \
		--max-frames 18000 --jobs 3 --episodes 10 --record --out runs/demo

# What README.md shows of `make demo`, from the last run of it.
readme-figures: .venv/.installed
	$(BIN)/python benchmarks/readme_figures.py

# One thread per process: two workers with two threads each would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

# `test` is what every change must pass; `test-all` has also the tests marked `slow`, further seeds
# and variants. A simulated GPU must be loaded before torch, in other processes; these tests run even
# if others failed.
test: PYTEST += -m "not slow"
test test-all: .venv/.installed-dev
	$(PYTEST) --ignore tests/cuda; first=$$?; $(PYTEST) tests/cuda && exit $$first

# The tests of the CUDA path and a table of speeds, on a machine with a GPU: under 9 minutes.
gpu: .venv/.installed-dev
	$(BIN)/python benchmarks/gpu.py

# All learning tests with five seeds.
learn: .venv/.installed-dev
	SEEDS=5 $(PYTEST) tests/test_learns.py

check: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks

# The site of the documentation, in build/site. It needs no network.
docs: .venv/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "build/site/index.html; with the search: $(PYTHON) -m http.server -d build/site"

bench: .venv/.installed
	$(BIN)/ludus bench

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
