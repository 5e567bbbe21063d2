# Stage 0: the pinned base model and data that every stage starts from.
# `base: shipped` takes resources/micro, `base: pretrain` makes the model here, any other value is
# the folder of a Hugging Face checkpoint. Makes results/<study>/base/manifest.json.


rule base_world:
    """The micro-world's items and finetuning data."""
    output:
        expand(f"{DATA}/{{name}}.jsonl", name=(*WORLD_TASKS, "finetune")),
        manifest=f"{DATA}/manifest.json",
    log:
        f"{LOGS}/base_world.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(world_stamp()),
    message:
        "Stage 0: writing the micro-world's data"
    script:
        "../workflow/scripts/world.py"


if STUDY.pretrained_here:

    rule base_pretrain:
        """The micro base from nothing: runs only under `base: pretrain`."""
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
        threads: STUDY.world["pretrain"]["threads"]
        resources:
            gpu=STUDY.hardware.gpu,
        params:
            stamp=provenance.canonical_json(pretrain_stamp()),
        message:
            "Stage 0: pretraining the micro base from nothing"
        script:
            "../workflow/scripts/pretrain.py"


rule base:
    """One manifest that names every file of model and data by its hash."""
    input:
        data=f"{DATA}/manifest.json",
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
        "Stage 0: pinning the base model and its data"
    script:
        "../workflow/scripts/base.py"
