# `make demo` and `make test` need Python 3.11 or 3.12, make and bash, and nothing else: all packages go into .venv.
#
#   PYTHON       the Python that .venv is made with
#   PIP_OPTIONS  for pip: `--extra-index-url https://download.pytorch.org/whl/cpu` leaves out the CUDA libraries
#   CONFIG       for `make plan`: presets laid over config.yaml
#   CASES        for `make fuzz`: broken files that each of its tests reads
#   GPUS         for `make plan`: how many to plan for, such as "4 16"
#   BENCH        for `make bench`: its options, such as --quick
#   MUTATION     for `make mutation`: its options, such as --modules fsc

SHELL := /bin/bash
PYTHON ?= $(shell for python in python3 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$python && break; \
	done || echo python3)
PIP_OPTIONS ?=
CONFIG ?=
CASES ?= 2000
GPUS ?=
BIN := .venv/bin
OUTSIDE := --ignore tests/browser --ignore tests/interop --ignore tests/faults --ignore tests/slurm --ignore tests/gpu --ignore tests/install
WORKERS := --numprocesses logical --maxprocesses 8 --dist loadfile

.PHONY: demo ablation test lint unit-test workflow-test test-interop test-browser test-faults test-slurm test-gpu test-install docs notebook fuzz mutation plan bench bench-peers bench-scale format clean

demo: .venv/installed
	$(BIN)/snakemake --cores all --quiet host rules --configfile workflow/presets/demo.yaml
	$(BIN)/snakemake report --cores 1 --quiet all --configfile workflow/presets/demo.yaml
	@echo "Open results/demo/report.html in a browser."

ablation: .venv/installed
	$(BIN)/snakemake --cores all --quiet host rules --configfile workflow/presets/ablation.yaml

# The workflow's tests, one after the other, take as long as all others: they begin first, and the others go on beside them.
test: lint
	$(BIN)/pytest $(WORKERS) --no-loadscope-reorder tests/workflow tests $(OUTSIDE)

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

unit-test: .venv/installed
	$(BIN)/pytest $(WORKERS) --ignore tests/workflow $(OUTSIDE)

workflow-test: .venv/installed
	$(BIN)/pytest $(WORKERS) tests/workflow

test-interop: .venv/installed .venv-interop/installed
	@command -v relion_reconstruct > /dev/null || \
		{ echo "error: RELION is not installed; on Debian and Ubuntu: apt install relion" >&2; exit 1; }
	$(BIN)/pytest tests/interop

test-browser: .venv/installed .venv-browser/installed
	.venv-browser/bin/pytest --confcutdir tests/browser tests/browser

# Runs it in place, with the packages of constraints.txt, and fails where a cell does.
notebook: .venv-notebook/installed
	OMP_NUM_THREADS=1 .venv-notebook/bin/python -c 'import nbclient, nbformat; path = "docs/particles-to-map.ipynb"; \
		notebook = nbformat.read(path, 4); \
		nbclient.NotebookClient(notebook, record_timing=False).execute(); nbformat.write(notebook, path)'

fuzz: .venv/installed
	FUZZ_CASES=$(CASES) $(BIN)/pytest tests/test_fuzz.py

mutation: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutation/run.py $(MUTATION)

test-faults: .venv/installed
	$(BIN)/pytest tests/faults

test-slurm: .venv/installed
	@type munged slurmctld slurmd sbatch > /dev/null && [ $$(id -u) = 0 ] || \
		{ echo "error: Slurm and root are needed; on Debian and Ubuntu: apt install munge slurmctld slurmd slurm-client" >&2; exit 1; }
	$(BIN)/pytest tests/slurm

test-gpu: .venv/installed
	CUDA_VISIBLE_DEVICES=0 $(BIN)/pytest tests/gpu

# In an environment of its own, with any Python that pyproject.toml allows.
test-install: .venv-install/installed
	.venv-install/bin/pytest --confcutdir tests/install tests/install

# mkdocs wants its site outside of the documents' folder, which here is the whole repository.
docs: .venv-docs/installed
	site=$$(mktemp -d) && NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --config-file docs/mkdocs.yml --site-dir $$site && \
		chmod 755 $$site && mkdir -p build && rm -rf build/docs && mv $$site build/docs
	@echo "Open build/docs/index.html in a browser."

plan: .venv/installed
	$(BIN)/python -m equipose.study.plan config.yaml $(CONFIG) $(if $(GPUS),--gpus $(GPUS))

bench: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench.py $(BENCH)

# RELION is Debian's; cryoDRGN and ASPIRE get environments of their own.
bench-peers: .venv/installed build/peers/installed
	$(BIN)/python tests/benchmarks/peers/race.py build/race $(BENCH)
	$(BIN)/python tests/benchmarks/peers/race.py build/race --score

bench-scale: .venv/installed
	$(BIN)/python tests/benchmarks/scale.py build/scale $(BENCH)

format: .venv/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile workflow

clean:
	rm -rf .venv .venv-browser .venv-notebook .venv-interop .venv-install .venv-docs build .pytest_cache .ruff_cache .mypy_cache

.venv/installed: pyproject.toml constraints.txt requirements-nodeps.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || \
		{ echo "error: Python 3.11 or 3.12 is needed (numpy 1 has no wheels beyond): make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "error: $(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(PIP_OPTIONS) --constraint constraints.txt --editable '.[test,slurm]'
	$(BIN)/pip install --quiet $(PIP_OPTIONS) --no-deps --requirement requirements-nodeps.txt
	touch $@

build/peers/installed:
	$(PYTHON) -m venv build/peers/cryodrgn
	$(PYTHON) -m venv build/peers/aspire
	build/peers/cryodrgn/bin/pip install --quiet $(PIP_OPTIONS) cryodrgn==4.3.1
	build/peers/aspire/bin/pip install --quiet $(PIP_OPTIONS) aspire==0.14.3
	touch $@

.venv-interop/installed:
	$(PYTHON) -m venv .venv-interop
	.venv-interop/bin/pip install --quiet $(PIP_OPTIONS) torch==2.13.0 cryodrgn==4.3.1 cryosparc-tools==5.0.3
	touch $@

.venv-notebook/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-notebook
	.venv-notebook/bin/pip install --quiet $(PIP_OPTIONS) --constraint constraints.txt --editable . ipykernel==7.4.0 nbclient==0.11.0
	touch $@

.venv-browser/installed:
	$(PYTHON) -m venv .venv-browser
	.venv-browser/bin/pip install --quiet playwright==1.65.2 pytest==9.2.0
	touch $@

.venv-install/installed:
	$(PYTHON) -m venv .venv-install
	.venv-install/bin/pip install --quiet build pytest
	touch $@

.venv-docs/installed: docs/requirements.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --requirement docs/requirements.txt
	touch $@
