# Stage 5: does more training help? 3B's objective, from the base again, for longer and with
# auto-stop; then every checkpoint under every mask. Two rules, as stages 3 and 4.
# Needs the pinned base, the finetuning data and the items; makes results/<study>/stage5_longrun/.
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
        recipe="|".join(LONG) or "none",
    message:
        "Stage 5: finetuning {wildcards.recipe}, seed {wildcards.seed}"


use rule stage4_posteval as stage5_posteval with:
    input:
        list(items()),
        item_files(),
        model=f"{LONGRUN}/manifest.json",
        weights=ancient(f"{LONGRUN}/model"),
    output:
        [scored(f"{LONGRUN}/{mask}") for mask in MASKS],
    log:
        f"{LOGS}/stage5_posteval/{{recipe}}-seed{{seed}}.log",
    benchmark:
        f"{LOGS}/stage5_posteval/{{recipe}}-seed{{seed}}.benchmark.tsv"
    params:
        stamp=lambda w: provenance.canonical_json(posteval_stamp(w.recipe, w.seed)),
        folders=[f"{LONGRUN}/{mask}" for mask in MASKS],
    message:
        "Stage 5: scoring {wildcards.recipe}, seed {wildcards.seed}, under every mask"
