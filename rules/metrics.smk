# Metrics: accuracies of every scored checkpoint and mask, computed from its sample rows.
# Needs stages 1, 2, 4 and 5. Makes metrics.json beside their sample rows.
# After a change of a metric only these jobs run again, and no model.

for stage, (home, masks) in PATHS.scored_homes.items():

    rule:
        """Accuracies of one checkpoint under each of its masks, by every metric."""
        name:
            f"{stage}_metrics"
        input:
            PATHS.scored_rows(f"{RESULTS}/{home}", masks),
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
