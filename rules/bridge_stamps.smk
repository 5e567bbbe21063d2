# What the results of the second study depend on: a stamp for each of its rules, in their order.
from functools import cache

from ablation.bridge.prompts import DATA_SETS, REGIMES, SPLITS

BRIDGE = f"{RESULTS}/bridge"
ROLES = ("source", "target")
REGIMES_RUN = [
    r for r in (*REGIMES, *DATA_SETS) if any(r in c.regimes for c in STUDY.bridge.recipes.values())
]
QUESTIONS = f"{BRIDGE}/questions/manifest.json"


def directions(regime):
    """Who reads for whom: swapped only where a recipe of the regime is."""
    recipes = [c for c in STUDY.bridge.recipes.values() if regime in c.regimes]
    return ["forward", *["swapped"] * any(c.swapped for c in recipes)]


def bridge_made(role):
    """The folder of a model of our own, and of its manifest.json; None: it is not ours."""
    return {
        "shipped": f"resources/micro_bridge/{role}",
        "pretrain": f"{BRIDGE}/pretrained/{role}",
        "random": f"{BRIDGE}/random/{role}",
    }.get(getattr(STUDY.bridge, role))


def bridge_model(role):
    return f"{BRIDGE}/models/{role}.manifest.json"


def bridge_record(role):
    """The small file that says what a model is; of one of the hub, the hub is asked."""
    model, own = getattr(STUDY.bridge, role), bridge_made(role)
    if model in STUDY.pins:
        return []
    return f"{own}/manifest.json" if own else f"{model}/config.json"


def bridge_weights():
    """The files of both models; one of the hub is fetched by the machine that needs it."""
    found = []
    for role in ROLES:
        model, own = getattr(STUDY.bridge, role), bridge_made(role)
        if model not in STUDY.pins:
            files = [f"{own}/model"] if own else map(str, provenance.visible_files(model))
            found += ancient(list(files))
    return found


@cache
def questions_stamp():
    block, slice = STUDY.bridge, {"regimes": list(REGIMES_RUN)}
    if set(REGIMES_RUN) & set(REGIMES):
        slice |= {"questions": block.questions.model_dump(), "world": block.world.model_dump()}
    data = {n: block.data[n].model_dump() for n in REGIMES_RUN if n in DATA_SETS}
    if data:
        named = [own["data"] for own in data.values()]
        files = [f for n in named if n not in STUDY.pins for f in provenance.visible_files(n)]
        slice |= {"data": data, "pins": {n: STUDY.pins[n] for n in named if n in STUDY.pins}}
        slice["files"] = provenance.file_table(files)
    if block.rehearsal:
        slice["rehearsal_of"] = STUDY.study
    return make_stamp("bridge_questions", slice, ())


@cache
def bridge_pretrain_stamp(role):
    block = STUDY.bridge
    recipe = block.pretrain[role].model_dump()
    slice = {"world": block.world.model_dump(), "role": role, "recipe": recipe}
    slice["gpu"] = STUDY.hardware.gpu
    return make_stamp("bridge_pretrain", slice, MODEL_PACKAGES)


@cache
def bridge_random_stamp(role):
    return make_stamp(
        "bridge_random", {"random": STUDY.bridge.random[role].model_dump()}, MODEL_PACKAGES
    )


@cache
def bridge_model_stamp(role):
    model, own, upstream = getattr(STUDY.bridge, role), bridge_made(role), {}
    made_here = {"pretrain": bridge_pretrain_stamp, "random": bridge_random_stamp}.get(model)
    slice = {"base": f"{own}/model" if own else model}
    if model in STUDY.pins:
        slice["revision"] = STUDY.pins[model]
    elif made_here:
        upstream = {bridge_record(role): made_here(role)}
    else:
        slice["record"] = provenance.sha256_file(ROOT / bridge_record(role))
    return make_stamp(f"bridge_{role}", slice, (), upstream)


def bridge_models():
    return {bridge_model(role): bridge_model_stamp(role) for role in ROLES}


def bridge_words(regime):
    """What prompts are made of, beside the questions."""
    block = STUDY.bridge
    return {"regime": regime, "max_tokens": block.max_tokens, "chat": block.chat}


def bridge_states(regime, direction):
    return f"{BRIDGE}/states/{regime}/{direction}/manifest.json"


@cache
def bridge_states_stamp(regime, direction):
    block = STUDY.bridge
    here = [c for c in block.recipes.values() if regime in c.regimes]
    slice = {
        "regime": regime,
        "words": bridge_words(regime),
        "direction": direction,
        "options": {n: getattr(block, n) for n in ("layer", "teacher_top")},
        "budgets": sorted({k for c in here for k in c.soft_tokens}),
        "answers": block.training.model_dump(include={"max_new_tokens", "eval_batch"}),
        "hardware": SCORING_HARDWARE.computing(),
    }
    upstream = {QUESTIONS: questions_stamp(), **bridge_models()}
    return make_stamp("bridge_states", slice, MODEL_PACKAGES, upstream)


def bridge_cached(regime):
    """Folders that the manifests of a regime's states name: what the frozen models said, and more."""
    homes = [Path(bridge_states(regime, d)).parent for d in directions(regime)]
    named = (*SPLITS, "samples.parquet")
    return [f"{home}/{name}" for home in homes for name in named]


def bridge_cells(regime, seed):
    return f"{BRIDGE}/cells/{regime}/seed{seed}/manifest.json"


@cache
def bridge_cells_stamp(regime, seed):
    block = STUDY.bridge
    chosen = {name: recipe for name, recipe in block.recipes.items() if regime in recipe.regimes}
    slice = {
        "regime": regime,
        "seed": int(seed),
        "recipes": {n: block.recipe(n) | {"soft_tokens": r.soft_tokens} for n, r in chosen.items()},
        "words": bridge_words(regime),
        "hardware": SCORING_HARDWARE.computing(),
    }
    states = {bridge_states(regime, d): bridge_states_stamp(regime, d) for d in directions(regime)}
    upstream = {QUESTIONS: questions_stamp(), **bridge_models(), **states}
    return make_stamp("bridge_cells", slice, TRAINING_PACKAGES, upstream)


def bridge_training_state(regime, seed):
    digest = bridge_cells_stamp(regime, seed)["hash"][:12]
    return f"state/{STUDY.study}/bridge-{regime}-{seed}-{digest}"


def bridge_inference(regime):
    return f"{BRIDGE}/inference/{regime}/manifest.json"


@cache
def bridge_inference_stamp(regime):
    block = STUDY.bridge
    asked, seed = block.inference, block.seeds[0]
    slice = {
        "regime": regime,
        "inference": asked.model_dump(),
        "recipe": block.recipe(asked.recipe),
        "layer": block.layer,
        "words": bridge_words(regime),
        "hardware": SCORING_HARDWARE.computing(),
    }
    upstream = {
        QUESTIONS: questions_stamp(),
        **bridge_models(),
        bridge_cells(regime, seed): bridge_cells_stamp(regime, seed),
    }
    return make_stamp("bridge_inference", slice, MODEL_PACKAGES, upstream)


def bridge_measured():
    """{manifest that the tables read: its stamp}"""
    found = {}
    for regime in REGIMES_RUN:
        for direction in directions(regime):
            found[bridge_states(regime, direction)] = bridge_states_stamp(regime, direction)
        for seed in STUDY.bridge.seeds:
            found[bridge_cells(regime, seed)] = bridge_cells_stamp(regime, seed)
        found[bridge_inference(regime)] = bridge_inference_stamp(regime)
    return found


BRIDGE_TABLES = (
    "runs",
    "effects",
    "controls",
    "compression",
    "quantization",
    "inference",
    "latency_by_length",
    "claims",
    "plan",
    "audit",
    "curves",
)
BRIDGE_FIGURES = {
    "accuracy_by_k": ("runs",),
    "quality_and_cost": ("inference",),
    "bridge_curves": ("curves",),
}


@cache
def bridge_tables_stamp():
    block = STUDY.bridge
    slice = {
        "study": STUDY.study,
        "confidence": STUDY.statistics.confidence,
        "claims": block.claims.model_dump(),
        "inference": block.inference.model_dump(),
        "recipes": {n: r.model_dump() for n, r in block.recipes.items()},
        "seeds": block.seeds,
        "rehearsal": block.rehearsal,
    }
    return make_stamp("bridge_tables", slice, TABLE_PACKAGES, bridge_measured())


@cache
def bridge_published_stamp():
    slice = {"confidence": STUDY.statistics.confidence}
    return make_stamp("bridge_published", slice, TABLE_PACKAGES)


def bridge_figure_stamp(figure):
    tables = {f"{BRIDGE}/tables.manifest.json": bridge_tables_stamp()}
    slice = {"figure": figure, "options": {}}
    packages = ("altair", "pandas", "vl-convert-python")
    return make_stamp("bridge_figures", slice, packages, tables)
