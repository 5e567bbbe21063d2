# What each stage's results depend on: one stamp a stage, in stage order, each standing on the ones
# before it. Snakemake compares them as `params:`, every job checks them in the manifests it reads.
from functools import cache

from ablation.world.scenes import TASKS as WORLD_TASKS

BASE = f"{RESULTS}/base/manifest.json"
ITEMS = f"{RESULTS}/base/items"
BENCHMARKS = f"{ITEMS}/benchmarks.manifest.json"
INSTRUCTIONS = f"{RESULTS}/base/instructions"
PRETRAINED = f"{RESULTS}/base/pretrained"
RANDOM = f"{RESULTS}/base/random"
# Bases of our own: each has a manifest.json, and the model in base/.
OWN = {"shipped": "resources/micro", "pretrain": PRETRAINED, "random": RANDOM}
BASELINE = f"{RESULTS}/stage1_baseline/manifest.json"
WORLD = [task for task in STUDY.evaluation.tasks if task in WORLD_TASKS]
# How the texts of hub data sets come here, and the stage that brings the finetuning data.
BRING = "generate" if STUDY.rehearsal else "fetch"
LEARNED = f"{BRING}_instructions" if STUDY.instructions else "base_instructions"


def world_slice(*parts):
    """The world's facts and splits, and those parts of its block that a stage uses."""
    keys = ("seed", "eval_percent", "dev_percent", *parts)
    return {"world": STUDY.world.model_dump(include=set(keys))}


@cache
def items_stamp():
    return make_stamp("base_items", world_slice("items"), ())


def origin(data_sets):
    """What hub data sets are made of: their commits, or the seed of a rehearsal's texts."""
    if STUDY.rehearsal:
        return {"seed": STUDY.random.seed}
    return {"pins": {data: STUDY.pins.get(data) for data in data_sets}}


@cache
def benchmarks_stamp():
    slice = {"data_sets": STUDY.data_sets, **origin(STUDY.data_sets)}
    return make_stamp(f"{BRING}_items", slice, ())


@cache
def instructions_stamp():
    learned = STUDY.instructions
    slice = world_slice("finetuning")
    if learned:
        slice = {"instructions": learned.model_dump(), **origin([learned.data])}
    return make_stamp(LEARNED, slice, ())


@cache
def pretrain_stamp():
    return make_stamp("base_pretrain", world_slice("pretrain"), MODEL_PACKAGES)


@cache
def random_stamp():
    slice = {"study": STUDY.study, "random": STUDY.random.model_dump()}
    return make_stamp("base_random", slice, MODEL_PACKAGES)


def base_folder():
    """Where the base model's files stand; of a hub model, its name there."""
    return f"{OWN[STUDY.base]}/base" if STUDY.base in OWN else STUDY.base


def base_record():
    """The small file that says what a base is: its manifest, or its config.json; the hub is asked."""
    if STUDY.from_hub:
        return []
    return f"{OWN[STUDY.base]}/manifest.json" if STUDY.base in OWN else f"{STUDY.base}/config.json"


def base_files():
    """All files of a foreign checkpoint; ours are named, by hash, in their manifest."""
    foreign = STUDY.base not in OWN and not STUDY.from_hub
    return [p.as_posix() for p in provenance.visible_files(STUDY.base)] if foreign else []


@cache
def base_stamp():
    slice = {"base": base_folder()}
    if STUDY.from_hub:
        slice["revision"] = STUDY.pins[STUDY.base]
    if STUDY.base == "shipped":
        slice["manifest"] = provenance.sha256_file(ROOT / base_record())
    made_here = {"pretrain": pretrain_stamp, "random": random_stamp}
    made = made_here.get(STUDY.base)
    return make_stamp("base", slice, (), {base_record(): made()} if made else {})


def world_items():
    return {f"{ITEMS}/manifest.json": items_stamp()}


@cache
def items():
    """What the study's own tasks are scored on."""
    benchmarks = {BENCHMARKS: benchmarks_stamp()} if STUDY.data_sets else {}
    return (world_items() if WORLD else {}) | benchmarks


# Manifests name files that a job reads beside them. Those are inputs too: where no file system is
# shared, only inputs reach the machine. Times of folders say nothing, the manifests do: `ancient`.


def item_files():
    """What `items()` names: the micro-world's tasks, and folders of the hub's data sets."""
    world = expand(f"{ITEMS}/{{task}}.jsonl", task=WORLD_TASKS) if WORLD else []
    return world + ancient([f"{ITEMS}/{data}" for data in STUDY.data_sets])


def base_weights():
    """The base's files; a model of the hub is fetched by the machine that needs it."""
    if STUDY.from_hub:
        return []
    return ancient([base_folder()] if STUDY.base in OWN else base_files())


def stage1_stamp():
    return make_stamp(
        "stage1_baseline",
        scoring_slice(["causal"]),
        SCORING_PACKAGES,
        {BASE: base_stamp(), **items()},
    )


def stage2_stamp():
    return make_stamp(
        "stage2_ablation",
        scoring_slice(ABLATED_MASKS),
        SCORING_PACKAGES,
        {BASE: base_stamp(), **items()},
    )


def finetuning_stamp(recipe, seed):
    """Of stage 3, or of the long runs of stage 5."""
    return _finetuning_stamp(recipe, int(seed))  # wildcards are text: one stamp for both


@cache
def _finetuning_stamp(recipe, seed):
    return make_stamp(
        "stage5_longrun" if recipe in LONG else "stage3_finetune",
        {
            "name": recipe,
            "recipe": STUDY.recipe(recipe),
            "seed": seed,
            "hardware": STUDY.hardware.computing(),
        },
        TRAINING_PACKAGES,
        {BASE: base_stamp(), f"{INSTRUCTIONS}/manifest.json": instructions_stamp()},
    )


def training_state(recipe, seed):
    """Where a training keeps what it resumes from: another history has another folder.

    Micro-batch and rows stay out: they are halved when memory is short, and the step is the same.
    """
    stamp = finetuning_stamp(recipe, seed)
    memory = ("config.recipe.micro_batch_examples", "config.recipe.row_tokens")
    history = provenance.without(stamp, "hash", *memory)
    digest = provenance.sha256_text(provenance.canonical_json(history))
    return f"state/{STUDY.study}/{recipe}-{seed}-{digest[:12]}"


def checkpoint(recipe, seed):
    stage = "stage5_longrun" if recipe in LONG else "stage3_finetune"
    return f"{RESULTS}/{stage}/{recipe}/seed{seed}/manifest.json"


def posteval_stamp(recipe, seed):
    """Of stage 4, or of the evaluation of stage 5."""
    return _posteval_stamp(recipe, int(seed))


@cache
def _posteval_stamp(recipe, seed):
    return make_stamp(
        "stage5_posteval" if recipe in LONG else "stage4_posteval",
        scoring_slice(MASKS),
        SCORING_PACKAGES,
        {checkpoint(recipe, seed): finetuning_stamp(recipe, seed), **items()},
    )


def ablated(mask):
    return f"{RESULTS}/stage2_ablation/{mask}/manifest.json"


def posteval(recipe, seed, mask):
    stage = "stage5_longrun" if recipe in LONG else "stage4_posteval"
    return f"{RESULTS}/{stage}/{recipe}/seed{seed}/{mask}/manifest.json"


@cache
def measured():
    """Every scored manifest of the study, and the stamp that it must carry."""
    stamps = {BASELINE: stage1_stamp()} | {ablated(mask): stage2_stamp() for mask in ABLATED_MASKS}
    for recipe in RECIPES:
        for seed in STUDY.seeds:
            for mask in MASKS:
                stamps[posteval(recipe, seed, mask)] = posteval_stamp(recipe, seed)
    return stamps


@cache
def bag_of_words_stamp():
    slice = world_slice("items")
    return make_stamp("bag_of_words", slice, TABLE_PACKAGES, world_items())


def rehearsal():
    """What tables must say of a study whose numbers mean nothing."""
    return {"rehearsal": True} if STUDY.rehearsal else {}


@cache
def recovery_stamp():
    slice = {
        "study": STUDY.study,
        "metric": STUDY.evaluation.metric,
        "statistics": STUDY.statistics.model_dump(),
        "criteria": STUDY.criteria.model_dump(),
        **rehearsal(),
    }
    return make_stamp("recovery", slice, TABLE_PACKAGES, measured())


@cache
def published_stamp():
    named = {"metric": STUDY.evaluation.metric, "model": base_folder(), **rehearsal()}
    slice = {"named": named, "criteria": STUDY.criteria.model_dump()}
    tables = {f"{RESULTS}/recovery.manifest.json": recovery_stamp()}
    return make_stamp("published", slice, TABLE_PACKAGES, tables)


@cache
def flips_stamp():
    slice = {"study": STUDY.study, "metric": STUDY.evaluation.metric}
    return make_stamp("flips", slice, TABLE_PACKAGES, measured())


@cache
def curves_stamp():
    trained = {checkpoint(r, s): finetuning_stamp(r, s) for r in RECIPES for s in STUDY.seeds}
    return make_stamp("curves", {"study": STUDY.study}, ("pandas",), trained)


@cache
def mask_cells_stamp():
    slice = {"task": "micro_piqa", "item": 0}  # two choices over one prompt, short enough to read
    packages = (*MODEL_PACKAGES, "pandas")
    upstream = {BASE: base_stamp(), **world_items()}
    return make_stamp("mask_cells", slice, packages, upstream)


# A figure's tables in results/<study>/, and for each table the manifest and the stamp behind it.
FIGURES = {
    "accuracy": ("per_task", *(["bag_of_words"] if WORLD else [])),
    "recovery": ("recovery",),
    "curves": ("curves",),
    "flips": ("flips",),
    "masks": ("mask_cells",),
}
TABLES = {
    "per_task": ("recovery", recovery_stamp),
    "recovery": ("recovery", recovery_stamp),
    "bag_of_words": ("bag_of_words", bag_of_words_stamp),
    "curves": ("curves", curves_stamp),
    "flips": ("flips", flips_stamp),
    "mask_cells": ("mask_cells", mask_cells_stamp),
}


def table_manifests(tables):
    """{manifest behind a table: its stamp}"""
    made_by = [TABLES[table] for table in tables]
    return {f"{RESULTS}/{name}.manifest.json": stamp() for name, stamp in made_by}


def figure_stamp(figure):
    has_intervals = "recovery" in [TABLES[table][0] for table in FIGURES[figure]]
    options = {"confidence": STUDY.statistics.confidence} if has_intervals else {}
    return make_stamp(
        "figures",
        {"figure": figure, "options": options},
        ("altair", "pandas", "vl-convert-python"),
        table_manifests(FIGURES[figure]),
    )


# ---- the report ------------------------------------------------------------------------------

SAMPLED = bool(WORLD or STUDY.samples.prompts)
# A page of the report, and the table that it shows.
PAGES = {
    "recovery": "recovery",
    "published": "published",
    "contrasts": "contrasts",
    "accuracy": "per_task",
    "flips": "flips",
    **({"bag_of_words": "bag_of_words"} if WORLD else {}),
    "trainings": "curves",
    **({"samples": "samples"} if SAMPLED else {}),
}
TABLES |= {
    "published": ("published", published_stamp),
    "contrasts": ("recovery", recovery_stamp),
    "samples": ("samples", lambda: samples_stamp()),
}


@cache
def samples_stamp():
    slice = {
        "samples": {**STUDY.samples.model_dump(), "masks": ["causal", "prefill_bidir"]},
        "seed": STUDY.seeds[0],
        "hardware": SCORING_HARDWARE.computing(),
    }
    trained = {checkpoint(r, STUDY.seeds[0]): finetuning_stamp(r, STUDY.seeds[0]) for r in RECIPES}
    asked = {} if STUDY.samples.prompts else world_items()
    return make_stamp("samples", slice, SCORING_PACKAGES, {BASE: base_stamp(), **asked, **trained})


@cache
def pages_stamp():
    return make_stamp("pages", {"pages": PAGES}, ("pandas",), table_manifests(PAGES.values()))


def recorded():
    """The manifests whose run records the report tells: of every stage and table."""
    trained = [checkpoint(recipe, seed) for recipe in RECIPES for seed in STUDY.seeds]
    return sorted([BASE, *measured(), *trained, *table_manifests([*PAGES.values(), "mask_cells"])])
