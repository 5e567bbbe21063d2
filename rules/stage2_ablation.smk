# Stage 2: the base model under the ablated masks, one job for all of them.
# Needs the pinned base and the items; makes results/<study>/stage2_ablation/<mask>/.


rule stage2_ablation:
    """Ablated accuracy A of every task: what is lost at once when prefill is not causal."""
    input:
        list(items()),
        item_files(),
        model=BASE,
        weights=base_weights(),
    output:
        [scored(f"{RESULTS}/stage2_ablation/{mask}") for mask in ABLATED_MASKS],
    log:
        f"{LOGS}/stage2_ablation.log",
    benchmark:
        f"{LOGS}/stage2_ablation.benchmark.tsv"
    conda:
        "../environment.yml"
    threads: STUDY.hardware.threads
    resources:
        **SCORING_HARDWARE.asked(),
    params:
        stamp=provenance.canonical_json(stage2_stamp()),
        folders=[f"{RESULTS}/stage2_ablation/{mask}" for mask in ABLATED_MASKS],
    message:
        "Stage 2: scoring the base model under {ABLATED_MASKS}"
    script:
        "../workflow/scripts/evaluate.py"
