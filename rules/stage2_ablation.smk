# Stage 2: the base model scored under the ablated masks, in one job for all of them.
# Needs the pinned base and the items; makes results/<study>/stage2_ablation/<mask>/.


rule stage2_ablation:
    """Accuracy A of the base on every task under masks that are not causal during prefill."""
    input:
        list(FINGERPRINTS.items),
        PATHS.world_items,
        ancient(PATHS.data_sets),
        model=PATHS.base,
        weights=ancient(PATHS.base_weights),
    output:
        PATHS.scored(f"{RESULTS}/stage2_ablation", ABLATED_MASKS),
    log:
        f"{LOGS}/stage2_ablation.log",
    benchmark:
        f"{LOGS}/stage2_ablation.benchmark.tsv"
    conda:
        "../environment.yml"
    threads: STUDY.hardware.threads
    resources:
        **STUDY.hardware.scoring_resources(),
    params:
        fingerprint=FINGERPRINTS.text("stage2_ablation"),
        folders=[f"{RESULTS}/stage2_ablation/{mask}" for mask in ABLATED_MASKS],
    message:
        "Stage 2: scoring the base model under {ABLATED_MASKS}"
    script:
        "../workflow/scripts/evaluate.py"
