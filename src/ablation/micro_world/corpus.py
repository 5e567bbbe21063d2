"""The pretraining documents of the base model, among them single Alpaca records.

Documents give the answers of training scenes only. If a document asks further questions about the
same situation, these questions belong to the training split too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from random import Random

from ablation.data.alpaca import alpaca_text
from ablation.micro_world.scenes import (
    ANIMALS,
    ATTRIBUTES,
    NAMES,
    PETS_IN_SCENE,
    PLACES,
    STEPS,
    TOOLS,
    TOOLS_IN_SCENE,
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

QUESTIONS_PER_TOOLS = 2
QUESTIONS_PER_PETS = 3


def documents(world: World, random: Random, weights: Mapping[str, float]) -> Iterator[str]:
    """Endless pretraining documents; `weights` are the relative frequencies of their kinds.

    The kinds are the names of the five tasks, `statement`, `register` and `alpaca`.
    """
    kinds, shares = list(weights), list(weights.values())
    while True:
        kind = random.choices(kinds, shares)[0]
        if kind == "statement":
            yield statement(world, random)
        elif kind == "register":
            yield register(random)
        elif kind == "alpaca":
            yield alpaca_text(record(world, random.choice(TASKS), random))
        else:
            yield document(world, world.sample(kind, "train", random), random)


def primer(random: Random) -> Iterator[str]:
    """Endless lists of pets and their owners, or tools and their places, each repeated twice.

    Only a model that binds each key to its value can predict the repetitions. These lists are read
    first, so that the base model learns binding within a few hundred steps.
    """
    while True:
        yield _repeated_pairs(random, random.choice((PET_PAIRS, TOOL_PAIRS)), full_lines=False)


def record(world: World, task: str, random: Random) -> dict[str, str]:
    """One Alpaca record whose `input` is evidence with a question, or a text to continue."""
    scene = world.sample(task, "train", random)
    match scene:
        case LogScene():
            given = f"{log_text(scene)} Then {scene.people[scene.asked]}"
            return alpaca_record("Continue the text.", given, f"{scene.next_step(scene.asked)}.")
        case ToolScene():
            given = f"{tools_text(scene)} {tool_question(scene)}"
            return alpaca_record("Answer the question.", given, tool_answer(scene))
        case FactScene():
            answer = world.fact(scene.animal, scene.attribute)
            return alpaca_record("Answer the question.", fact_question(scene), answer)
        case PetScene():
            given = f"{pets_text(scene)} {pet_question(scene)}"
            return alpaca_record("Answer the question.", given, world.pet_facts(scene)[scene.asked])
        case RoleScene():
            given = f"{role_text(scene)} {scene.people[scene.asked]}"
            return alpaca_record("Continue the text.", given, role_reason(scene))


def document(world: World, scene: Scene, random: Random) -> str:
    """A text with the scene, its question and answer, and answers to further questions about it."""
    match scene:
        case LogScene():
            return _log_document(world, scene, random)
        case ToolScene():
            return _tool_document(world, scene, random)
        case FactScene():
            answer = world.fact(scene.animal, scene.attribute)
            return f"Question: {fact_question(scene)}\nAnswer: {answer}"
        case PetScene():
            return _pet_document(world, scene, random)
        case RoleScene():
            lines = [f"{name} {role_reason(scene, k)}" for k, name in enumerate(scene.people)]
            return " ".join([role_text(scene), lines[scene.asked], lines[1 - scene.asked]])


def statement(world: World, random: Random) -> str:
    """All facts about one kind of animal."""
    animal = random.choice(ANIMALS)
    names = random.sample(tuple(ATTRIBUTES), len(ATTRIBUTES))
    return " ".join(ATTRIBUTES[a].statement.format(animal, world.fact(animal, a)) for a in names)


# Keys and values; templates for a pair when it is introduced, repeated in full and repeated in
# short. A register never has as many pairs as a scene, so that no register is an item's evidence.
Pairs = tuple[tuple[str, ...], tuple[str, ...], str, str, str]
TOOL_PAIRS: Pairs = (
    TOOLS,
    PLACES,
    "The {1} holds the {0}.",
    "Find the {0} in the {1}.",
    "{0} {1}.",
)
PET_PAIRS: Pairs = (NAMES, ANIMALS, "The {1} chose {0}.", "{0} got the {1}.", "{0} {1}.")
STEP_PAIRS: Pairs = (NAMES, STEPS, "Who {1}? {0}.", "Then {0} {1}.", "{0} {1}.")
PAIRS = (TOOL_PAIRS, PET_PAIRS, STEP_PAIRS)
_SIZES = (2, 3, 4, 5)


def register(random: Random) -> str:
    """Some pairs of key and value, which are then repeated twice in other orders."""
    return _repeated_pairs(random, random.choice(PAIRS), random.random() < 0.5)


def _repeated_pairs(random: Random, kind: Pairs, full_lines: bool) -> str:
    keys, values, introduce, full, short = kind
    taken = TOOLS_IN_SCENE if kind is TOOL_PAIRS else PETS_IN_SCENE
    size = random.choice([n for n in _SIZES if n != taken])
    pairs = list(zip(random.sample(keys, size), random.sample(values, size), strict=True))
    lines = [introduce.format(*pair) for pair in pairs] + ["So"]
    for form in (short, full if full_lines else short):
        random.shuffle(pairs)
        lines += [form.format(*pair) for pair in pairs]
    return " ".join(lines)


def alpaca_record(instruction: str, given: str, output: str) -> dict[str, str]:
    """A record of Alpaca's format with `given` as its input."""
    return {"instruction": instruction, "input": given, "output": output}


def _log_document(world: World, scene: LogScene, random: Random) -> str:
    """The log, then in random order the next steps of people whose questions are for training."""
    allowed = [
        who
        for who in range(len(scene.people))
        if world.split_of(replace(scene, asked=who)) == "train"
    ]
    random.shuffle(allowed)
    lines = [f"Then {scene.people[who]} {scene.next_step(who)}." for who in allowed]
    return " ".join([log_text(scene), *lines])


def _tool_document(world: World, scene: ToolScene, random: Random) -> str:
    others = [k for k in range(len(scene.tools)) if k != scene.asked]
    random.shuffle(others)
    asked = [replace(scene, asked=k) for k in [scene.asked, *others]]
    asked = [s for s in asked if world.split_of(s) == "train"][:QUESTIONS_PER_TOOLS]
    lines = [f"{tool_question(s)}\nAnswer: {tool_answer(s)}" for s in asked]
    return f"Question: {tools_text(scene)} " + "\nQuestion: ".join(lines)


def _pet_document(world: World, scene: PetScene, random: Random) -> str:
    lines = [f"{pet_question(scene)}\nAnswer: {world.pet_facts(scene)[scene.asked]}"]
    others = random.sample(range(len(scene.people)), len(scene.people))
    for k in others:
        if len(lines) == QUESTIONS_PER_PETS:
            break
        further = replace(scene, asked=k, attribute=random.choice(tuple(ATTRIBUTES)))
        if random.random() < 0.5:  # ask for the first of the two hops alone
            lines.append(f"Which is the pet of {scene.people[k]}?\nAnswer: {scene.animals[k]}")
        elif world.split_of(further) == "train":
            lines.append(f"{pet_question(further)}\nAnswer: {world.pet_facts(further)[k]}")
    return f"Question: {pets_text(scene)} " + "\nQuestion: ".join(lines)
