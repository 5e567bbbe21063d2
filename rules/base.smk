# Stage 0: the pinned base model, the items it is scored on and the data it is finetuned on.
# `base: shipped` takes resources/micro, `pretrain` and `random` make the model here; else it is the
# folder of a Hugging Face checkpoint, or a hub model at its pinned commit, whose weights stay in the
# hub's cache of the machine that needs them. Makes results/<study>/base/.
#
# Without a GPU, so here: nothing of this is sent to a cluster or a rented machine.


localrules:
    base,
    base_items,
    base_instructions,


rule base_items:
    """The micro-world's multiple-choice items, from held-out scenes."""
    output:
        expand(f"{ITEMS}/{{task}}.jsonl", task=WORLD_TASKS),
        manifest=f"{ITEMS}/manifest.json",
        run=f"{ITEMS}/run.json",
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


if STUDY.data_sets:

    rule base_benchmarks:
        """The splits that the benchmarks are scored on, from the hub's pinned data sets."""
        output:
            directory(expand(f"{ITEMS}/{{data}}", data=STUDY.data_sets)),
            manifest=BENCHMARKS,
            run=f"{ITEMS}/benchmarks.run.json",
        log:
            f"{LOGS}/base_benchmarks.log",
        localrule: True
        conda:
            "../environment.yml"
        params:
            stamp=provenance.canonical_json(benchmarks_stamp()),
        message:
            "Stage 0: bringing the benchmarks' data sets"
        script:
            f"../{script_of(BRING + '_items')}"


rule base_instructions:
    """The finetuning data: Alpaca records of the micro-world, or of a data set of the hub."""
    output:
        records=f"{INSTRUCTIONS}/finetune.jsonl",
        manifest=f"{INSTRUCTIONS}/manifest.json",
        run=f"{INSTRUCTIONS}/run.json",
    log:
        f"{LOGS}/base_instructions.log",
    conda:
        "../environment.yml"
    params:
        stamp=provenance.canonical_json(instructions_stamp()),
    message:
        "Stage 0: writing the finetuning data"
    script:
        f"../{script_of(LEARNED)}"


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
        localrule: True
        conda:
            "../environment.yml"
        threads: STUDY.world.pretrain.threads
        params:
            stamp=provenance.canonical_json(pretrain_stamp()),
        message:
            "Stage 0: pretraining the micro base from nothing"
        script:
            "../workflow/scripts/pretrain.py"


if STUDY.rehearsal:

    rule base_random:
        """A decoder of random weights, and a notice that its numbers mean nothing."""
        output:
            model=directory(f"{RANDOM}/base"),
            manifest=f"{RANDOM}/manifest.json",
            run=f"{RANDOM}/run.json",
            notice=f"{RESULTS}/README.md",
        log:
            f"{LOGS}/base_random.log",
        benchmark:
            f"{LOGS}/base_random.benchmark.tsv"
        localrule: True
        conda:
            "../environment.yml"
        params:
            stamp=provenance.canonical_json(random_stamp()),
        message:
            "Stage 0: writing a base of random weights"
        script:
            "../workflow/scripts/base_random.py"


rule base:
    """One manifest that names every file of the base model by its hash."""
    input:
        base_files(),
        record=base_record(),
    output:
        manifest=BASE,
        run=f"{RESULTS}/base/run.json",
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
