# Prefill-mask ablation: take the causal mask away during prefill, measure, finetune, measure again.
# A table of contents; every rule stands in the file of its stage.
from snakemake.utils import min_version

min_version("9.27")


include: "rules/common.smk"
include: "rules/stamps.smk"


if STUDY.bridge:

    include: "rules/bridge_stamps.smk"


include: "rules/targets.smk"
include: "rules/base.smk"
include: "rules/stage1_baseline.smk"
include: "rules/stage2_ablation.smk"
include: "rules/stage3_finetune.smk"
include: "rules/stage4_posteval.smk"
include: "rules/stage5_longrun.smk"
include: "rules/recovery.smk"
include: "rules/figures.smk"
include: "rules/report.smk"


if STUDY.bridge:

    include: "rules/bridge.smk"


localrules:
    all,


rule all:
    """The study: its tables, its figures and the pages of its report; or those of its bridge."""
    input:
        (
            rules.bridge.input
            if STUDY.bridge
            else [
                "results/recovery.csv",
                f"{RESULTS}/published.csv",
                [f"{RESULTS}/bag_of_words.csv"] if WORLD else [],
                expand(f"{RESULTS}/figures/{{figure}}.svg", figure=FIGURES),
                expand(f"{RESULTS}/report/{{page}}.html", page=[*PAGES, "costs", "environment"]),
            ]
        ),
