# Metrics: accuracies of every scored checkpoint and mask, computed from its sample rows.
# Needs stages 1, 2, 4 and 5. Makes metrics.json beside their sample rows.
# After a change of a metric only these jobs run again, and no model.

METRICS_OF = {
    "stage1": ("stage1_baseline", ()),
    "stage2": ("stage2_ablation", ABLATED_MASKS),
    "stage4": ("stage4_posteval/{recipe}/seed{seed}", MASKS),
    "stage5": ("stage5_longrun/{recipe}/seed{seed}", MASKS),
}
for stage, (home, masks) in METRICS_OF.items():

    rule:
        """Accuracies of one checkpoint under each of its masks, by every metric."""
        name:
            f"{stage}_metrics"
        input:
            [
                file
                for file in PATHS.scored(f"{RESULTS}/{home}", masks)
                if not file.endswith("run.json")
            ],
        output:
            PATHS.metrics(f"{RESULTS}/{home}", masks),
        log:
            f"{LOGS}/{home}/metrics.log",
        localrule: True
        conda:
            "../environment.yml"
        params:
            fingerprint=lambda w, stage=stage: FINGERPRINTS.text(f"{stage}_metrics", *w),
        message:
            f"Metrics: {stage} {{wildcards}}"
        script:
            "../workflow/scripts/metrics.py"
