# Ablation of the prefill mask: remove the causal mask during prefill, measure what is lost,
# finetune, and measure what comes back. With a `bridge:` block, the cross-model bridge instead.
#
# This file is a table of contents; each rule is in the file of its stage.
# Needs a configuration (config/default.yaml, or --configfile). Makes results/ and logs/.
from snakemake.utils import min_version

min_version("9.27")


include: "rules/common.smk"
include: "rules/targets.smk"
include: "rules/base.smk"
include: "rules/stage1_baseline.smk"
include: "rules/stage2_ablation.smk"
include: "rules/stage3_finetune.smk"
include: "rules/stage4_posteval.smk"
include: "rules/stage5_longrun.smk"
include: "rules/metrics.smk"
include: "rules/interventions.smk"
include: "rules/recovery.smk"
include: "rules/figures.smk"
include: "rules/report.smk"


if STUDY.bridge:

    include: "rules/bridge.smk"


rule all:
    """Every table, figure and page of the study, or of its bridge if it has one."""
    default_target: True
    input:
        rules.bridge.input if STUDY.bridge else rules.study.input,
    localrule: True
    message:
        "Everything of the study {STUDY.study} is made"
