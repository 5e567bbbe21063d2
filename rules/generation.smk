# Generation tasks: texts that continue prompts read under a mask, and their exact match.
# Needs tasks of the type generate_until in `evaluation.tasks`, the pinned base, and the checkpoints
# of stages 3 and 5. Makes a folder `generated` beside the scores of each condition, but for those
# under full_bidir (docs/generation.md). Scores of choices depend on none of these rules.
POSTEVAL = f"{RESULTS}/stage4_posteval/{{recipe}}/seed{{seed}}"

if PATHS.generation_splits:

    rule base_generation_benchmarks:
        """The splits that generation tasks read, from pinned data sets or a folder of the user."""
        output:
            directory([f"{PATHS.generation_items}/{data}" for data in PATHS.generation_splits]),
            manifest=PATHS.generation_benchmarks,
            run=f"{PATHS.generation_items}/run.json",
        log:
            f"{LOGS}/base_generation_benchmarks.log",
        localrule: True
        conda:
            "../environment.yml"
        params:
            fingerprint=FINGERPRINTS.text(FINGERPRINTS.generation_items_stage),
        message:
            "Stage 0: bringing the data sets of the generation tasks"
        script:
            f"../workflow/scripts/{FINGERPRINTS.generation_items_stage.replace('generation_', '')}.py"


if PATHS.generation_tasks:

    rule stage1_generation:
        """Texts of the base under the causal mask."""
        input:
            list(FINGERPRINTS.generation_items),
            ancient(PATHS.generation_data),
            model=PATHS.base,
            weights=ancient(PATHS.base_weights),
        output:
            PATHS.generation_files(PATHS.baseline),
            manifest=PATHS.generated(PATHS.baseline),
            run=f"{PATHS.baseline}/generated/run.json",
        log:
            f"{LOGS}/stage1_generation.log",
        benchmark:
            f"{LOGS}/stage1_generation.benchmark.tsv"
        conda:
            "../environment.yml"
        threads: STUDY.hardware.threads
        resources:
            **FINGERPRINTS.scoring_hardware.resources(),
        params:
            fingerprint=FINGERPRINTS.text("stage1_generation"),
            data=PATHS.generation_items,
            world=PATHS.items,
        message:
            "Stage 1: texts of the base model under causal"
        script:
            "../workflow/scripts/generate.py"

    use rule stage1_generation as stage2_generation with:
        output:
            PATHS.generation_files(f"{RESULTS}/stage2_ablation/{{generation_condition}}"),
            manifest=PATHS.generated(f"{RESULTS}/stage2_ablation/{{generation_condition}}"),
            run=f"{RESULTS}/stage2_ablation/{{generation_condition}}/generated/run.json",
        log:
            f"{LOGS}/stage2_generation/{{generation_condition}}.log",
        benchmark:
            f"{LOGS}/stage2_generation/{{generation_condition}}.benchmark.tsv"
        wildcard_constraints:
            generation_condition="|".join(PATHS.generation_conditions),
        params:
            fingerprint=lambda w: FINGERPRINTS.text("stage2_generation", *w),
            data=PATHS.generation_items,
            world=PATHS.items,
        message:
            "Stage 2: texts of the base model under {wildcards.generation_condition}"

    rule stage4_generation:
        """Texts of a finetuned checkpoint under one of its conditions."""
        input:
            list(FINGERPRINTS.generation_items),
            ancient(PATHS.generation_data),
            model=f"{RESULTS}/stage3_finetune/{{recipe}}/seed{{seed}}/manifest.json",
            weights=ancient(f"{RESULTS}/stage3_finetune/{{recipe}}/seed{{seed}}/model"),
        output:
            PATHS.generation_files(f"{POSTEVAL}/{{generation_condition}}"),
            manifest=PATHS.generated(f"{POSTEVAL}/{{generation_condition}}"),
            run=f"{POSTEVAL}/{{generation_condition}}/generated/run.json",
        log:
            f"{LOGS}/stage4_generation/{{recipe}}-seed{{seed}}-{{generation_condition}}.log",
        benchmark:
            f"{LOGS}/stage4_generation/{{recipe}}-seed{{seed}}-{{generation_condition}}.benchmark.tsv"
        wildcard_constraints:
            generation_condition="|".join(PATHS.generation_conditions),
        conda:
            "../environment.yml"
        threads: STUDY.hardware.threads
        resources:
            **FINGERPRINTS.scoring_hardware.resources(),
        params:
            fingerprint=lambda w: FINGERPRINTS.text("stage4_generation", *w),
            data=PATHS.generation_items,
            world=PATHS.items,
        message:
            "Stage 4: texts of {wildcards.recipe}, seed {wildcards.seed}, under {wildcards.generation_condition}"
        script:
            "../workflow/scripts/generate.py"

    use rule stage4_generation as stage5_generation with:
        input:
            list(FINGERPRINTS.generation_items),
            ancient(PATHS.generation_data),
            model=f"{LONGRUN}/manifest.json",
            weights=ancient(f"{LONGRUN}/model"),
        output:
            PATHS.generation_files(f"{LONGRUN}/{{generation_condition}}"),
            manifest=PATHS.generated(f"{LONGRUN}/{{generation_condition}}"),
            run=f"{LONGRUN}/{{generation_condition}}/generated/run.json",
        log:
            f"{LOGS}/stage5_generation/{{recipe}}-seed{{seed}}-{{generation_condition}}.log",
        benchmark:
            f"{LOGS}/stage5_generation/{{recipe}}-seed{{seed}}-{{generation_condition}}.benchmark.tsv"
        params:
            fingerprint=lambda w: FINGERPRINTS.text("stage5_generation", *w),
            data=PATHS.generation_items,
            world=PATHS.items,
        message:
            "Stage 5: texts of {wildcards.recipe}, seed {wildcards.seed}, under {wildcards.generation_condition}"
