"""How the trainings of a study differ from the published ones, key by key. No torch.

resources/published/prefill.json has the published values under the keys of a study's configuration,
with their sources, and in `beyond_keys` what no key says. Every key that can change a training, and
those of the scores, have a published value there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ablation.config.study import Study
from ablation.vocabulary.recipes import recipe_of

BLOCKS = ("hardware", "instructions", "stops", "evaluation", "criteria")
SHOWN_KEYS = 3  # the others are counted
EVERY = "all"


def training_settings(study: Study, recipe: str) -> dict[str, Any]:
    """{key as in `finetune:`, or dotted: value} of all that affects a training of `recipe`."""
    instructions = study.instructions.model_dump() if study.instructions else {}
    blocks = {"instructions": instructions, "hardware": study.hardware.affecting_results()}
    return _flat(study.recipe(recipe) | blocks)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name}.{k}": v for k, v in value.items()} if name in BLOCKS else {name: value}
    return flat


def _all_settings(study: Study, recipe: str) -> dict[str, Any]:
    """As `training_settings`, with the base, the seeds, and what is scored."""
    shared = study.model_dump(include={"base", "seeds", "evaluation", "criteria"})
    return training_settings(study, recipe) | _flat(shared)


def deviations(
    settings: Mapping[str, Any], published: Mapping, recipe: str
) -> dict[str, Mapping[str, Any]]:
    """{key: its published `value`, what it `changes`, its `source`} where `settings` differ.

    `recipe` is compared with the published recipe after which it is named. A key that `settings`
    lack is null.
    """
    training = published["training"]
    expected = training["shared"] | training["recipes"].get(recipe_of(recipe) or recipe, {})
    return {key: e for key, e in expected.items() if settings.get(key) != e["value"]}


def trained_otherwise(settings: Mapping[str, Any], published: Mapping, recipe: str) -> str | None:
    """The name and the keys of a training that is not the published one, for a note; or None.

    Keys that change only the rounding are left out.
    """
    found = deviations(settings, published, recipe)
    keys = [key for key, entry in found.items() if entry["changes"] == "training"]
    if not keys:
        return None
    more = len(keys) - SHOWN_KEYS
    shown = ", ".join(keys[:SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")
    return f"training ({shown})"


def deviation_table(study: Study, published: Mapping) -> str:
    """All deviations of `study` from the published one, as a table in Markdown.

    A row has the recipes that deviate with equal values, under `all` if these are all of them.
    """
    found: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for recipe in study.recipes:
        settings = _all_settings(study, recipe)
        for key, entry in deviations(settings, published, recipe).items():
            values = (_code(entry["value"]), _code(settings.get(key)))
            cells = (*values, entry["changes"], entry["source"])
            found.setdefault(key, {}).setdefault(cells, []).append(recipe)
    rows = [
        (f"`{key}`", EVERY if len(names) == len(study.recipes) else ", ".join(names), *cells)
        for key, groups in found.items()
        for cells, names in groups.items()
    ]
    names = ("published", "ours", "changes", "source")
    rows += [
        (e["what"], EVERY, *(e[n] for n in names)) for e in published["training"]["beyond_keys"]
    ]
    head = ["| what | recipes | published | ours | changes | source |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def _code(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"
