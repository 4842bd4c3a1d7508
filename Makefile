# The book's commands: `make` alone lists them.
PYTHON ?= python3
export PYTHONHASHSEED = 0
export PIP_DISABLE_PIP_VERSION_CHECK = 1
BIN := .venv/bin
HTML := _build/html/index.html
SOURCES := _config.yml _toc.yml $(shell find book -type f -not -path '*/.*' -not -path '*/__pycache__/*')

.PHONY: help book serve test notebooks bench lock clean
.DELETE_ON_ERROR:

help:            ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

book: $(HTML)    ## build the book, and say where to open it
	@echo "The book is built. Open file://$(CURDIR)/$(HTML)"

serve: $(HTML)   ## build the book and serve it on this machine
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html 8000

test: .venv/.ready .venv/.chromium   ## prove every sentence, number and picture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest tests --ignore tests/browser --doctest-modules lessons_lib
	$(BIN)/python -m pytest -p tests.notebook_compare --nbval book
	$(MAKE) --no-print-directory book
	$(BIN)/python -m pytest tests/browser

notebooks: .venv/.ready   ## run the lessons again and store their outputs (only=batch_norm for one)
	$(BIN)/python tools/notebooks.py $(only)

bench: .venv/.ready   ## measure our layers against PyTorch's, as ratios in one run
	$(BIN)/python tools/bench.py

lock:            ## pin the newest environment that pyproject.toml allows (needs uv)
	$(PYTHON) tools/lock.py

clean:           ## remove everything that the other commands made
	rm -rf _build .venv *.egg-info .pytest_cache .hypothesis .ruff_cache

# A clean build each time: after a failed one Sphinx can call an incremental one a success.
$(HTML): .venv/.ready $(SOURCES)
	rm -rf _build
	$(BIN)/jupyter-book build . -W -n --keep-going --quiet

.venv/.ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $@

# A browser to drive the built pages: the system's own, else Playwright's, else Debian's.
.venv/.chromium: .venv/.ready
	$(BIN)/python -c "from tests.browser.conftest import chromium; chromium()" \
	|| $(BIN)/python -m playwright install chromium \
	|| (apt-get update -qq && apt-get install -y -qq chromium)
	touch $@
