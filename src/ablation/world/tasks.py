"""Multiple-choice items of the five tasks, as plain dicts, and the files that lm_eval reads.

In each item the wrong choices have as much support in the context's words as the right one: only
who did, holds or has what decides. `ablation.world.baselines` measures that.
"""

from __future__ import annotations

from random import Random

from ablation.world.scenes import (
    ATTRIBUTES,
    TASKS,
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

CHOICES = {task: 2 if task in ("micro_piqa", "micro_winogrande") else 4 for task in TASKS}


def items(world: World, task: str, count: int, seed: int, split: str = "eval") -> list[dict]:
    """Up to `count` distinct items of `task` from `split`.

    {query, choices, gold}; for micro_winogrande {contexts, continuation, gold}: there the choice
    stands in the context and the rest of the sentence is scored (partial evaluation).
    """
    random = Random(f"items {world.seed} {seed} {task} {split}")
    made: dict[tuple, dict] = {}
    for _ in range(60 * count):  # a task of few scenes may not have `count` distinct items
        if len(made) == count:
            break
        scene = world.sample(task, split, random)
        key = (scene.identity(), scene.asked, getattr(scene, "person", None))
        if key not in made:
            made[key] = item(world, scene, random)
    return list(made.values())


def item(world: World, scene: Scene, random: Random) -> dict:
    """One item; the order of choices is random."""
    match scene:
        case LogScene():
            query = f"{log_text(scene)} Then {scene.people[scene.asked]}"
            everyone = range(len(scene.people))  # everybody's next step; one is the asked one's
            choices = [f"{scene.next_step(k)}." for k in everyone]
            good = choices[scene.asked]
        case ToolScene():
            query = f"Question: {tools_text(scene)} {tool_question(scene)}\nAnswer:"
            good = tool_answer(scene)
            others = [k for k in range(len(scene.places)) if k != scene.asked]
            choices = [good, tool_answer(scene, random.choice(others))]
        case FactScene():
            query = f"Question: {fact_question(scene)}\nAnswer:"
            good = world.fact(scene.animal, scene.attribute)
            others = [v for v in ATTRIBUTES[scene.attribute].values if v != good]
            choices = [good, *random.sample(others, CHOICES[scene.task] - 1)]
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


def requests(item: dict) -> list[tuple[str, str]]:
    """(context, continuation) of each choice, as lm_eval scores them."""
    if "contexts" in item:
        return [(context, f" {item['continuation']}") for context in item["contexts"]]
    return [(item["query"], f" {choice}") for choice in item["choices"]]
