# Stage 4: every checkpoint under every mask, one job a checkpoint.
# Needs stage 3 and the items; makes results/<study>/stage4_posteval/<recipe>/seed<seed>/<mask>/.


rule stage4_posteval:
    """Accuracy P after finetuning; under causal, the side effect of the finetuning."""
    input:
        list(items()),
        item_files(),
        model=f"{RESULTS}/stage3_finetune/{{recipe}}/seed{{seed}}/manifest.json",
        weights=ancient(f"{RESULTS}/stage3_finetune/{{recipe}}/seed{{seed}}/model"),
    output:
        [scored(f"{RESULTS}/stage4_posteval/{{recipe}}/seed{{seed}}/{mask}") for mask in MASKS],
    log:
        f"{LOGS}/stage4_posteval/{{recipe}}-seed{{seed}}.log",
    benchmark:
        f"{LOGS}/stage4_posteval/{{recipe}}-seed{{seed}}.benchmark.tsv"
    conda:
        "../environment.yml"
    threads: STUDY.hardware.threads
    resources:
        **SCORING_HARDWARE.asked(),
    params:
        stamp=lambda w: provenance.canonical_json(posteval_stamp(w.recipe, w.seed)),
        folders=[f"{RESULTS}/stage4_posteval/{{recipe}}/seed{{seed}}/{mask}" for mask in MASKS],
    message:
        "Stage 4: scoring {wildcards.recipe}, seed {wildcards.seed}, under every mask"
    script:
        "../workflow/scripts/evaluate.py"
