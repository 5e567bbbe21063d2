# Stage 5: does longer training help? The objective of recipe 3B, from the base again, for more
# steps; then every checkpoint scored under every mask. The two rules are those of stages 3 and 4.
# Needs the pinned base, the finetuning data and the items. Makes results/<study>/stage5_longrun/.
LONGRUN = f"{RESULTS}/stage5_longrun/{{recipe}}/seed{{seed}}"


use rule stage3_finetune as stage5_longrun with:
    output:
        model=directory(f"{LONGRUN}/model"),
        summary=f"{LONGRUN}/summary.json",
        curve=f"{LONGRUN}/curve.jsonl",
        manifest=f"{LONGRUN}/manifest.json",
        run=f"{LONGRUN}/run.json",
    log:
        f"{LOGS}/stage5_longrun/{{recipe}}-seed{{seed}}.log",
    benchmark:
        f"{LOGS}/stage5_longrun/{{recipe}}-seed{{seed}}.benchmark.tsv"
    wildcard_constraints:
        recipe="|".join(PATHS.long) or "none",
    priority: 1  # the longest trainings first, so that none is left alone at the end
    message:
        "Stage 5: finetuning {wildcards.recipe}, seed {wildcards.seed}"


use rule stage4_posteval as stage5_posteval with:
    input:
        list(FINGERPRINTS.items),
        PATHS.world_items,
        ancient(PATHS.data_sets),
        model=f"{LONGRUN}/manifest.json",
        weights=ancient(f"{LONGRUN}/model"),
    output:
        PATHS.scored(LONGRUN, MASKS),
    log:
        f"{LOGS}/stage5_posteval/{{recipe}}-seed{{seed}}.log",
    benchmark:
        f"{LOGS}/stage5_posteval/{{recipe}}-seed{{seed}}.benchmark.tsv"
    params:
        fingerprint=lambda w: FINGERPRINTS.text("stage5_posteval", w.recipe, w.seed),
        folders=[f"{LONGRUN}/{mask}" for mask in MASKS],
    message:
        "Stage 5: scoring {wildcards.recipe}, seed {wildcards.seed}, under every mask"
