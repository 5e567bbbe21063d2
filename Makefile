# make demo   the micro study on this machine: environment, stages, results/recovery.csv, its RO-Crate
# make demo-bridge   the second study: results/micro/bridge/, ending with its claims
# make test   the tests, with what they need
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet

.PHONY: help demo demo-bridge report test test-report test-bridge test-faults test-slurm lint format config dag bench bench-gpu coverage lock clean
help:
	@grep -hE '^[a-z-]+:.*#' $(MAKEFILE_LIST) | sed -E 's/:[^#]*# */\t/' | expand -t 12

# On a terminal what runs is shown as a table; STUDY=config/... is another study.
LIVE  = $(shell test -t 2 && echo --logger live)
STUDY ?=
WHICH = $(if $(STUDY),--configfile $(STUDY))

demo: $(VENV)/.ready  # the micro study, with its report, recovery table and RO-Crate
	$(BIN)/snakemake --cores all --quiet reason host $(LIVE)
	@$(MAKE_REPORT)
	@$(BIN)/ablation table results/recovery.csv
	@$(BIN)/snakemake --reporter rocrate 2> logs/crate.log || { cat logs/crate.log >&2; exit 1; }

MAKE_REPORT = $(BIN)/snakemake $(WHICH) --quiet all --report results/report.html \
  --report-stylesheet workflow/report/style.css

report: $(VENV)/.ready  # the study in one file for any browser: results/report.html (STUDY=config/mine.yaml)
	$(BIN)/snakemake $(WHICH) --cores all --quiet reason host $(LIVE) --forcerun runs
	$(MAKE_REPORT)

test-report: report $(VENV)/.ready-dev  # that report in a headless browser (apt-get install chromium)
	ABLATION_REPORT=$(CURDIR)/results/report.html $(BIN)/python -m pytest tests/workflow/test_report.py

demo-bridge: $(VENV)/.ready  # the second study on this machine, ending with its claims
	$(BIN)/snakemake --cores all --quiet reason host --configfile config/bridge.yaml -- bridge
	@$(BIN)/ablation table results/micro/bridge/claims.csv

test: $(VENV)/.ready-dev  # every test that needs no GPU, cluster or fake market
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder -m "not gpu and not slurm and not e2e"

test-bridge: $(VENV)/.ready-dev  # the micro bridge on its frozen seeds, and a toy of the 7B/8B study (11 minutes)
	$(BIN)/python -m pytest -m e2e tests/workflow/test_bridge_rehearsal.py tests/workflow/test_bridge_study.py

test-faults: $(VENV)/.ready-dev  # the vast executor against a fake Vast, every fault; docs/vast.md gets the table
	@rm -rf .pytest_cache/faults
	FAULT_ROWS=$(CURDIR)/.pytest_cache/faults $(BIN)/python -m pytest -n 4 --dist loadgroup tests/e2e -m e2e
	$(BIN)/python -m tests.e2e.table .pytest_cache/faults

test-slurm: $(VENV)/.ready-dev  # a study on a real SLURM cluster of one node (root; installs SLURM where apt-get is)
	ABLATION_SLURM=install $(BIN)/python -m pytest -m slurm tests/workflow/test_slurm.py

lint: $(VENV)/.ready-dev  # what .ci/run checks beside the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules workflow
	$(BIN)/snakemake --lint

format: $(VENV)/.ready-dev  # bring every file into the house's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules workflow

config: $(VENV)/.ready  # comments, schema and manual of config/, from src/ablation/schema.py
	$(BIN)/python tools/config_files.py

dag: $(VENV)/.ready  # the rule graph, as mermaid text, into docs/rulegraph.md
	{ printf '# The rule graph\n\nMade by `make dag`.\n\n```mermaid\n'; \
	  $(BIN)/snakemake --rulegraph mermaid-js results/recovery.csv; printf '```\n'; } > docs/rulegraph.md

bench: $(VENV)/.ready  # scoring on this CPU beside stock lm-eval; a bridge's step; dry runs of sweeps
	@mkdir -p benchmarks/results
	$(BIN)/python benchmarks/dry_run.py > benchmarks/results/dry_run.part
	@mv benchmarks/results/dry_run.part benchmarks/results/dry_run.json
	$(BIN)/python benchmarks/scoring_cpu.py > benchmarks/results/scoring_cpu.part
	@mv benchmarks/results/scoring_cpu.part benchmarks/results/scoring_cpu.json
	$(BIN)/python benchmarks/bridge_step.py > benchmarks/results/bridge_step.part
	@mv benchmarks/results/bridge_step.part benchmarks/results/bridge_step.json
	@cat benchmarks/results/dry_run.json benchmarks/results/scoring_cpu.json benchmarks/results/bridge_step.json

bench-gpu: $(VENV)/.ready  # scoring and training of a 3.4 B model on this GPU, beside HFLM, TRL and the seed's loops
	$(BIN)/python benchmarks/gpu.py --out benchmarks/results/$(or $(NAME),h100).json
	$(BIN)/python benchmarks/gpu_figure.py benchmarks/results/$(or $(NAME),h100).json

coverage: $(VENV)/.ready  # how often the tables' intervals hold the truth, into docs/statistics.md
	$(BIN)/python benchmarks/coverage.py --write docs/statistics.md

# `sys_platform == 'none'` keeps torch and its CUDA packages out: CPU and CUDA machines share one lock.
# roc-validator asks for an older rich, for the colours of its command line alone; botocore for an
# older python-dateutil, of which it uses what has not changed (tests/e2e/test_bucket.py).
lock: $(VENV)/.ready-dev  # resolve requirements*.in again (needs uv)
	echo "torch ; sys_platform == 'none'" > $(VENV)/no-torch.txt
	uv pip compile --quiet requirements.in --override $(VENV)/no-torch.txt --no-emit-package torch \
	  --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements.txt
	printf 'rich\npython-dateutil\n' > $(VENV)/any.txt
	uv pip compile --quiet requirements-dev.in --override $(VENV)/any.txt \
	  --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate -o requirements-dev.txt
	$(BIN)/python tools/conda_environment.py > environment.yml

clean:  # forget results and logs, keep the environment
	rm -rf results logs state .snakemake

$(VENV)/.ready: requirements-torch.txt requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python >= 3.11 is needed, {sys.version.split()[0]} found: make PYTHON=python3.11"'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements-torch.txt
	$(PIP) --no-deps --require-hashes -r requirements.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.txt
	$(PIP) --no-deps --require-hashes -r requirements-dev.txt
	@touch $@
