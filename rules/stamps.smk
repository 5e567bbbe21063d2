# What each stage's results depend on: one stamp a stage, in stage order, each standing on the ones
# before it. Snakemake compares them as `params:`, every job checks them in the manifests it reads.
from ablation.world.scenes import TASKS as WORLD_TASKS

BASE = f"{RESULTS}/base/manifest.json"
ITEMS = f"{RESULTS}/base/items"
INSTRUCTIONS = f"{RESULTS}/base/instructions"
SHIPPED = "resources/micro"
PRETRAINED = f"{RESULTS}/base/pretrained"
BASELINE = f"{RESULTS}/stage1_baseline/manifest.json"


def world_slice(*parts):
    """The world's facts and splits, and those parts of its block that a stage uses."""
    keys = ("seed", "eval_percent", "dev_percent", *parts)
    return {"world": STUDY.world.model_dump(include=set(keys))}


@cache
def items_stamp():
    return make_stamp("base_items", "items", world_slice("items"), ())


@cache
def instructions_stamp():
    return make_stamp("base_instructions", "instructions", world_slice("finetuning"), ())


@cache
def pretrain_stamp():
    return make_stamp("base_pretrain", "pretrain", world_slice("pretrain"), MODEL_PACKAGES)


def base_folder():
    """Where the base model's files stand."""
    return {"shipped": f"{SHIPPED}/base", "pretrain": f"{PRETRAINED}/base"}.get(
        STUDY.base, STUDY.base
    )


def base_record():
    """The small file that says what a base is: its manifest, or its config.json."""
    return {
        "shipped": f"{SHIPPED}/manifest.json",
        "pretrain": f"{PRETRAINED}/manifest.json",
    }.get(STUDY.base, f"{STUDY.base}/config.json")


def base_files():
    """All files of a foreign checkpoint; ours are named, by hash, in their manifest."""
    foreign = STUDY.base not in ("shipped", "pretrain")
    return [p.as_posix() for p in provenance.visible_files(STUDY.base)] if foreign else []


@cache
def base_stamp():
    slice = {"base": base_folder()}
    if STUDY.base == "shipped":
        slice["manifest"] = provenance.sha256_file(ROOT / base_record())
    upstream = {base_record(): pretrain_stamp()} if STUDY.pretrained_here else {}
    return make_stamp("base", "base", slice, (), upstream)


def items():
    return {f"{ITEMS}/manifest.json": items_stamp()}


def stage1_stamp():
    return make_stamp(
        "stage1_baseline",
        "evaluate",
        scoring_slice(["causal"]),
        SCORING_PACKAGES,
        {BASE: base_stamp(), **items()},
    )


def stage2_stamp():
    return make_stamp(
        "stage2_ablation",
        "evaluate",
        scoring_slice(ABLATED_MASKS),
        SCORING_PACKAGES,
        {BASE: base_stamp(), **items()},
    )


@cache
def finetuning_stamp(recipe, seed):
    """Of stage 3, or of the long runs of stage 5."""
    return make_stamp(
        "stage5_longrun" if recipe in LONG else "stage3_finetune",
        "finetune",
        {
            "name": recipe,
            "recipe": STUDY.recipe(recipe),
            "seed": int(seed),
            "hardware": STUDY.hardware.model_dump(),
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


@cache
def posteval_stamp(recipe, seed):
    """Of stage 4, or of the evaluation of stage 5."""
    return make_stamp(
        "stage5_posteval" if recipe in LONG else "stage4_posteval",
        "evaluate",
        scoring_slice(MASKS),
        SCORING_PACKAGES,
        {checkpoint(recipe, seed): finetuning_stamp(recipe, seed), **items()},
    )


def ablated(mask):
    return f"{RESULTS}/stage2_ablation/{mask}/manifest.json"


def posteval(recipe, seed, mask):
    stage = "stage5_longrun" if recipe in LONG else "stage4_posteval"
    return f"{RESULTS}/{stage}/{recipe}/seed{seed}/{mask}/manifest.json"


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
    return make_stamp("bag_of_words", "bag_of_words", world_slice("items"), TABLE_PACKAGES, items())


@cache
def recovery_stamp():
    slice = {
        "study": STUDY.study,
        "metric": STUDY.evaluation.metric,
        "statistics": STUDY.statistics.model_dump(),
        "criteria": STUDY.criteria.model_dump(),
    }
    return make_stamp("recovery", "recovery", slice, TABLE_PACKAGES, measured())


@cache
def published_stamp():
    evaluation = STUDY.evaluation
    named = {"protocol": evaluation.protocol, "metric": evaluation.metric, "model": base_folder()}
    slice = {"named": named, "criteria": STUDY.criteria.model_dump()}
    tables = {f"{RESULTS}/recovery.manifest.json": recovery_stamp()}
    return make_stamp("published", "published", slice, TABLE_PACKAGES, tables)


@cache
def flips_stamp():
    slice = {"study": STUDY.study, "metric": STUDY.evaluation.metric}
    return make_stamp("flips", "flips", slice, TABLE_PACKAGES, measured())


@cache
def curves_stamp():
    trained = {checkpoint(r, s): finetuning_stamp(r, s) for r in RECIPES for s in STUDY.seeds}
    return make_stamp("curves", "curves", {"study": STUDY.study}, ("pandas",), trained)


@cache
def mask_cells_stamp():
    slice = {"task": "micro_piqa", "item": 0}  # two choices over one prompt, short enough to read
    packages = (*MODEL_PACKAGES, "pandas")
    return make_stamp("mask_cells", "mask_cells", slice, packages, {BASE: base_stamp(), **items()})


# A figure's tables in results/<study>/, the manifest behind them and its stamp.
FIGURES = {
    "accuracy": (("per_task", "bag_of_words"), "recovery", recovery_stamp),
    "recovery": (("recovery",), "recovery", recovery_stamp),
    "curves": (("curves",), "curves", curves_stamp),
    "flips": (("flips",), "flips", flips_stamp),
    "masks": (("mask_cells",), "mask_cells", mask_cells_stamp),
}


def figure_stamp(figure):
    tables, manifest, upstream = FIGURES[figure]
    intervals = {"confidence": STUDY.statistics.confidence} if manifest == "recovery" else {}
    return make_stamp(
        "figures",
        "figures",
        {"figure": figure, "options": intervals},
        ("altair", "pandas", "vl-convert-python"),
        {f"{RESULTS}/{manifest}.manifest.json": upstream()},
    )
