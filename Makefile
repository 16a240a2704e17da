# Two commands do everything: `make course` runs and grades the labs, `make test` runs the tests.
# Both create the environment first; when nothing changed that takes well under a second.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
LIMITS := OMP_NUM_THREADS=2 GOMP_SPINCOUNT=10000 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 ANONYMIZED_TELEMETRY=False
CLEAN  := env -u ANTHROPIC_API_KEY -u ANTHROPIC_BASE_URL -u ANTHROPIC_AUTH_TOKEN

.PHONY: course test lab setup lock bench figures lint browser clean help

help:                 ## this list
	@grep -hE '^[a-z]+: .*##|^[a-z]+:  *##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; found $$($(PYTHON) -V). Try: make PYTHON=python3.12 course"; exit 1; }
	@echo "Setting up $(VENV) (a few minutes the first time) ..."
	@start=$$(date +%s); test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25' && \
	$(BIN)/python -m pip install --quiet --prefer-binary -r requirements.lock && \
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e . && \
	echo "$$(( $$(date +%s) - start ))" > $(STAMP) && echo "Environment ready after $$(cat $(STAMP)) s."

setup: $(STAMP)       ## create or refresh the environment

course: $(STAMP)      ## execute every lab, grade the results, write the HTML report
	@$(LIMITS) $(BIN)/course run --all --grade --out build/course

test: $(STAMP)        ## the tests, then every notebook strictly compared with its committed outputs
	@$(CLEAN) $(LIMITS) PYTHONPATH=tests/offline $(BIN)/python -m pytest
	@$(CLEAN) $(LIMITS) PYTHONPATH=tests/offline $(BIN)/python -m pytest -p no:randomly -n 2 --dist loadfile --nbval \
	  --nbval-sanitize-with nbval_sanitize.cfg --nbval-cell-timeout=300 notebooks

lab: $(STAMP)         ## JupyterLab with the course open
	@$(LIMITS) $(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/00_course_overview.ipynb

lint: $(STAMP)        ## code and notebook style
	@$(BIN)/ruff check course_grader course_lib course_lm tests && $(BIN)/course lint

lock: $(STAMP)        ## refresh requirements.lock from pyproject.toml
	@$(BIN)/pip-compile pyproject.toml --extra dev --allow-unsafe --quiet --upgrade --strip-extras --no-header \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o requirements.lock
	@sed -i.bak -E 's/^(torch==[0-9.]+)\+cpu/\1/' requirements.lock && rm requirements.lock.bak

figures: $(STAMP)     ## measure every published figure again and render the README's tables
	@$(LIMITS) $(BIN)/course figures --measure

bench: figures        ## the same: benchmarks are figures

clean:                ## remove what the two commands made, but not the environment
	rm -rf build .pytest_cache .ruff_cache
