# Stage 3: one full-weight finetuning a recipe and seed, always from the base.
# Needs the pinned base and the finetuning data; makes results/<study>/stage3_finetune/<recipe>/seed<seed>/.


rule stage3_finetune:
    """A checkpoint of one recipe; the seed sets data order and held-out split, nothing else."""
    input:
        base=BASE,
        weights=base_weights(),
        data=f"{INSTRUCTIONS}/manifest.json",
        records=f"{INSTRUCTIONS}/finetune.jsonl",
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
        recipe="|".join(SHORT) or "none",
    conda:
        "../environment.yml"
    threads: STUDY.hardware.threads
    resources:
        **STUDY.hardware.asked(),
    params:
        stamp=lambda w: provenance.canonical_json(finetuning_stamp(w.recipe, w.seed)),
        state=lambda w: training_state(w.recipe, w.seed),
    message:
        "Stage 3: finetuning {wildcards.recipe}, seed {wildcards.seed}"
    script:
        "../workflow/scripts/finetune.py"
