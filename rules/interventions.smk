# Interventions: what a study takes away beside the masks, each scored by a job of its own, so that
# another intervention makes none of the others run again (docs/interventions.md).
# Needs `interventions:`, the pinned base, the checkpoints of stages 3 and 5, and the items.
# Makes results/<study>/stage2_ablation/<name>/ and a folder <name> beside the masks of a checkpoint;
# `lifted` is a checkpoint without what was taken away while it was trained.

if STUDY.interventions:

    rule stage2_intervention:
        """Accuracy A of the base on every task with something taken away."""
        input:
            list(FINGERPRINTS.items),
            PATHS.world_items,
            ancient(PATHS.data_sets),
            model=PATHS.base,
            weights=ancient(PATHS.base_weights),
        output:
            PATHS.scored(f"{RESULTS}/stage2_ablation/{{condition}}"),
        log:
            f"{LOGS}/stage2_intervention/{{condition}}.log",
        benchmark:
            f"{LOGS}/stage2_intervention/{{condition}}.benchmark.tsv"
        conda:
            "../environment.yml"
        threads: STUDY.hardware.threads
        resources:
            **STUDY.hardware.scoring_resources(),
        params:
            fingerprint=lambda w: FINGERPRINTS.text("stage2_intervention", w.condition),
            folders=[f"{RESULTS}/stage2_ablation/{{condition}}"],
        message:
            "Stage 2: the base model under {wildcards.condition}"
        script:
            "../workflow/scripts/evaluate.py"

    rule stage4_intervention:
        """Accuracy P of a checkpoint with something taken away, or of one made whole again."""
        input:
            list(FINGERPRINTS.items),
            PATHS.world_items,
            ancient(PATHS.data_sets),
            model=f"{RESULTS}/stage3_finetune/{{recipe}}/seed{{seed}}/manifest.json",
            weights=ancient(f"{RESULTS}/stage3_finetune/{{recipe}}/seed{{seed}}/model"),
        output:
            PATHS.scored(f"{RESULTS}/stage4_posteval/{{recipe}}/seed{{seed}}/{{condition}}"),
        log:
            f"{LOGS}/stage4_intervention/{{recipe}}-seed{{seed}}-{{condition}}.log",
        benchmark:
            f"{LOGS}/stage4_intervention/{{recipe}}-seed{{seed}}-{{condition}}.benchmark.tsv"
        conda:
            "../environment.yml"
        threads: STUDY.hardware.threads
        resources:
            **STUDY.hardware.scoring_resources(),
        params:
            fingerprint=lambda w: FINGERPRINTS.text("stage4_intervention", *w),
            folders=[f"{RESULTS}/stage4_posteval/{{recipe}}/seed{{seed}}/{{condition}}"],
        message:
            "Stage 4: {wildcards.recipe}, seed {wildcards.seed}, under {wildcards.condition}"
        script:
            "../workflow/scripts/evaluate.py"

    use rule stage4_intervention as stage5_intervention with:
        input:
            list(FINGERPRINTS.items),
            PATHS.world_items,
            ancient(PATHS.data_sets),
            model=f"{LONGRUN}/manifest.json",
            weights=ancient(f"{LONGRUN}/model"),
        output:
            PATHS.scored(f"{LONGRUN}/{{condition}}"),
        log:
            f"{LOGS}/stage5_intervention/{{recipe}}-seed{{seed}}-{{condition}}.log",
        benchmark:
            f"{LOGS}/stage5_intervention/{{recipe}}-seed{{seed}}-{{condition}}.benchmark.tsv"
        params:
            fingerprint=lambda w: FINGERPRINTS.text("stage5_intervention", *w),
            folders=[f"{LONGRUN}/{{condition}}"],
        message:
            "Stage 5: {wildcards.recipe}, seed {wildcards.seed}, under {wildcards.condition}"

    rule stage2_intervention_metrics:
        """Accuracies of the base with something taken away, by every metric."""
        input:
            PATHS.scored_rows(f"{RESULTS}/stage2_ablation/{{condition}}"),
        output:
            PATHS.metrics(f"{RESULTS}/stage2_ablation/{{condition}}"),
        log:
            f"{LOGS}/stage2_intervention/{{condition}}.metrics.log",
        localrule: True
        conda:
            "../environment.yml"
        params:
            fingerprint=lambda w: FINGERPRINTS.text("stage2_intervention_metrics", *w),
        message:
            "Metrics: stage2 {wildcards}"
        script:
            "../workflow/scripts/metrics.py"

    use rule stage2_intervention_metrics as stage4_intervention_metrics with:
        input:
            PATHS.scored_rows(f"{RESULTS}/stage4_posteval/{{recipe}}/seed{{seed}}/{{condition}}"),
        output:
            PATHS.metrics(f"{RESULTS}/stage4_posteval/{{recipe}}/seed{{seed}}/{{condition}}"),
        log:
            f"{LOGS}/stage4_intervention/{{recipe}}-seed{{seed}}-{{condition}}.metrics.log",
        params:
            fingerprint=lambda w: FINGERPRINTS.text("stage4_intervention_metrics", *w),
        message:
            "Metrics: stage4 {wildcards}"

    use rule stage2_intervention_metrics as stage5_intervention_metrics with:
        input:
            PATHS.scored_rows(f"{LONGRUN}/{{condition}}"),
        output:
            PATHS.metrics(f"{LONGRUN}/{{condition}}"),
        log:
            f"{LOGS}/stage5_intervention/{{recipe}}-seed{{seed}}-{{condition}}.metrics.log",
        params:
            fingerprint=lambda w: FINGERPRINTS.text("stage5_intervention_metrics", *w),
        message:
            "Metrics: stage5 {wildcards}"
