# The report: pages that show the study's tables, and what Snakemake gathers into one file.
# Needs the tables of recovery.smk and figures.smk; makes samples.csv and report/*.html, which
# `make report` puts into results/report.html with the figures. Nothing is made from them.

from ablation.machine import run_of


localrules:
    pages,
    runs,


report: "../workflow/report/bridge.rst" if STUDY.bridge else "../workflow/report/workflow.rst"


# A study with a bridge reports the bridge.
RECORDED = bridge_recorded() if STUDY.bridge else list(recorded())


if SAMPLED:

    rule samples:
        """What base and finetuned models say to the same prompts, one seed a recipe."""
        input:
            list(samples_stamp()["upstream"]),
        output:
            table=report(
                f"{RESULTS}/samples.csv",
                caption="../workflow/report/table_samples.rst",
                category="5 Tables as CSV",
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
            **SCORING_HARDWARE.asked(),
        params:
            stamp=provenance.canonical_json(samples_stamp()),
        message:
            "Report: the same prompts through every model"
        script:
            "../workflow/scripts/samples.py"


rule pages:
    """Every table of the study as a page that sorts and needs no network."""
    input:
        list(pages_stamp()["upstream"]),
        **{table: f"{RESULTS}/{table}.csv" for table in PAGES.values()},
    output:
        **{name: page(name) for name in PAGES},
        manifest=f"{RESULTS}/report/manifest.json",
        run=f"{RESULTS}/report/run.json",
    log:
        f"{LOGS}/pages.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(pages_stamp()),
    message:
        "Report: pages of tables"
    script:
        "../workflow/scripts/pages.py"


rule runs:
    """Cost and time of each stage, environment and hashes; a moved clock makes nothing stale."""
    input:
        manifests=RECORDED,
        runs=ancient([run_of(manifest).as_posix() for manifest in RECORDED]),
    output:
        costs=page("costs"),
        environment=page("environment"),
    log:
        f"{LOGS}/runs.log",
    conda:
        "../environment.yml"
    message:
        "Report: what the study took, and on what it stands"
    script:
        "../workflow/scripts/runs.py"
