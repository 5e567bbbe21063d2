# Stage 0: the pinned base model, the items it is scored on and the data it is finetuned on.
# `base: shipped` takes resources/micro, `base: pretrain` makes the model here, any other value is
# the folder of a Hugging Face checkpoint. Makes results/<study>/base/.


rule base_items:
    """The micro-world's multiple-choice items, from held-out scenes."""
    output:
        expand(f"{ITEMS}/{{task}}.jsonl", task=WORLD_TASKS),
        manifest=f"{ITEMS}/manifest.json",
    log:
        f"{LOGS}/base_items.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(items_stamp()),
    message:
        "Stage 0: writing the micro-world's items"
    script:
        "../workflow/scripts/items.py"


rule base_instructions:
    """The micro-world's finetuning data, from training scenes."""
    output:
        records=f"{INSTRUCTIONS}/finetune.jsonl",
        manifest=f"{INSTRUCTIONS}/manifest.json",
    log:
        f"{LOGS}/base_instructions.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(instructions_stamp()),
    message:
        "Stage 0: writing the micro-world's finetuning data"
    script:
        "../workflow/scripts/instructions.py"


if STUDY.pretrained_here:

    rule base_pretrain:
        """The micro base from nothing: runs only under `base: pretrain`, on the CPU."""
        output:
            model=directory(f"{PRETRAINED}/base"),
            manifest=f"{PRETRAINED}/manifest.json",
            run=f"{PRETRAINED}/run.json",
        log:
            f"{LOGS}/base_pretrain.log",
        benchmark:
            f"{LOGS}/base_pretrain.benchmark.tsv"
        conda:
            "../environment.yml"
        threads: STUDY.world.pretrain.threads
        params:
            stamp=provenance.canonical_json(pretrain_stamp()),
        message:
            "Stage 0: pretraining the micro base from nothing"
        script:
            "../workflow/scripts/pretrain.py"


rule base:
    """One manifest that names every file of the base model by its hash."""
    input:
        base_files(),
        record=base_record(),
    output:
        manifest=BASE,
    log:
        f"{LOGS}/base.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(base_stamp()),
    message:
        "Stage 0: pinning the base model"
    script:
        "../workflow/scripts/base.py"
