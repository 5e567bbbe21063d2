"""Multiple-choice items of the five tasks, as the records of the files that lm_eval reads.

In each item the context contains the words of wrong choices as often as those of the right one.
The right choice depends on the order of words alone. `ablation.analysis.bag_of_words` computes
baselines that ignore this order.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

from ablation.micro_world.scenes import (
    ATTRIBUTES,
    ROLE,
    TOOL,
    FactScene,
    LogScene,
    PetScene,
    RoleScene,
    Scene,
    ToolScene,
    World,
    fact_question,
    log_text,
    pet_question,
    pets_text,
    role_reason,
    role_text,
    tool_answer,
    tool_question,
    tools_text,
)
from ablation.vocabulary.micro_tasks import TASKS

CHOICES = {task: 2 if task in (TOOL, ROLE) else 4 for task in TASKS}


def items(
    world: World, task: str, count: int, seed: int, split: str = "eval"
) -> list[dict[str, Any]]:
    """Up to `count` distinct items of `task` from `split`.

    An item is {query, choices, gold, family, cluster}. An item of micro_winogrande is {contexts,
    continuation, gold, family, cluster}: the choice is a part of the context, and the rest of the
    sentence is scored (partial evaluation). Items of one family ask the same kind of question; the
    family is the name of the task. Items of one cluster have the same answer or the same fact, so a
    model that knows it is right about many of them at once.
    """
    random = Random(f"items {world.seed} {seed} {task} {split}")
    made: dict[tuple, dict[str, Any]] = {}
    for _ in range(60 * count):  # a task of few scenes may not have `count` distinct items
        if len(made) == count:
            break
        scene = world.sample(task, split, random)
        key = (scene.identity(), scene.asked, getattr(scene, "person", None))
        if key not in made:
            made[key] = item(world, scene, random)
    return list(made.values())


def item(world: World, scene: Scene, random: Random) -> dict[str, Any]:
    """The item that asks the question of `scene`; the order of its choices is random."""
    return _question(world, scene, random) | {"family": scene.task, "cluster": cluster(scene)}


def cluster(scene: Scene) -> str:
    """What all items have in common that one piece of knowledge answers: a step, tool or fact."""
    match scene:
        case LogScene():
            return str(scene.next_step(scene.asked))
        case ToolScene():
            return scene.tools[scene.asked]
        case FactScene():
            return f"{scene.animal} {scene.attribute}"
        case PetScene():
            return f"{scene.animals[scene.asked]} {scene.attribute}"
        case RoleScene():
            return role_reason(scene)


def _question(world: World, scene: Scene, random: Random) -> dict[str, Any]:
    match scene:
        case LogScene():
            query = f"{log_text(scene)} Then {scene.people[scene.asked]}"
            everyone = range(len(scene.people))
            choices = [f"{scene.next_step(k)}." for k in everyone]  # one of them is right
            good = choices[scene.asked]
        case ToolScene():
            query = f"Question: {tools_text(scene)} {tool_question(scene)}\nAnswer:"
            good = tool_answer(scene)
            places = [k for k in range(len(scene.places)) if k != scene.asked]
            choices = [good, tool_answer(scene, random.choice(places))]
        case FactScene():
            query = f"Question: {fact_question(scene)}\nAnswer:"
            good = world.fact(scene.animal, scene.attribute)
            wrong = [v for v in ATTRIBUTES[scene.attribute].values if v != good]
            choices = [good, *random.sample(wrong, CHOICES[scene.task] - 1)]
        case PetScene():
            query = f"Question: {pets_text(scene)} {pet_question(scene)}\nAnswer:"
            choices = world.pet_facts(scene)
            good = choices[scene.asked]
        case RoleScene():
            people = random.sample(scene.people, 2)
            return {
                "contexts": [f"{role_text(scene)} {name}" for name in people],
                "continuation": role_reason(scene),
                "gold": people.index(scene.people[scene.asked]),
            }
    choices = random.sample(choices, len(choices))
    return {"query": query, "choices": choices, "gold": choices.index(good)}


def requests(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(context, continuation) of each choice, as lm_eval scores them."""
    if "contexts" in item:
        return [(context, f" {item['continuation']}") for context in item["contexts"]]
    return [(item["query"], f" {choice}") for choice in item["choices"]]
