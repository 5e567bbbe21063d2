# Stage 0: the pinned base model, the items on which it is scored and its finetuning data.
# Needs `base:`. `shipped` is the model in resources/micro; `pretrain` and `random` make a model
# here; any other value is the folder of a Hugging Face checkpoint or a model of the hub at its
# pinned commit, whose weights are downloaded by each machine that needs them.
# Makes results/<study>/base/.
#
# All jobs run on this computer, because none of them needs a GPU.


rule base_items:
    """The micro-world's multiple-choice items, from held-out scenes."""
    output:
        PATHS.every_world_item,
        manifest=f"{PATHS.items}/manifest.json",
        run=f"{PATHS.items}/run.json",
    log:
        f"{LOGS}/base_items.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=FINGERPRINTS.text("base_items"),
    message:
        "Stage 0: writing the micro-world's items"
    script:
        "../workflow/scripts/items.py"


if PATHS.splits:

    rule base_benchmarks:
        """The splits that tasks read, from pinned data sets of the hub or a folder of the user."""
        output:
            directory([f"{PATHS.items}/{data}" for data in PATHS.splits]),
            manifest=PATHS.benchmarks,
            run=f"{PATHS.items}/benchmarks.run.json",
        log:
            f"{LOGS}/base_benchmarks.log",
        localrule: True
        conda:
            "../environment.yml"
        params:
            fingerprint=FINGERPRINTS.text(FINGERPRINTS.items_stage),
        message:
            "Stage 0: bringing the data sets of the tasks"
        script:
            f"../workflow/scripts/{FINGERPRINTS.items_stage}.py"


rule base_instructions:
    """The finetuning data: Alpaca records of the micro-world, of the hub or of files here."""
    output:
        records=f"{PATHS.instructions}/finetune.jsonl",
        manifest=f"{PATHS.instructions}/manifest.json",
        run=f"{PATHS.instructions}/run.json",
    log:
        f"{LOGS}/base_instructions.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=FINGERPRINTS.text(FINGERPRINTS.instructions_stage),
    message:
        "Stage 0: writing the finetuning data"
    script:
        f"../workflow/scripts/{FINGERPRINTS.instructions_stage.removeprefix('base_')}.py"


if PATHS.own_records:

    rule recipe_instructions:
        """The finetuning data of a recipe that chooses families of the micro-world's records."""
        output:
            records=f"{PATHS.instructions}_of/{{recipe}}/finetune.jsonl",
            manifest=f"{PATHS.instructions}_of/{{recipe}}/manifest.json",
            run=f"{PATHS.instructions}_of/{{recipe}}/run.json",
        log:
            f"{LOGS}/recipe_instructions/{{recipe}}.log",
        wildcard_constraints:
            recipe="|".join(PATHS.own_records),
        localrule: True
        conda:
            "../environment.yml"
        params:
            fingerprint=lambda w: FINGERPRINTS.text("recipe_instructions", w.recipe),
        message:
            "Stage 0: writing the finetuning data of {wildcards.recipe}"
        script:
            "../workflow/scripts/instructions.py"


if STUDY.pretrained_here:

    rule base_pretrain:
        """The micro base, pretrained on the CPU from random weights (`base: pretrain`)."""
        output:
            model=directory(f"{PATHS.pretrained}/base"),
            manifest=f"{PATHS.pretrained}/manifest.json",
            run=f"{PATHS.pretrained}/run.json",
        log:
            f"{LOGS}/base_pretrain.log",
        benchmark:
            f"{LOGS}/base_pretrain.benchmark.tsv"
        localrule: True
        conda:
            "../environment.yml"
        threads: STUDY.world.pretrain.threads
        params:
            fingerprint=FINGERPRINTS.text("base_pretrain"),
        message:
            "Stage 0: pretraining the micro base from random weights"
        script:
            "../workflow/scripts/pretrain.py"


if STUDY.rehearsal:

    rule base_random:
        """A decoder of random weights, and a notice that its accuracies mean nothing (`base: random`)."""
        output:
            model=directory(f"{PATHS.random}/base"),
            manifest=f"{PATHS.random}/manifest.json",
            run=f"{PATHS.random}/run.json",
            notice=f"{RESULTS}/README.md",
        log:
            f"{LOGS}/base_random.log",
        benchmark:
            f"{LOGS}/base_random.benchmark.tsv"
        localrule: True
        conda:
            "../environment.yml"
        params:
            fingerprint=FINGERPRINTS.text("base_random"),
        message:
            "Stage 0: writing a base of random weights"
        script:
            "../workflow/scripts/base_random.py"


rule base:
    """The manifest of the base model: every file with its hash."""
    input:
        local(PATHS.base_files),
        record=PATHS.base_record if PATHS.base_made_here else local(PATHS.base_record or []),
    output:
        manifest=PATHS.base,
        run=f"{RESULTS}/base/run.json",
    log:
        f"{LOGS}/base.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        fingerprint=FINGERPRINTS.text("base"),
    message:
        "Stage 0: pinning the base model"
    script:
        "../workflow/scripts/base.py"
