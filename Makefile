# make demo   environment, install, the whole job on the embedded data, the result explained
# make test   environment, install, all tests
# make soak   commands killed 500 times and started again: an hour
# make fuzz   the reader of shards on bytes that a fuzzer makes up: two minutes, or FUZZ_S seconds
# make check  what CI runs beside the tests: format, lint, types, layers
# make clean  removes what the above made

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

FUZZ_S ?= 120

.PHONY: demo test soak fuzz check format clean

demo: $(VENV)/installed-demo
	$(BIN)/nccleaner demo --run nccleaner-demo

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

soak: $(VENV)/installed-dev
	NCC_KILLS=500 $(BIN)/python -m pytest tests/faults/test_kills.py

# What it finds new is not kept; an input that fails is, as tests/faults/corpus/crash-... .
fuzz: $(VENV)/installed-dev
	found=$$(mktemp -d) && trap 'rm -rf "$$found"' EXIT && \
	  $(BIN)/python tests/faults/fuzz_reader.py -max_total_time=$(FUZZ_S) -timeout=20 -rss_limit_mb=4096 \
	  -max_len=20000 -verbosity=0 -print_final_stats=1 -artifact_prefix=tests/faults/corpus/ "$$found" tests/faults/corpus

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "nccleaner needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing nccleaner with PyTorch into $(VENV): a few minutes, about 6 GB"
	$(PIP) -e '.[cpu,demo]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing nccleaner with PyTorch and the test tools into $(VENV): a few minutes, about 6 GB"
	$(PIP) -e '.[cpu,demo,dev,download]'
	@touch $@ $(VENV)/installed-demo

clean:
	rm -rf .venv dist nccleaner-run nccleaner-demo benchmarks/results
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
