# What the results of the second study depend on: a stamp for each of its rules, in their order.
from functools import cache

from ablation.bridge.prompts import DATA_SETS, REGIMES, SPLITS

BRIDGE = RECORDS
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


def bridge_folder(role):
    """Where a model's own files stand; of one of the hub, its name there."""
    own = bridge_made(role)
    return f"{own}/model" if own else getattr(STUDY.bridge, role)


def bridge_files(role):
    """All files of a foreign checkpoint; ours are named, by hash, in their manifest."""
    if bridge_made(role) or getattr(STUDY.bridge, role) in STUDY.pins:
        return []
    return [p.as_posix() for p in provenance.visible_files(bridge_folder(role))]


# Files that manifests name are inputs too, as in stamps.smk: only inputs reach a rented machine.


def bridge_weights():
    """Folders of both models; one of the hub is fetched by the machine that needs it."""
    models = {role: getattr(STUDY.bridge, role) for role in ROLES}
    return ancient([bridge_folder(role) for role, m in models.items() if m not in STUDY.pins])


def asked_files(w):
    return expand(f"{BRIDGE}/questions/{w.regime}/{{split}}.jsonl", split=SPLITS)


def read_files(w):
    homes = [Path(bridge_states(w.regime, d)).parent for d in directions(w.regime)]
    return ancient([f"{home}/{name}" for home in homes for name in (*SPLITS, "samples.parquet")])


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
    model, upstream = getattr(STUDY.bridge, role), {}
    made_here = {"pretrain": bridge_pretrain_stamp, "random": bridge_random_stamp}.get(model)
    slice = {"base": bridge_folder(role)}
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
        "hardware": STUDY.hardware.computing(),
    }
    upstream = {QUESTIONS: questions_stamp(), **bridge_models()}
    return make_stamp("bridge_states", slice, MODEL_PACKAGES, upstream)


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
        "hardware": STUDY.hardware.computing(),
    }
    states = {bridge_states(regime, d): bridge_states_stamp(regime, d) for d in directions(regime)}
    upstream = {QUESTIONS: questions_stamp(), **bridge_models(), **states}
    return make_stamp("bridge_cells", slice, TRAINING_PACKAGES, upstream)


def bridge_training_state(regime, seed):
    digest = bridge_cells_stamp(regime, seed)["hash"][:12]
    return f"state/{STUDY.study}/bridge-{regime}-{seed}-{digest}"


TIMED = f"{BRIDGE}/cells/{{regime}}/seed{STUDY.bridge.seeds[0]}"  # whose translators are timed


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
        "hardware": STUDY.hardware.computing(),
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


def bridge_samples():
    """The files of those manifests that the tables read."""
    read = {
        "states": ("samples.parquet",),
        "cells": ("samples.parquet", "summary.json", "curve.jsonl"),
        "inference": ("inference_per_sample.jsonl",),
    }
    homes = [Path(manifest).parent for manifest in bridge_measured()]
    kinds = [home.relative_to(BRIDGE).parts[0] for home in homes]
    return [f"{home}/{n}" for home, kind in zip(homes, kinds) for n in read[kind]]


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


# A page of the report, and the tables that it shows.
BRIDGE_PAGES = {
    "claims": ("claims",),
    "cells": ("runs",),
    "fixes": ("effects",),
    "controls": ("controls",),
    "compression": ("compression", "quantization"),
    "arms": ("inference",),
    "published": ("audit", "published", "published_repeats"),
}
BRIDGE_TITLES = {
    "claims": "1.1 Claims",
    "cells": "1.2 Every translator",
    "fixes": "1.3 What each fix changed",
    "controls": "1.4 Controls",
    "compression": "1.5 Compression",
    "arms": "1.6 What the arms cost",
    "published": "1.7 The leak, and the published runs",
    "accuracy_by_k": "2.1 Accuracy by soft tokens",
    "quality_and_cost": "2.2 Quality and cost",
    "bridge_curves": "2.3 Peak and last step",
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
    options = {"accuracy_by_k": {"recipe": STUDY.bridge.claims.all_fixes}}
    slice = {"figure": figure, "options": options.get(figure, {})}
    packages = ("altair", "pandas", "vl-convert-python")
    return make_stamp("bridge_figures", slice, packages, tables)


def bridge_tabled():
    """{manifest behind the tables: its stamp}"""
    return {
        f"{BRIDGE}/tables.manifest.json": bridge_tables_stamp(),
        f"{BRIDGE}/published.manifest.json": bridge_published_stamp(),
    }


@cache
def bridge_pages_stamp():
    return make_stamp("bridge_pages", {"pages": BRIDGE_PAGES}, ("pandas",), bridge_tabled())


def bridge_recorded():
    """The manifests whose run records the report tells."""
    models = [bridge_model(role) for role in ROLES]
    made = [bridge_record(r) for r in ROLES if getattr(STUDY.bridge, r) == "pretrain"]
    return sorted([QUESTIONS, *models, *made, *bridge_measured(), *bridge_tabled()])
