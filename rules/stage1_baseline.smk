# Stage 1: the base model scored under the causal mask.
# Needs the pinned base and the items; makes results/<study>/stage1_baseline/.


rule stage1_baseline:
    """Accuracy B of the base on every task under the causal mask, before any intervention."""
    input:
        list(FINGERPRINTS.items),
        PATHS.world_items,
        ancient(PATHS.data_sets),
        model=PATHS.base,
        weights=ancient(PATHS.base_weights),
    output:
        PATHS.scored(PATHS.baseline),
    log:
        f"{LOGS}/stage1_baseline.log",
    benchmark:
        f"{LOGS}/stage1_baseline.benchmark.tsv"
    conda:
        "../environment.yml"
    threads: STUDY.hardware.threads
    resources:
        **STUDY.hardware.scoring_resources(),
    params:
        fingerprint=FINGERPRINTS.text("stage1_baseline"),
        folders=[PATHS.baseline],
    message:
        "Stage 1: scoring the base model under causal"
    script:
        "../workflow/scripts/evaluate.py"
