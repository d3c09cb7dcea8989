PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
SOURCES := cli.py console train pca pipeline tests examples

.DEFAULT_GOAL := help
.PHONY: help demo bench test pytest lint types clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## everything on a generated data set, in minutes, on a CPU
	$(BIN)/alexnet demo

bench: $(INSTALLED)  ## how many images a second the loader delivers here
	$(BIN)/alexnet bench-loader

test: $(INSTALLED)  ## lint, types and tests, side by side: what must pass before a change lands
	$(MAKE) --no-print-directory --jobs 3 lint types pytest

pytest: $(INSTALLED)
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses 3 --dist loadfile --durations 25 \
		--no-loadscope-reorder  # reordering would start the longest last; bytecode saves each process seconds

lint: $(INSTALLED)  ## ruff
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet

types: $(INSTALLED)  ## mypy, through a link called "alexnet": it names modules by folder
	dir=$$(mktemp -d) && trap 'rm -r $$dir' EXIT && ln -s "$(CURDIR)" $$dir/alexnet && cd $$dir && \
	"$(CURDIR)/$(BIN)/mypy" --cache-dir "$(CURDIR)/.mypy_cache" --config-file alexnet/pyproject.toml \
		$(addprefix alexnet/,$(SOURCES))

clean:  ## remove what was built, cached or generated here, except .venv
	rm -rf build dist *.egg-info demo .mypy_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -prune -exec rm -r {} +

$(INSTALLED): pyproject.toml constraints.txt $(wildcard pipeline/decode/*.[ch]) train/network/lrn_cpu.c
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@
