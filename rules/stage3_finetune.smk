# Stage 3: finetuning of all weights, one job for each recipe and seed, always from the base.
# Needs the pinned base and the finetuning data.
# Makes results/<study>/stage3_finetune/<recipe>/seed<seed>/.


rule stage3_finetune:
    """The checkpoint of one recipe; the seed sets only the data order and the held-out split."""
    input:
        base=PATHS.base,
        weights=ancient(PATHS.base_weights),
        data=lambda w: f"{PATHS.records_of(w.recipe)}/manifest.json",
        records=lambda w: f"{PATHS.records_of(w.recipe)}/finetune.jsonl",
    output:
        model=directory(f"{RESULTS}/stage3_finetune/{{recipe}}/seed{{seed}}/model"),
        summary=f"{RESULTS}/stage3_finetune/{{recipe}}/seed{{seed}}/summary.json",
        curve=f"{RESULTS}/stage3_finetune/{{recipe}}/seed{{seed}}/curve.jsonl",
        manifest=f"{RESULTS}/stage3_finetune/{{recipe}}/seed{{seed}}/manifest.json",
        run=f"{RESULTS}/stage3_finetune/{{recipe}}/seed{{seed}}/run.json",
    log:
        f"{LOGS}/stage3_finetune/{{recipe}}-seed{{seed}}.log",
    benchmark:
        f"{LOGS}/stage3_finetune/{{recipe}}-seed{{seed}}.benchmark.tsv"
    wildcard_constraints:
        recipe="|".join(PATHS.short) or "none",
    conda:
        "../environment.yml"
    threads: STUDY.hardware.threads
    resources:
        **STUDY.hardware.resources(),
    params:
        fingerprint=lambda w: FINGERPRINTS.text(stage_of(w.recipe), w.recipe, w.seed),
        state=lambda w: FINGERPRINTS.training_state(w.recipe, w.seed),
    message:
        "Stage 3: finetuning {wildcards.recipe}, seed {wildcards.seed}"
    script:
        "../workflow/scripts/finetune.py"
