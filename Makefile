# The book's commands: `make` alone lists them.
PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin
HTML := _build/html/index.html
SOURCES := _config.yml _toc.yml $(wildcard tools/contents.py lessons_lib/*.py lessons_lib/*.css) $(shell find book -type f -not -path "*/.*" -not -path "*/__pycache__/*")

# Nobody's configuration matters: what a shell, a git hook or an editor has set for Python, pytest, Jupyter, matplotlib
# and git stays outside, and so does where pip would put packages instead of into the environment.
unexport $(filter PYTHON% PYTEST% HYPOTHESIS% IPYTHON% JUPYTER% MPL% MATPLOTLIB%,$(.VARIABLES)) GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PIP_NO_DEPS PIP_DRY_RUN PIP_REQUIRE_HASHES PIP_IGNORE_INSTALLED PIP_PYTHON
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONHASHSEED := 0
export PYTHONNOUSERSITE := 1
export PYTHONUTF8 := 1
export LC_ALL := C
export MPLCONFIGDIR := $(CURDIR)/.venv/etc/lessons/mplconfigdir

# A process a core (what the system calls one), with one thread each: threads that share a core wait for each other. A file
# stays in one process, but those of the library's tests take from each other what is left.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadscope
EXPLORE := $(PYTEST) --dist worksteal -m hypothesis --hypothesis-profile explore

.PHONY: help book serve pdf test env explore notebooks benchmarks mutants hollow reruns coverage lesson colab-check fork lock clean whole
.DELETE_ON_ERROR:

help:            ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-13s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

book: $(HTML)    ## build the book, and say where to open it
	@$(BIN)/python -c 'import pathlib; print("The book is built. Open", pathlib.Path("$(HTML)").resolve().as_uri())'

serve: $(HTML)   ## build the book and serve it on this machine
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

pdf: $(HTML) .venv/.chromium   ## print the book into one PDF
	$(BIN)/python -m tools.pdf

test: .venv/.ready .venv/.chromium   ## lint, run all tests, run all lessons again and compare
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(PYTEST) --dist worksteal tests --ignore tests/browser --doctest-modules lessons_lib
	$(PYTEST) -p tests.notebook_compare --nbval book $(if $(filter-out false,$(CI)),,--changed)
	$(MAKE) --no-print-directory book
	$(PYTEST) --dist worksteal tests/browser  # pages differ: who has finished helps

env: .venv/.ready   ## make the environment of the tests, with PyTorch and JupyterLab, and do nothing else

explore: .venv/.ready   ## test random cases that are new each time (seeds=10 times; seed=7 draws them again)
	@status=0; for seed in $(or $(seed),$(shell od -An -N$$((4 * $(or $(seeds),3))) -t u4 /dev/urandom)); do \
		echo "make explore seed=$$seed"; \
		$(EXPLORE) --hypothesis-seed $$seed $(or $(only),tests --ignore tests/browser) || status=1; \
	done; exit $$status

notebooks: .venv/.ready   ## run the lessons again and store their outputs (only=batch_norm for one)
	$(BIN)/python -m tools.notebooks $(only)

benchmarks: .venv/.chromium $(HTML)   ## measure all that the page of benchmarks shows (only="layers sliders" for parts): hours
	$(BIN)/python -m tools.benchmarks $(only)

mutants: .venv-mutants/.ready   ## change the library and see whether its tests notice (only=sgd for a module, else hours)
	.venv-mutants/bin/python -m tools.mutants $(only)

hollow: .venv/.ready   ## let every function of the library raise: which tests pass all the same (only=tests/test_sgd.py)
	$(PYTEST) -p tests.hollow $(or $(only),tests --ignore tests/browser)

reruns: .venv/.ready   ## re-execute the book as other machines would, and see what strays (runs=20): two hours
	$(BIN)/python -m tools.reruns $(or $(runs),20)

coverage: .venv/.ready   ## which lines and branches of the library its tests reach
	$(BIN)/python -m coverage erase
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest tests --ignore tests/browser
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --show-missing --skip-covered

lesson: .venv/.ready   ## begin a lesson: notebook, module, test (name=weight_decay)
	$(BIN)/python -m tools.lesson '$(name)'

colab-check: .venv-colab/.ready   ## run the lessons beside Colab's versions, each in an empty folder (only=batch_norm)
	.venv-colab/bin/python -m tools.colab $(only)

fork:            ## point all links to your own copy on GitHub (owner=NAME)
	$(PYTHON) -m tools.fork '$(owner)'

lock:            ## pin the newest environment that pyproject.toml allows (needs uv)
	$(PYTHON) -m tools.lock

clean:           ## remove what the other commands made, but not the training runs in runs/
	rm -rf _build .venv .venv-colab .venv-mutants *.egg-info .pytest_cache .hypothesis .coverage
	find . \( -name __pycache__ -o -name .ruff_cache \) -prune -exec rm -rf {} +

# A clean build each time: after a failed one Sphinx can call an incremental one a success. It replaces the old book when
# it is complete, dated from its start, so that a change made meanwhile is not missed.
$(HTML): .venv/.book $(SOURCES)
	@rm -rf _build/part && mkdir -p _build/part && touch _build/part/start
	$(BIN)/python -c 'from jupyter_book.cli.main import main; main()' build . --path-output _build/part -W -n --keep-going --quiet >/dev/null
	@touch -r _build/part/start _build/part/$(HTML)
	@rm -rf _build/html && mv _build/part/_build/html _build/html && rm -rf _build/part

# An environment is complete while its stamp is there, which says where and for which Python it was made. Whatever changes
# the environment takes the stamp away first and puts it back last; an environment without one is made anew.
MADE = $$(pwd -P) and Python $$($(1) -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null || echo '(none found)')
VENV = @rm -rf $(@D) && $(PYTHON) -m venv $(@D)
STAMP = @echo "$(call MADE,$(@D)/bin/python)" > $@.part && mv $@.part $@
PIP = python -m pip install --quiet --no-compile
# Without an NVIDIA driver Linux needs none of CUDA's gigabytes. Where PyTorch's own index does not answer, they come.
CPU = --no-deps --retries 0 --timeout 5 --index-url https://download.pytorch.org/whl/cpu

.venv/.book: requirements-book.txt | whole
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	|| { echo "Python 3.10 to 3.13 is needed: make clean, then make PYTHON=python3.12, say"; exit 1; }
	@echo "Making the environment in .venv: a minute or so, the first time"
	@test -e $@ || { rm -rf .venv && $(PYTHON) -m venv .venv; }
	@rm -f $@
	$(BIN)/$(PIP) -r requirements-book.txt
	$(STAMP)

.venv/.ready: .venv/.book requirements.txt pyproject.toml
	@echo "Adding PyTorch and what the tests need: some minutes, the first time"
	@mv .venv/.book .venv/.part
	@test "$$(uname)" != Linux || test -e /proc/driver/nvidia/version \
	|| $(BIN)/$(PIP) $(CPU) "$$(grep -o '^torch==[^ ]*' requirements.txt)" 2>/dev/null || true
	$(BIN)/$(PIP) -r requirements.txt
	$(BIN)/$(PIP) --no-deps --no-build-isolation -e .
	@mv .venv/.part .venv/.book
	@touch $@

.venv-colab/.ready: tools/colab.txt | whole
	$(VENV)
	$(@D)/bin/$(PIP) -r tools/colab.txt
	$(STAMP)

.venv-mutants/.ready: requirements.txt | whole
	$(VENV)
	$(@D)/bin/$(PIP) -r requirements.txt mutmut==3.8.1
	$(STAMP)

# The Python is the one that was asked for, as in `make PYTHON=python3.12`, else whatever now stands in the environment.
whole:
	@for stamp in $(wildcard .venv/.book .venv-colab/.ready .venv-mutants/.ready); do \
		made="$(call MADE,$(if $(filter file,$(origin PYTHON)),$$(dirname $$stamp)/bin/python,$(PYTHON)))"; \
		test "$$(cat $$stamp)" = "$$made" || { \
			echo "$$(dirname $$stamp) was made for $$(cat $$stamp), not for $$made: run \`make clean\`, then this again"; \
			exit 1; }; \
	done

# A browser that starts: the system's own, else Playwright's, else Debian's.
PROBE := $(BIN)/python -m tests.browser.conftest
.venv/.chromium: .venv/.ready
	$(PROBE) 2>/dev/null \
	|| { $(BIN)/python -m playwright install chromium && $(PROBE) 2>/dev/null; } \
	|| { apt-get update -qq && apt-get install -y -qq chromium && $(PROBE); } \
	|| { echo "Install Chromium or Chrome, or run: $(BIN)/python -m playwright install --with-deps chromium"; exit 1; }
	touch $@
