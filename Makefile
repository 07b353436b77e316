# `make demo` and `make test` are all a fresh clone needs: both set up .venv first, once.

PYTHON ?= python3
VENV := .venv
BIN := $(abspath $(VENV))/bin
PIP := $(BIN)/python -m pip
STAMP := $(VENV)/.installed
# The frameworks that `fastwarp.attach` and `fastwarp.transforms` know, in an environment of their own.
FRAMEWORKS := .venv-integrations
FRAMEWORKS_STAMP := $(FRAMEWORKS)/.installed
# What builds the documentation: it reads the sources and imports nothing of them, so there is no torch in it.
DOCS := .venv-docs
DOCS_STAMP := $(DOCS)/.installed
# Results of `make bench` and `make gpu`, as JSON.
OUT ?= bench/results
# Further arguments, as in `make test ARGS="-k axis"` or `make demo ARGS="--image photo.jpg"`.
ARGS ?=
# A wheel unpacked by pip, which is what users get: mypy and the doctests run on it.
SITE := build/site

.DEFAULT_GOAL := help
.PHONY: help demo test test-integrations bench check docs gpu gpu-quick release clean

help: ## list the targets
	@grep -hE '^[a-z -]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# torch comes first and by itself: asked for without its version, it brings several GB of CUDA packages.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"constraints.txt pins versions for Python 3.11 or newer, but $(PYTHON) is Python {v[0]}.{v[1]}: run make with PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch==2.13.0
	$(PIP) install -c constraints.txt setuptools
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

demo: $(STAMP) ## zoom and unzoom a real photo: writes a picture into demo/, prints times and errors
	$(BIN)/fastwarp demo $(ARGS)

test: $(STAMP) ## run the tests
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

# Nothing brings its dependencies along: most would bring a torch for GPUs. The list is complete.
$(FRAMEWORKS_STAMP): pyproject.toml tests/integrations/constraints.txt
	$(PYTHON) -m venv $(FRAMEWORKS)
	$(FRAMEWORKS)/bin/python -m pip install -c tests/integrations/constraints.txt torch==2.13.0
	$(FRAMEWORKS)/bin/python -m pip install --no-deps -r tests/integrations/constraints.txt
	$(FRAMEWORKS)/bin/python -m pip install --no-deps --no-build-isolation -e .
	@touch $@

test-integrations: $(FRAMEWORKS_STAMP) ## the tests of fastwarp.attach and transforms with the libraries they know
	OMP_NUM_THREADS=1 $(FRAMEWORKS)/bin/pytest -n 2 tests/integrations $(ARGS)

bench: $(STAMP) ## time the operators and their peers on two CPU threads
	mkdir -p $(OUT)
	OMP_NUM_THREADS=2 $(BIN)/pytest bench -m "not gpu" --benchmark-json=$(OUT)/cpu.json $(ARGS)
	$(BIN)/python bench/page.py

check: $(STAMP) ## lint, format, types and doctests of the built wheel
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	rm -rf build
	$(BIN)/python -m build --quiet --wheel --no-isolation --outdir build/dist
	$(PIP) install --quiet --no-deps --target $(SITE) build/dist/*.whl
	cd build && MYPYPATH=site $(BIN)/mypy --config-file ../pyproject.toml -p fastwarp
	cd build && PYTHONPATH=$(abspath $(SITE)) $(BIN)/pytest -c ../pyproject.toml --doctest-modules --pyargs fastwarp \
		--ignore-glob='*/openmmlab.py' --ignore-glob='*/transforms/_[akt]*.py'  # whose libraries are not there

$(DOCS_STAMP): docs/constraints.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --no-deps -r docs/constraints.txt
	@touch $@

docs: $(DOCS_STAMP) ## build the documentation site into build/docs; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build

# Such a machine has its own torch and often no network: nothing is installed, and `python3` is used as it is. The rooms
# are laid out under build/ as a wheel would, and pytest starts there because it puts its folder on sys.path.
gpu gpu-quick: ## on a machine with a GPU and torch: ten minutes of checks and times, or the first three of them
	rm -rf $(SITE)
	mkdir -p $(SITE) $(OUT)
	cp -R fastwarp $(SITE)/fastwarp
	cp -R kernels reference $(SITE)/fastwarp/
	cd build && TRITON_CACHE_DIR=$(abspath build/triton) PYTHONPATH=$(abspath $(SITE))$${PYTHONPATH:+:$$PYTHONPATH} \
		$(PYTHON) ../bench/gpu.py $(if $(filter gpu-quick,$@),quick,all) --out $(abspath $(OUT)) $(ARGS)

release: ## tag a version, date the changelog, build and check sdist and wheel: make release VERSION=0.2.0
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet --upgrade build twine
	.venv-release/bin/python .ci/release.py "$(VERSION)"

clean: ## remove what the other targets made, except the environments in .venv*
	rm -rf build dist demo fastwarp.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -path './.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
