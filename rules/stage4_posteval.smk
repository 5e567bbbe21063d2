# Stage 4: every checkpoint under every mask, one job a checkpoint.
# Needs stage 3; makes results/<study>/stage4_posteval/<recipe>/seed<seed>/<mask>/.


def checkpoint(recipe, seed):
    return f"{RESULTS}/stage3_finetune/{recipe}/seed{seed}/manifest.json"


@cache
def stage4_stamp(recipe, seed):
    return make_stamp(
        "stage4_posteval",
        "evaluate",
        scoring_slice(MASKS),
        SCORING_PACKAGES,
        {BASE: base_stamp(), checkpoint(recipe, seed): stage3_stamp(recipe, seed)},
    )


rule stage4_posteval:
    """Accuracy P after finetuning; under causal, the side effect of the finetuning."""
    input:
        base=BASE,
        model=checkpoint("{recipe}", "{seed}"),
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
        gpu=STUDY.hardware.gpu,
    params:
        stamp=lambda w: provenance.canonical_json(stage4_stamp(w.recipe, w.seed)),
    message:
        "Stage 4: scoring {wildcards.recipe}, seed {wildcards.seed}, under every mask"
    script:
        "../workflow/scripts/evaluate.py"
