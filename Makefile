# The README's commands. Each makes .venv first, with pinned versions (constraints.txt).

PYTHON ?= python3
VENV   ?= .venv
# PyPI's torch for Linux brings several GB of CUDA. The CPU build is taken from this index when it
# can be reached; TORCH_INDEX= (empty) skips it, and another address takes another build.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PYTEST_ARGS ?= -n auto
# Processes that draw the report's images.
WORKERS ?= 2

BIN       = $(VENV)/bin
INSTALLED = $(VENV)/.installed

.PHONY: report test check notebooks docs lint clean

report: $(INSTALLED)
	$(BIN)/interp report --full --ablation out/ablation --out out/report --store out/edits.zarr \
	    --workers $(WORKERS)
	@echo "Tables and figures: out/ablation. For people: out/report/report.html"

notebooks: $(INSTALLED)
	$(BIN)/jupyter lab notebooks

# Broken links, and docstrings that cannot be shown, are errors.
docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/python -m analyses.guide_figures --out docs/figures
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "To read: out/docs/index.html"

test: $(INSTALLED)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

# For every change: no training, sweeps, reports, browsers, notebooks or wheels, which `make test` has.
check: lint
	@$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not slow" --ignore tests/organism --ignore tests/sweep \
	    --ignore tests/report --ignore tests/analyses --ignore tests/test_notebooks.py

lint: $(INSTALLED)
	$(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports --no-cache

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@index="$(TORCH_INDEX)"; \
	if [ -n "$$index" ] && ! $(BIN)/python -c "import sys, urllib.request as r; \
	r.urlopen(sys.argv[1] + '/torch/', timeout=10)" "$$index" 2>/dev/null; then \
	    echo "$$index cannot be reached: taking torch from pip's own index"; index=""; fi; \
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)" \
	    $${index:+--extra-index-url "$$index"}
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache
