# What a user may ask for by name.
#   results/recovery.csv           the recovery table of the study in hand
#   results/<study>/figures        its figures
#   stage1 stage2 stage3 stage4    one stage, with what it needs


localrules:
    stage1,
    stage2,
    stage3,
    stage4,


rule stage1:
    """Baseline: the base model under the causal mask."""
    input:
        f"{RESULTS}/stage1_baseline/manifest.json",


rule stage2:
    """Damage: the base model under the ablated masks."""
    input:
        expand(f"{RESULTS}/stage2_ablation/{{mask}}/manifest.json", mask=ABLATED_MASKS),


rule stage3:
    """Finetuning: one checkpoint a recipe and seed."""
    input:
        expand(
            f"{RESULTS}/stage3_finetune/{{recipe}}/seed{{seed}}/manifest.json",
            recipe=RECIPES,
            seed=STUDY.seeds,
        ),


rule stage4:
    """What came back: every checkpoint under every mask."""
    input:
        expand(
            f"{RESULTS}/stage4_posteval/{{recipe}}/seed{{seed}}/{{mask}}/manifest.json",
            recipe=RECIPES,
            seed=STUDY.seeds,
            mask=MASKS,
        ),
