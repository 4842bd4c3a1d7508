# The book's commands: `make` alone lists them.
PYTHON ?= python3
PORT ?= 8000
export PYTHONHASHSEED = 0
export PIP_DISABLE_PIP_VERSION_CHECK = 1
BIN := .venv/bin
HTML := _build/html/index.html
SOURCES := _config.yml _toc.yml lessons_lib/slider.css lessons_lib/sliders.py $(shell find book -type f -not -path '*/.*' -not -path '*/__pycache__/*')

# A process a core, with one thread each: threads that share a core wait for each other. A file stays in one process.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope

EXPLORE := $(PYTEST) -m hypothesis --hypothesis-profile explore

.PHONY: help book serve pdf test explore notebooks bench benchmarks mutants reruns coverage lesson colab-check fork lock clean
.DELETE_ON_ERROR:

help:            ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-13s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

book: $(HTML)    ## build the book, and say where to open it
	@echo "The book is built. Open file://$(CURDIR)/$(HTML)"

serve: $(HTML)   ## build the book and serve it on this machine
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

pdf: $(HTML) .venv/.chromium   ## print the book into one PDF
	$(BIN)/python -m tools.pdf

test: .venv/.ready .venv/.chromium   ## prove every number, picture and claim about them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PYTEST) tests --ignore tests/browser --doctest-modules lessons_lib
	$(PYTEST) -p tests.notebook_compare --nbval book
	$(MAKE) --no-print-directory book
	$(PYTEST) tests/browser

explore: .venv/.ready   ## test random cases that are new each time (seeds=10 times; seed=7 draws them again)
	@status=0; for seed in $(or $(seed),$(shell od -An -N$$((4 * $(or $(seeds),3))) -t u4 /dev/urandom)); do \
		echo "make explore seed=$$seed"; \
		$(EXPLORE) --hypothesis-seed $$seed $(or $(only),tests --ignore tests/browser) || status=1; \
	done; exit $$status

notebooks: .venv/.ready   ## run the lessons again and store their outputs (only=batch_norm for one)
	$(BIN)/python tools/notebooks.py $(only)

bench: $(HTML) .venv/.chromium   ## measure our layers against PyTorch's, as ratios in one run, and the built sliders
	$(BIN)/python tools/bench.py
	$(BIN)/python -m tests.browser.bench

benchmarks: .venv/.chromium $(HTML)   ## measure all that the page of benchmarks shows (only=layers for a part): hours
	$(BIN)/python -m tools.benchmarks $(only)

mutants: .venv-mutants/.ready   ## change the library and see whether its tests notice (only=sgd for a module): hours
	.venv-mutants/bin/python -m tools.mutants $(only)

reruns: .venv/.ready   ## re-execute the book as other machines would, and see what strays (runs=20): two hours
	$(BIN)/python -m tools.reruns $(or $(runs),20) $(pythons)

coverage: .venv/.ready   ## which lines and branches of the library its tests reach
	$(BIN)/python -m coverage erase
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest tests --ignore tests/browser
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --show-missing --skip-covered

lesson: .venv/.ready   ## begin a lesson: notebook, module, test (name=weight_decay)
	$(BIN)/python -m tools.lesson '$(name)'

colab-check: .venv-colab/.ready   ## run the lessons beside Colab's versions, each in an empty folder (only=batch_norm)
	.venv-colab/bin/python tools/colab.py $(only)

fork:            ## point all links to your own copy on GitHub (owner=NAME)
	$(PYTHON) tools/fork.py '$(owner)'

lock:            ## pin the newest environment that pyproject.toml allows (needs uv)
	$(PYTHON) tools/lock.py

clean:           ## remove what the other commands made, but not the training runs in runs/
	rm -rf _build .venv .venv-colab .venv-mutants *.egg-info .pytest_cache .hypothesis .coverage
	find . \( -name __pycache__ -o -name .ruff_cache \) -prune -exec rm -rf {} +

# A clean build each time: after a failed one Sphinx can call an incremental one a success.
$(HTML): .venv/.ready $(SOURCES)
	rm -rf _build
	$(BIN)/jupyter-book build . -W -n --keep-going --quiet

.venv/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	|| { echo "Python 3.10 to 3.13 is needed: make clean, then make PYTHON=python3.12, say"; exit 1; }
	@echo "Making the environment in .venv: some minutes, the first time"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $@

.venv-colab/.ready: tools/colab.txt
	rm -rf .venv-colab
	$(PYTHON) -m venv .venv-colab
	.venv-colab/bin/python -m pip install -q -r tools/colab.txt
	touch $@

.venv-mutants/.ready: requirements.txt
	rm -rf .venv-mutants
	$(PYTHON) -m venv .venv-mutants
	.venv-mutants/bin/python -m pip install -q -r requirements.txt mutmut==3.8.1
	touch $@

# A browser that starts: the system's own, else Playwright's, else Debian's.
PROBE := $(BIN)/python -m tests.browser.conftest
.venv/.chromium: .venv/.ready
	$(PROBE) 2>/dev/null \
	|| { $(BIN)/python -m playwright install chromium && $(PROBE) 2>/dev/null; } \
	|| { apt-get update -qq && apt-get install -y -qq chromium && $(PROBE); } \
	|| { echo "Install Chromium or Chrome, or run: $(BIN)/python -m playwright install --with-deps chromium"; exit 1; }
	touch $@
