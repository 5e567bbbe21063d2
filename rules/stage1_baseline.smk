# Stage 1: the base model under the causal mask.
# Needs the pinned base and the items; makes results/<study>/stage1_baseline/.


rule stage1_baseline:
    """Baseline accuracy B of every task: nothing taken away yet."""
    input:
        list(items()),
        item_files(),
        model=BASE,
        weights=base_weights(),
    output:
        scored(f"{RESULTS}/stage1_baseline"),
    log:
        f"{LOGS}/stage1_baseline.log",
    benchmark:
        f"{LOGS}/stage1_baseline.benchmark.tsv"
    conda:
        "../environment.yml"
    threads: STUDY.hardware.threads
    resources:
        **SCORING_HARDWARE.asked(),
    params:
        stamp=provenance.canonical_json(stage1_stamp()),
        folders=[f"{RESULTS}/stage1_baseline"],
    message:
        "Stage 1: scoring the base model under causal"
    script:
        "../workflow/scripts/evaluate.py"
