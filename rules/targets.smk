# What a user may ask for by name.
#   results/recovery.csv           the recovery table of the study in hand
#   stage1 stage2 stage3 stage4 stage5    one stage, with what it needs
#   figures                        every figure, in results/<study>/figures/


localrules:
    stage1,
    stage2,
    stage3,
    stage4,
    stage5,
    figures,


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
        [checkpoint(recipe, seed) for recipe in SHORT for seed in STUDY.seeds],


rule stage4:
    """What came back: every checkpoint under every mask."""
    input:
        [posteval(r, seed, mask) for r in SHORT for seed in STUDY.seeds for mask in MASKS],


rule stage5:
    """Does more training help? The long runs under every mask."""
    input:
        [posteval(r, seed, mask) for r in LONG for seed in STUDY.seeds for mask in MASKS],


rule figures:
    """Every figure of the study, with the tables that it is drawn from."""
    input:
        expand(f"{RESULTS}/figures/{{figure}}.svg", figure=FIGURES),
