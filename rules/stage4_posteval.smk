# Stage 4: every checkpoint of stage 3 scored under every mask, one job for each checkpoint.
# Needs stage 3 and the items; makes results/<study>/stage4_posteval/<recipe>/seed<seed>/<mask>/.


rule stage4_posteval:
    """Accuracy P of a checkpoint under every mask; P - B under causal is the side effect."""
    input:
        list(FINGERPRINTS.items),
        PATHS.world_items,
        ancient(PATHS.data_sets),
        model=f"{RESULTS}/stage3_finetune/{{recipe}}/seed{{seed}}/manifest.json",
        weights=ancient(f"{RESULTS}/stage3_finetune/{{recipe}}/seed{{seed}}/model"),
    output:
        PATHS.scored(f"{RESULTS}/stage4_posteval/{{recipe}}/seed{{seed}}", MASKS),
    log:
        f"{LOGS}/stage4_posteval/{{recipe}}-seed{{seed}}.log",
    benchmark:
        f"{LOGS}/stage4_posteval/{{recipe}}-seed{{seed}}.benchmark.tsv"
    wildcard_constraints:
        recipe="|".join(PATHS.under_masks) or "none",
    conda:
        "../environment.yml"
    threads: STUDY.hardware.threads
    resources:
        **STUDY.hardware.scoring_resources(),
    params:
        fingerprint=lambda w: FINGERPRINTS.text("stage4_posteval", w.recipe, w.seed),
        folders=[f"{RESULTS}/stage4_posteval/{{recipe}}/seed{{seed}}/{mask}" for mask in MASKS],
    message:
        "Stage 4: scoring {wildcards.recipe}, seed {wildcards.seed}, under every mask"
    script:
        "../workflow/scripts/evaluate.py"
