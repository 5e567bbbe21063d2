# Targets for the command line, beside results/recovery.csv, the recovery table of the study:
#   study                                 every table, figure and page
#   stage1 stage2 stage3 stage4 stage5    one stage, with the stages that it needs
#   figures                               every figure, in results/<study>/figures/
# Needs the results of all other rule files; makes no file of its own.


rule study:
    input:
        LOADED.named,
        PATHS.every_metrics,
        [PATHS.table(name) for name in FIRST.tables if PATHS.has_table(name)],
        [f"{RESULTS}/figures/{figure}.svg" for figure in PATHS.figures],
        [f"{RESULTS}/report/{page}.html" for page in [*PATHS.pages, "costs", "environment"]],
    localrule: True
    """Every table, figure and page of the first study."""
    message:
        "Every table, figure and page of the study {STUDY.study} is made"


rule stage1:
    """Baseline: the base model scored under the causal mask."""
    input:
        PATHS.metrics(PATHS.baseline),
    localrule: True


rule stage2:
    """Damage: the base model scored under the ablated masks and the interventions."""
    input:
        PATHS.metrics_of_base,
    localrule: True


rule stage3:
    """Finetuning: one checkpoint for each recipe and seed."""
    input:
        [PATHS.checkpoint(recipe, seed) for recipe in PATHS.short for seed in STUDY.seeds],
    localrule: True


rule stage4:
    """Recovery: every checkpoint of stage 3 scored under each of its conditions."""
    input:
        PATHS.metrics_of(PATHS.short),
    localrule: True


rule stage5:
    """Longer training: every checkpoint of stage 5 scored under each of its conditions."""
    input:
        PATHS.metrics_of(PATHS.long),
    localrule: True


rule figures:
    """Every figure of the study, with the tables from which it is drawn."""
    input:
        [f"{RESULTS}/figures/{figure}.svg" for figure in PATHS.figures],
    localrule: True
