# Two commands: `make demo` and `make test`. Both work on a fresh clone with Python >= 3.11 and nothing else.
VENV ?= .venv
RUN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LMMS_VENV ?= $(VENV)-lmms
LMMS_INSTALLED := $(LMMS_VENV)/.installed
VLLM_VENV ?= $(VENV)-vllm
VLLM_INSTALLED := $(VLLM_VENV)/.installed
RAY_VENV ?= $(VENV)-ray
RAY_INSTALLED := $(RAY_VENV)/.installed
# One process a core, one thread each: tiny models gain nothing from threads.
PYTEST := OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n auto --dist worksteal
SOURCES := src tests examples benchmarks

.PHONY: demo test ratios test-oldest test-matrix test-lmms test-vllm test-ray check lint types fast docs format clean help

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

$(INSTALLED): pyproject.toml dev/install dev/constraints.txt
	dev/install $(VENV)
	touch $@

demo: $(INSTALLED) ## a picture asked and answered, a small fit from scratch, and out/demo/report.html
	$(RUN)/lookaway demo --out out/demo

test: $(INSTALLED) ## all tests that need neither a GPU nor the model hub
	$(PYTEST) -m "not gpu and not hub and not vllm and not ray"

ratios: $(INSTALLED) ## is an attached policy that removes nothing slower than the bare model? warns, never fails
	$(RUN)/python benchmarks/ratios.py

test-oldest: $(INSTALLED) ## a slice of the table of families on the oldest transformers
	dev/matrix $(VENV) oldest tests/anatomy tests/engine/test_canary.py tests/engine/test_equalities.py tests/engine/test_generation.py tests/engine/draft

test-matrix: $(INSTALLED) ## the whole table of families on the oldest and on the newest transformers 5
	dev/matrix $(VENV) oldest tests/anatomy tests/engine
	dev/matrix $(VENV) newest tests/anatomy tests/engine

$(LMMS_INSTALLED): pyproject.toml dev/install dev/install-lmms dev/constraints.txt dev/lmms.txt
	dev/install-lmms $(LMMS_VENV)
	touch $@

test-lmms: $(LMMS_INSTALLED) ## a task of lmms-eval through the plugin, offline; in an environment of its own
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(LMMS_VENV)/bin/python -m pytest tests/evaluation/lmms

$(VLLM_INSTALLED): pyproject.toml dev/install-vllm dev/torchvision_schemas.py dev/vllm.txt
	dev/install-vllm $(VLLM_VENV)
	touch $@

test-vllm: $(VLLM_INSTALLED) ## the vLLM plugin on vLLM for CPUs; in an environment of its own
	OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest -m vllm tests/serving/vllm

$(RAY_INSTALLED): $(INSTALLED) dev/install-ray
	dev/install-ray $(RAY_VENV) $(VENV)
	touch $@

test-ray: $(RAY_INSTALLED) ## `lookaway serve --ray` with two replicas; in an environment of its own
	OMP_NUM_THREADS=1 $(RAY_VENV)/bin/python -m pytest -m ray tests/serving/ray

check: lint types fast ## lint + types + fast tests: before every commit

lint: $(INSTALLED)
	$(RUN)/ruff check $(SOURCES)
	$(RUN)/ruff format --check $(SOURCES)

types: $(INSTALLED)
	$(RUN)/mypy

fast: $(INSTALLED)
	$(PYTEST) -m "not slow and not gpu and not hub and not vllm and not ray"

docs: $(INSTALLED) ## the documentation site, into out/site; a warning is an error
	$(RUN)/python -c 'import mkdocs' 2>/dev/null || $(RUN)/python -m pip -q install -c dev/constraints.txt --group docs
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict --quiet

format: $(INSTALLED) ## let ruff write the format and the safe fixes
	$(RUN)/ruff format $(SOURCES)
	$(RUN)/ruff check --fix $(SOURCES)

clean: ## remove what the commands above made
	rm -rf $(VENV) $(LMMS_VENV) $(VLLM_VENV) $(RAY_VENV) out .pytest_cache .ruff_cache .mypy_cache
