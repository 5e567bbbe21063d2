# `make help` lists all targets. The most common ones:
#   make demo          runs the micro study in small on this machine: environment, stages, tables, RO-Crate, verification
#   make study         runs all of it: nine recipes, three seeds
#   make demo-bridge   runs the second study on this machine and shows its claims
#   make test          runs the tests
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
VAST   := packages/snakemake-executor-plugin-vast
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet

.PHONY: help demo study demo-bridge atlas worlds dose report test test-long test-models test-study test-report test-bridge test-faults smoke-vast test-slurm test-storage test-plugins test-metadata test-trackers test-exports test-docs test-image wheel lint format config docs pictures dag bench bench-long bench-gpu coverage lock unlock clean
help:
	@grep -hE '^[a-z-]+:.*#' $(MAKEFILE_LIST) | sed -E 's/:[^#]*# */\t/' | expand -t 12

# On a terminal a table shows the running jobs. STUDY=config/... selects another study.
LIVE  = $(shell test -t 2 && echo --logger live)
STUDY ?=
WHICH = $(if $(STUDY),--configfile $(STUDY))
FILE  = $(or $(STUDY),config/default.yaml)
NAME  = $(or $(shell sed -n 's/^study: *"\{0,1\}\([a-z0-9_-]*\).*/\1/p' $(FILE)),micro)

demo:  # run the micro study in small, one seed of five recipes, with all that `make study` gives
	@$(MAKE) --no-print-directory study STUDY=config/demo.yaml

INSTALLED = $(wildcard $(VENV)/.ready)
.PHONY: announce
announce:
	@$(if $(INSTALLED),$(BIN)/python,$(PYTHON)) tools/announce_run.py $(FILE) $(NAME) $(if $(INSTALLED),,packages)

study: announce $(VENV)/.ready  # run the micro study: report, recovery table, RO-Crate; verify it (STUDY=config/mine.yaml)
	$(BIN)/snakemake $(WHICH) --cores all --quiet reason host $(LIVE)
	@$(MAKE_REPORT)
	@$(BIN)/ablation table --configfile $(FILE)
	@$(BIN)/snakemake $(WHICH) --reporter runcrate 2> logs/crate.log || { cat logs/crate.log >&2; exit 1; }
	@$(BIN)/ablation verify --configfile $(FILE)
	@$(BIN)/python -m ablation.report.finding results/$(NAME)/recovery.csv

MAKE_REPORT = $(BIN)/snakemake $(WHICH) --quiet all --report results/report.html \
  --report-stylesheet workflow/report/style.css

report: $(VENV)/.ready  # write the study as one page, results/report.html (STUDY=config/mine.yaml)
	$(BIN)/snakemake $(WHICH) --cores all --quiet reason host $(LIVE) --forcerun runs
	$(MAKE_REPORT)

test-report: report $(VENV)/.ready-dev  # test that page in a headless browser (apt-get install chromium)
	ABLATION_REPORT=$(CURDIR)/results/report.html $(BIN)/python -m pytest tests/workflow/test_report.py

demo-bridge: $(VENV)/.ready  # run the second study and show its claims
	$(BIN)/snakemake --cores all --quiet reason host --configfile config/bridge.yaml -- bridge
	@$(BIN)/ablation table results/micro/bridge/claims.csv

atlas: $(VENV)/.ready  # run the atlas: what each kind of intervention costs, and what comes back (ten minutes on two cores)
	$(BIN)/snakemake --cores all --quiet reason host --configfile config/atlas.yaml \
	  -- results/atlas/recovery.csv results/atlas/figures/interventions.svg
	@$(BIN)/ablation table results/atlas/recovery.csv

# Each world has a base of its own. A world whose base does not learn its tasks has no results.
WORLDS ?= 7601 7602 7603 7604 7605 7606 7607 7608
worlds: $(VENV)/.ready  # run eight worlds, each with a base of its own, and pool their recovery (hours)
	for world in $(WORLDS); do seed="seed: $$world"; \
	  $(BIN)/snakemake --cores all --quiet reason host --configfile config/worlds.yaml --config study=world$$world \
	    world="{$$seed, items: {$$seed}, finetuning: {$$seed}, pretrain: {$$seed}}" \
	    -- results/world$$world/recovery.csv || echo "world $$world has no results" >&2; done
	$(BIN)/ablation worlds results/world*/recovery.csv --write results/worlds

dose: $(VENV)/.ready  # run the study of doses: does what comes back carry over to tasks that no record asks? (an hour)
	$(BIN)/snakemake --cores all --quiet reason host --configfile config/dose.yaml -- results/dose/recovery.csv
	$(BIN)/ablation dose results/dose --write results/doses

# Three at a time on two cores: a third of their time tests wait for processes and files.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder
test: $(VENV)/.ready-dev  # run the tests that need no GPU, no cluster and no fake market (ten minutes on two cores)
	$(PYTEST) -m "not gpu and not slurm and not e2e and not long"

test-long: $(VENV)/.ready-dev  # run whole studies beside the micro one, trainings of several processes, the site in a browser
	$(PYTEST) -m "long and not gpu and not slurm and not e2e"

test-study: $(VENV)/.ready-dev  # run the tests of the micro study on all its seeds (some minutes more)
	ABLATION_STUDY=whole $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder \
	  tests/workflow/test_micro_study.py tests/workflow/test_provenance_study.py \
	  tests/workflow/test_staleness.py tests/workflow/test_report.py tests/workflow/test_crate_study.py \
	  tests/workflow/test_rehearsal_study.py tests/unit/config/test_config.py tests/unit/scoring/test_prompts.py \
  tests/unit/repository/test_pretrain_worlds.py

test-bridge: $(VENV)/.ready-dev  # test the micro bridge on its frozen seeds and a toy of the 7B/8B study (half an hour)
	$(BIN)/python -m pytest -m e2e tests/workflow/test_bridge_rehearsal.py tests/workflow/test_bridge_study.py

test-faults: $(VENV)/.ready-dev  # test the vast executor with every fault of a fake Vast and RunPod; update their tables
	@rm -rf .pytest_cache/faults
	FAULT_RESULTS=$(CURDIR)/.pytest_cache/faults $(BIN)/python -m pytest -n 4 --dist loadgroup tests/e2e $(VAST)/tests -m e2e
	PYTHONPATH=$(VAST)/tests $(BIN)/python -m vast_support.fault_table .pytest_cache/faults docs/vast.md vast
	PYTHONPATH=$(VAST)/tests $(BIN)/python -m vast_support.fault_table .pytest_cache/faults docs/runpod_contract.md runpod

CAP ?= 0.50
smoke-vast: $(VENV)/.ready-dev  # rent one cheap GPU of Vast.ai for minutes, after a question; record its answers (CAP=0.50)
	@PYTHONPATH=$(VAST)/tests $(BIN)/python -m vast_support.smoke --cap $(CAP)

test-models: $(VENV)/.ready-dev  # try a tiny checkpoint of every decoder family of transformers; update docs/models.md (two to ten minutes)
	$(BIN)/python -m tests.support.models_page docs/models.md

test-slurm: $(VENV)/.ready-dev  # test on a real SLURM cluster of one node (as root; installs SLURM with apt-get)
	ABLATION_SLURM=install $(BIN)/python -m pytest -m slurm tests/workflow/test_slurm.py

test-storage: $(VENV)/.ready-dev  # run a study in a storage, fs and S3, by jobs that share no folder (needs a package registry; ten minutes)
	$(BIN)/python -m pytest -s -m e2e tests/workflow/test_storage_study.py

test-plugins: $(VENV)/.ready-dev  # test the wheel, and each plugin without ablation and with Snakemake's own tests (needs a package registry)
	$(BIN)/python -m pytest -m e2e tests/workflow/test_wheel.py packages/snakemake-logger-plugin-live \
	  packages/snakemake-report-plugin-runcrate $(VAST)/tests/e2e/test_kit.py $(VAST)/tests/e2e/test_foreign.py

test-metadata: $(VENV)/.ready-dev  # test the metadata of a deposit with mlcroissant, datacite, cffconvert and codecarbon (needs a package registry)
	$(BIN)/python -m pytest -m e2e tests/unit/publication/test_formats.py

test-trackers: $(VENV)/.ready-dev  # test `tracking:` with tensorboard, trackio, wandb and mlflow, offline and broken (needs a package registry)
	$(BIN)/python -m pytest -m e2e tests/unit/training/test_trackers.py

test-exports: $(VENV)/.ready-dev  # test exports with Every Eval Ever's own converter and validator (needs Python 3.12 and a package registry)
	$(BIN)/python -m pytest -m e2e tests/workflow/test_every_eval_ever.py

test-docs: $(VENV)/.ready-dev  # run every command of README and docs that needs no GPU, cluster or account (half an hour at most)
	$(BIN)/python -m pytest -s -m e2e tests/workflow/test_docs.py

test-image: $(VENV)/.ready-dev  # run the steps of the Dockerfile in a copy of this machine, without Docker (as root; needs a package registry)
	$(BIN)/python -m pytest -m e2e tests/workflow/test_image.py

# hatchling, in the lock of the tests, builds without a network.
wheel: $(VENV)/.ready-dev  # build dist/*.whl: the command line with the workflow, and its plugins
	@for folder in . packages/*/; do \
	  (cd $$folder && $(CURDIR)/$(BIN)/python -m hatchling build --target wheel --directory $(CURDIR)/dist) || exit 1; done

lint: $(VENV)/.ready-dev  # run the checks that .ci/run has in addition to the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules workflow
	$(BIN)/lint-imports --no-cache > $(VENV)/imports.txt || { cat $(VENV)/imports.txt; exit 1; }
	$(BIN)/mypy
	$(BIN)/snakemake --lint
	@$(BUILD_SITE)

format: $(VENV)/.ready-dev  # format every file
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules workflow

config: $(VENV)/.ready  # write comments, schema and manual of config/ from src/ablation/config
	$(BIN)/python tools/config_files.py

docs: $(VENV)/.ready-dev  # build the documentation site, which a browser opens from build/site/index.html
	@$(BUILD_SITE)
	@echo "build/site/index.html"

# The variable stops a notice of the theme about the next major version of its generator.
BUILD_SITE = NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

pictures: $(VENV)/.ready  # write the pictures of docs/concepts.md and the data of config/example.yaml
	$(BIN)/python tools/concept_pictures.py
	$(BIN)/python tools/example_data.py

dag: $(VENV)/.ready  # write the rule graph as mermaid text to docs/rulegraph.md
	{ printf '# The rule graph\n\nMade by `make dag`.\n\n```mermaid\n'; \
	  $(BIN)/snakemake --rulegraph mermaid-js results/recovery.csv; printf '```\n'; } > docs/rulegraph.md

bench: $(VENV)/.ready  # measure scoring and generation on this CPU against lm-eval, a step of the bridge, dry runs of sweeps
	@mkdir -p benchmarks/results
	$(BIN)/python benchmarks/dry_run.py > benchmarks/results/dry_run.part
	@mv benchmarks/results/dry_run.part benchmarks/results/dry_run.json
	$(BIN)/python benchmarks/scoring_cpu.py > benchmarks/results/scoring_cpu.part
	@mv benchmarks/results/scoring_cpu.part benchmarks/results/scoring_cpu.json
	$(BIN)/python benchmarks/generation_cpu.py > benchmarks/results/generation_cpu.part
	@mv benchmarks/results/generation_cpu.part benchmarks/results/generation_cpu.json
	$(BIN)/python benchmarks/bridge_step.py > benchmarks/results/bridge_step.part
	@mv benchmarks/results/bridge_step.part benchmarks/results/bridge_step.json
	@cd benchmarks/results && cat dry_run.json scoring_cpu.json generation_cpu.json bridge_step.json

bench-long: $(VENV)/.ready  # measure long prompts on this CPU against lm-eval, for docs/long_prompts.md (minutes; 13 GiB)
	@mkdir -p benchmarks/results
	$(BIN)/python benchmarks/long_prompts.py > benchmarks/results/long_prompts.part
	@mv benchmarks/results/long_prompts.part benchmarks/results/long_prompts.json
	$(BIN)/python benchmarks/long_prompts_figure.py benchmarks/results/long_prompts.json

bench-gpu: $(VENV)/.ready  # measure scoring, generation, training and whole jobs of a 3.4 B model on this GPU against HFLM and TRL
	$(BIN)/python benchmarks/gpu.py --out benchmarks/results/$(or $(NAME),h100).json
	$(BIN)/python benchmarks/gpu_figure.py benchmarks/results/$(or $(NAME),h100).json

coverage: $(VENV)/.ready  # measure the coverage of the intervals and write it to docs/statistics.md
	$(BIN)/python benchmarks/coverage.py --write docs/statistics.md
	$(BIN)/python benchmarks/coverage_clusters.py --write docs/statistics.md

# `sys_platform == 'none'` excludes torch and its CUDA packages, which have lock files of their own: a
# machine installs one build of torch or the other. No package registry has the CPU build, so its hash
# is that of the wheel that pip finds here. roc-validator requires an older rich only for the colours of
# its command line, and botocore an older python-dateutil whose functions have not changed
# (packages/snakemake-executor-plugin-vast/tests/e2e/test_state_bucket.py).
COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header --no-annotate
LOCKED  = requirements.txt requirements-torch.txt requirements-torch-cpu.txt
lock: $(VENV)/.ready-dev  # resolve requirements*.in again (needs uv, and the CPU build of torch where pip looks)
	echo "torch ; sys_platform == 'none'" > $(VENV)/no-torch.txt
	$(COMPILE) requirements.in --override $(VENV)/no-torch.txt --no-emit-package torch -o requirements.txt
	$(COMPILE) requirements-torch.in -c requirements.txt -o requirements-torch.txt \
	  $$(sed -n 's/^\([a-z0-9.-]*\)==.*/--no-emit-package \1/p' requirements.txt)
	$(COMPILE) requirements-build.in -o requirements-build.txt
	printf 'rich\npython-dateutil\nplaywright ; sys_platform == "none"\n' > $(VENV)/any.txt
	$(COMPILE) requirements-dev.in --override $(VENV)/any.txt -o requirements-dev.txt
	rm -rf $(VENV)/cpu && $(BIN)/python -m pip download --quiet --no-deps --dest $(VENV)/cpu \
	  $$(sed -n 's/^torch==[0-9.]*/&+cpu/p' requirements-torch.in)
	{ sed -n 's/^torch==[0-9.]*/&+cpu \\/p' requirements-torch.in; \
	  $(BIN)/python -m pip hash $(VENV)/cpu/*.whl | sed -n 's/^--hash/    &/p'; } > requirements-torch-cpu.txt
	sed -i "s/^# lock.*/# lock $$(cat $(LOCKED) | sha256sum | cut -c 1-64)/" environment.post-deploy.sh

unlock: $(VENV)/.ready  # remove the lock of a run that was killed; a living run keeps its lock
	@$(BIN)/python -m ablation.workflow.living

clean:  # remove results, logs, state and .snakemake, after a question that names their sizes (CLEAN=yes: without it)
	@CLEAN='$(CLEAN)' sh tools/clean.sh results logs state .snakemake
	@git checkout --quiet -- results/README.md 2> /dev/null || :

$(VENV)/.ready: requirements.txt requirements-torch.txt requirements-torch-cpu.txt requirements-build.txt tools/install.sh pyproject.toml $(wildcard packages/*/pyproject.toml)
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python >= 3.11 is needed, {sys.version.split()[0]} found: make PYTHON=python3.11"'
	$(PYTHON) -m venv $(VENV)
	@{ sh tools/install.sh $(BIN)/python 2> $(VENV)/install.log && touch $@.whole; } | $(BIN)/python tools/install_progress.py
	@mv $@.whole $@ 2> /dev/null || { cat $(VENV)/install.log >&2; \
	  echo "Packages are missing: pip says above which, and why. Then: make $(MAKECMDGOALS)" >&2; exit 1; }

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.txt
	$(PIP) --no-deps --require-hashes -r requirements-dev.txt
	@touch $@
