# The report: pages that show the study's tables.
# Needs the tables of recovery.smk and figures.smk. Makes results/<study>/samples.csv and
# results/<study>/report/*.html; `make report` collects these pages and the figures in one file,
# results/report.html. No rule depends on them.


report: "../workflow/report/bridge.rst" if STUDY.bridge else "../workflow/report/workflow.rst"


if PATHS.has_table("samples"):

    rule samples:
        """The same prompts continued by the base and by one checkpoint of each recipe."""
        input:
            list(FINGERPRINTS.of("samples")["upstream"]),
            base_weights=ancient(PATHS.base_weights),
            weights=ancient(
                [f"{PATHS.trained(r, STUDY.seeds[0])}/model" for r in PATHS.under_masks]
            ),
        output:
            table=report(
                f"{RESULTS}/samples.csv",
                caption="../workflow/report/table_samples.rst",
                category=TABLES,
                labels={"table": "samples"},
            ),
            manifest=f"{RESULTS}/samples.manifest.json",
            run=f"{RESULTS}/samples.run.json",
        log:
            f"{LOGS}/samples.log",
        benchmark:
            f"{LOGS}/samples.benchmark.tsv"
        conda:
            "../environment.yml"
        threads: STUDY.hardware.threads
        resources:
            **FINGERPRINTS.scoring_hardware.resources(),
        params:
            fingerprint=FINGERPRINTS.text("samples"),
        message:
            "Report: continuing the same prompts with every model"
        script:
            "../workflow/scripts/samples.py"


rule pages:
    """Every table of the study as a sortable page that needs no network."""
    input:
        list(FINGERPRINTS.of("pages")["upstream"]),
        [PATHS.table(table) for table in PATHS.pages.values()],
    output:
        [
            report(
                f"{RESULTS}/report/{page}.html",
                caption=f"../workflow/report/table_{table}.rst",
                category=FIRST.pages[page].category,
                labels={"page": FIRST.page_title(page)},
            )
            for page, table in PATHS.pages.items()
        ],
        manifest=f"{RESULTS}/report/manifest.json",
        run=f"{RESULTS}/report/run.json",
    log:
        f"{LOGS}/pages.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=FINGERPRINTS.text("pages"),
    message:
        "Report: pages of tables"
    script:
        "../workflow/scripts/pages.py"


rule runs:
    """Pages of costs, times, environment and hashes; run records never cause a rerun."""
    input:
        manifests=LOADED.recorded,
        runs=ancient(LOADED.run_records),
    output:
        **{
            page.name: report(
                f"{LOADED.reported}/report/{page.name}.html",
                caption=f"../workflow/report/table_{page.name}.rst",
                category=page.category,
                labels={"page": FIRST.page_title(page.name)},
            )
            for page in RECORD_PAGES
        },
    log:
        f"{LOGS}/runs.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        carbon_region=STUDY.carbon_region,
    message:
        "Report: costs, environment and hashes of the study"
    script:
        "../workflow/scripts/runs.py"
