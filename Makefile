# make book [PROFILE=quick]   execute the notebooks and build the book into _build/html
#                             (smoke: for the tests; quick: minutes; full: the whole experiment)
# make pdf  [PROFILE=quick]   the same, and all of it as _build/book.pdf
# make test [PYTEST_ARGS=]    every test, notebooks and book build included
# make check [PYTEST_ARGS=]   the fast tests only: no book, no browser
# make lab  [LAB_ARGS=]       JupyterLab on the notebooks
# make soundfonts             install those that chapter 9 compares, as `make book` does; it leaves out what is missing
# make bench                  measure the claims of speed, into benchmarks/results (a quarter of an hour)
#
# Each of these first sets up what is missing; PYTHON=... names the Python to do it with.
#
# make clean                  remove what was built, but not .venv

PROFILE ?= quick
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
    $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV_PYTHON = .venv/bin/python
# What `make check` runs: an expression of pytest -m.
CHECK = not slow and not browser and not book
# Two processes; tests that share an expensive fixture stay together.
PYTEST = $(VENV_PYTHON) -m pytest -n 2 --dist=loadgroup --no-loadscope-reorder

# Another installation's modules must not leak into ours.
unexport PYTHONHOME PYTHONPATH
# Files are UTF-8, whatever the terminal is set to.
export PYTHONUTF8 = 1

.PHONY: book pdf test check lab bench soundfonts clean setup

book: setup
	@$(if $(filter-out smoke,$(PROFILE)),$(PYTHON) book/scripts/soundfonts.py --once)
	@$(VENV_PYTHON) book/scripts/build.py --profile $(PROFILE)

pdf: book
	@$(PYTHON) book/scripts/setup.py browser
	@$(VENV_PYTHON) book/scripts/pdf.py

test: setup
	@$(PYTHON) book/scripts/setup.py browser
	@$(PYTHON) book/scripts/soundfonts.py
	@$(PYTEST) $(PYTEST_ARGS)

check: setup
	@$(PYTEST) -m "$(CHECK)" $(PYTEST_ARGS)

lab: setup
	@$(VENV_PYTHON) -m jupyterlab $(LAB_ARGS) notebooks

soundfonts: setup
	@$(PYTHON) book/scripts/soundfonts.py

bench: setup
	@$(VENV_PYTHON) benchmarks/run.py $(BENCH_ARGS)

setup:
	@$(or $(PYTHON),$(error Python 3.11, 3.12 or 3.13 was not found: install it (Debian, Ubuntu: \
	'apt-get install python3 python3-venv') or name it: make PYTHON=/path/to/python3)) book/scripts/setup.py

clean:
	rm -rf _build .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +
