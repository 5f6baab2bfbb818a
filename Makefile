# `make demo` and `make test` do everything on a fresh machine: Python 3.10-3.12, a C compiler, npm (demo pictures).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where pip finds a CPU build of torch 2.13.0, if its usual index has none: make demo TORCH_INDEX=https://...
TORCH_INDEX ?=
STAMP := $(VENV)/.installed
# The report's page is tested in Chromium; `make test BROWSER=` skips these tests.
BROWSER ?= install
BROWSERS := chromium chromium-browser google-chrome

.PHONY: setup browser demo test test-recipes check-gpu-stack lint docs clean

setup: $(STAMP)

$(STAMP): setup.py constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip wheel "setuptools==77.0.3"
	$(BIN)/python -m pip install --quiet torch==2.13.0 $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet --no-build-isolation --constraint constraints-cpu.txt --editable ".[cpu,demo,dev]"
	# vLLM requires torchcodec, but fails when the installed build is for CUDA; it works without it.
	$(BIN)/python -m pip uninstall --quiet --yes torchcodec
	touch $@

demo: setup
	$(BIN)/python -m divek_verl.demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

browser:
ifneq ($(BROWSER),)
	@for name in $(BROWSERS); do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends chromium; \
	else \
		echo "No Chromium here: the tests of the report's page in a browser are skipped. Install one of: $(BROWSERS)."; \
	fi
endif

test: lint browser
	$(BIN)/python -m pytest

# Reads verl's and vLLM's sources of the GPU stack, or of other releases: make check-gpu-stack VERL_RELEASE=0.9.2 VLLM_RELEASE=0.25.0
check-gpu-stack: setup
	CHECK_GPU_STACK=1 VERL_RELEASE=$(VERL_RELEASE) VLLM_RELEASE=$(VLLM_RELEASE) $(BIN)/python -m pytest tests/test_gpu_stack.py

# Trains each recipe for two steps on a CPU with a tiny model: more than an hour on two cores.
test-recipes: setup
	$(BIN)/python -m pytest -m recipes tests/recipes

# Writes docs/configuration.md from divek_verl/settings.py; a test fails when it is out of date.
docs: setup
	$(BIN)/python docs/generate.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache runs/demo
