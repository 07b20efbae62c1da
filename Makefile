.DEFAULT_GOAL := help
.PHONY: help setup demo check lint scripts types imports test coverage test-slow test-oldest dist test-dist evidence evidence-study evidence-audit evidence-again evidence-losses evidence-peer full-scale account test-evidence bench audit licenses docs docs-serve screenshots clean
SHELL := bash
BIN := .venv/bin
PYTHON ?= python3
DEMO := .demo
BIOME := @biomejs/biome@2.6.8

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable . --group dev --group docs
	@touch $@

setup: .venv/ready ## Create .venv with lineage and all it needs

demo: setup ## Grow a patriarch and two students on digits, and write their tree as a page
	@mkdir -p $(DEMO)
	cd $(DEMO) && ../$(BIN)/lineage grow digits
	cd $(DEMO) && ../$(BIN)/lineage tree digits
	cd $(DEMO) && ../$(BIN)/lineage tree digits --html tree.html
	@echo
	@echo "Open the tree in a browser:   file://$(CURDIR)/$(DEMO)/tree.html"
	@echo "Open it with its runs in MLflow:   cd $(DEMO) && ../$(BIN)/lineage ui"

check: lint scripts types imports ## Style, types and who imports whom

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

scripts:
	@if command -v npx >/dev/null; then npx --yes $(BIOME) check --error-on-warnings lineage/display/page; \
	else echo "The page's scripts are not checked: Node.js with npx is not installed."; fi

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

# A file stays on one worker, which makes its fixtures once. The files with the fewest tests take the longest,
# so they must not come last, where xdist puts them by default.
PYTEST_ON_TWO = $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: setup ## Run the tests
	$(PYTEST_ON_TWO)

coverage: setup ## Run the tests, slower, and print their coverage, which must be 90 %
	$(PYTEST_ON_TWO) --cov --cov-report=term

test-slow: setup ## Run the long tests, of whose kinds `make test` has a sample
	$(PYTEST_ON_TWO) -m slow

.venv-oldest/ready: pyproject.toml tests/oldest.py
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --upgrade pip
	$(PYTHON) tests/oldest.py > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet --editable '.[hub,auth,studies]' --group dev \
	  --constraint .venv-oldest/constraints.txt
	@touch $@

test-oldest: BIN := .venv-oldest/bin
test-oldest: .venv-oldest/ready ## Run the tests on the oldest versions that pyproject.toml allows
	$(PYTEST_ON_TWO)

dist: setup ## Build the wheel and the source distribution into dist/
	rm -rf dist
	$(BIN)/python -m hatchling build --directory dist

test-dist: dist ## Install the wheel into an empty environment and use it from an empty folder
	$(BIN)/pytest -m packaging tests/packaging

DATA ?= ../shared/data/cifar100

evidence: setup ## Grow the families of docs/evidence on CIFAR-100 in DATA; may be stopped (5 hours)
	$(BIN)/python tests/evidence/families.py --data $(DATA)

evidence-study: setup ## Try strictness and temperature in the regime of the evidence (2 hours of a core)
	$(BIN)/python tests/evidence/further.py study --data $(DATA)

evidence-audit: setup ## Attack a strict and a tolerant family of the evidence with 16 shadows (4 hours of a core)
	$(BIN)/python tests/evidence/further.py audit --data $(DATA)

evidence-again: setup ## Grow a seed of two arms again and compare the weights (an hour of a core)
	$(BIN)/python tests/evidence/further.py again --data $(DATA)

evidence-losses: setup ## Teach small students by every loss and term (an hour of a core)
	$(BIN)/python tests/evidence/losses.py --data $(DATA)

account: setup ## Rebuild the tables and figures of docs/evidence.md from the texts in docs/evidence
	$(BIN)/python tests/evidence/account.py --data $(DATA)

# Apart from `evidence`, since it needs torchdistill, and from `bench`, since it measures accuracy: it may share the
# machine, be stopped and be run again
evidence-peer: setup ## Train students of the same teachers by lineage and by torchdistill (2 hours of one core)
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python tests/benchmarks/peer.py --data $(DATA) --page docs/explanation/peer.md

full-scale: setup ## Run every recipe that needs a GPU for a few steps on one thread (half an hour)
	$(BIN)/python tests/benchmarks/full_scale.py --data $(DATA) --page docs/explanation/peer.md

test-evidence: setup ## Grow cifar100-small on real images and hold it to its promises (half an hour)
	$(BIN)/pytest -m evidence -s tests/evidence

bench: setup ## Time everything and write the tables of docs/explanation/performance.md (half an hour, alone)
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python tests/benchmarks/run.py $(BENCH)

audit: setup ## Look up what is installed in a database of vulnerabilities; needs pypi.org
	$(BIN)/python -m pip install --quiet --group audit
	$(BIN)/python -m pip freeze --exclude-editable > .venv/installed.txt
	$(BIN)/pip-audit --requirement .venv/installed.txt --no-deps --disable-pip --strict --progress-spinner off

licenses: setup ## List the licenses of what is installed
	$(BIN)/python -m pip install --quiet --group audit
	$(BIN)/pip-licenses --from=mixed --format=markdown

docs: setup ## Build the documentation into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-serve: setup ## Serve the documentation on http://127.0.0.1:8000, rebuilt on every change
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

screenshots: setup demo ## Take the pictures in docs/images, from the store in use (cifar100-small) and the demo
	$(BIN)/python tests/evidence/screenshots.py docs/images
	cd $(DEMO) && ../$(BIN)/python ../tests/evidence/screenshots.py ../docs/images --family digits --prefix tutorial- --other 0

clean: ## Delete caches and the demo, but neither .venv nor any registry
	rm -rf $(DEMO) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage* dist build site
