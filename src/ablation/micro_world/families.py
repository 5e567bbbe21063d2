"""Families of finetuning records that nothing is scored on: other requests in the same words.

They are for the question whether what finetuning gives back carries over to tasks that no record
asks (docs/studies/dose.md). The base can do each of them in some other form: bind two words,
remember facts, continue a list. No record tells a fact whose question is held out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from ablation.micro_world.corpus import PET_PAIRS, TOOL_PAIRS, Pairs, alpaca_record
from ablation.micro_world.scenes import (
    ANIMALS,
    ATTRIBUTES,
    NAMES,
    PET,
    PETS_IN_SCENE,
    PLACES,
    TOOLS,
    TOOLS_IN_SCENE,
    FactScene,
    PetScene,
    World,
    pets_text,
)

COLOURS, FOODS = ATTRIBUTES["colour"].values, ATTRIBUTES["food"].values

Family = Callable[[World, Random], tuple[str, str]]  # makes a request and its answer
Words = Sequence[str]


def family_record(world: World, name: str, random: Random) -> dict[str, str]:
    """One Alpaca record of a family.

    It has no `input`, like an open request, so that records of both have about as many tokens.
    """
    request, answer = FAMILY[name](world, random)
    return alpaca_record(request, "", answer)


# ---- forms that pretraining has never seen ---------------------------------------------------


def _pairs(keys: Words, values: Words, told: str, question: str) -> Family:
    """Some pairs of key and value; the question has one of the two words, the answer the other."""

    def make(world: World, random: Random) -> tuple[str, str]:
        key, value = random.sample(keys, 3), random.sample(values, 3)
        asked = random.randrange(3)
        evidence = (told.format(key=k, value=v) for k, v in zip(key, value, strict=True))
        request = f"{' '.join(evidence)} {question.format(key=key[asked], value=value[asked])}"
        return request, (value if "{key}" in question else key)[asked]

    return make


def _short(keys: Words, values: Words, told: str) -> Family:
    """Two pairs, to be repeated in short."""

    def make(world: World, random: Random) -> tuple[str, str]:
        pairs = list(zip(random.sample(keys, 2), random.sample(values, 2), strict=True))
        evidence = " ".join(told.format(key=key, value=value) for key, value in pairs)
        return f"{evidence} So in short?", " ".join(f"{key} {value}." for key, value in pairs)

    return make


def _last(words: Words, told: str, question: str) -> Family:
    """Some words in a row; the answer is the last one."""

    def make(world: World, random: Random) -> tuple[str, str]:
        chosen = random.sample(words, random.randint(3, 5))
        return f"{' '.join(map(told.format, chosen))} {question}", chosen[-1]

    return make


def _missing(words: Words, question: str) -> Family:
    """A list, and the same in another order without one word, which is the answer."""

    def make(world: World, random: Random) -> tuple[str, str]:
        chosen = random.sample(words, random.randint(5, 6))
        missing, *kept = random.sample(chosen, len(chosen))
        return f"{' '.join(chosen)}. {' '.join(kept)}. {question}", missing

    return make


def _turns(words: Words, question: str) -> Family:
    """Two words that take turns; the answer is the one whose turn is next."""

    def make(world: World, random: Random) -> tuple[str, str]:
        pair, shown = random.sample(words, 2), random.randint(13, 16)
        row = [pair[k % 2] for k in range(shown + 1)]
        return f"{' '.join(row[:-1])}. {question}", row[-1]

    return make


def _facts(attribute: str, question: str) -> Family:
    """Facts about several animals that the text does not tell."""

    def make(world: World, random: Random) -> tuple[str, str]:
        known = [a for a in ANIMALS if world.split_of(FactScene(a, attribute, "")) == "train"]
        animals = random.sample(known, random.randint(7, 9))
        answers = [world.fact(animal, attribute) for animal in animals]
        return f"{' '.join(animals)}. {question}", " ".join(answers)

    return make


# ---- forms of pretraining documents ----------------------------------------------------------


def _recall(kind: Pairs, scene_size: int) -> Family:
    """Pairs of key and value, one of which is recalled. As in registers, no scene has as many."""
    keys, values, introduce, *_ = kind

    def make(world: World, random: Random) -> tuple[str, str]:
        size = random.choice([n for n in (2, 3) if n != scene_size])
        pairs = list(zip(random.sample(keys, size), random.sample(values, size), strict=True))
        key, value = random.choice(pairs)
        evidence = " ".join(introduce.format(*pair) for pair in pairs)
        return f"Continue the text. {evidence} So {key}", f"{value}."

    return make


def _statement(world: World, random: Random) -> tuple[str, str]:
    while True:
        animal = random.choice(ANIMALS)
        scenes = [FactScene(animal, name, "") for name in random.sample(tuple(ATTRIBUTES), 3)]
        if all(world.split_of(scene) == "train" for scene in scenes):
            break
    facts = [(ATTRIBUTES[s.attribute], world.fact(animal, s.attribute)) for s in scenes]
    told = " ".join(attribute.statement.format(animal, value) for attribute, value in facts)
    given, answer = told.rsplit(" ", 1)
    return f"Continue the text. {given}", answer


def _first_hop(world: World, random: Random) -> tuple[str, str]:
    scene = world.sample(PET, "train", random)
    assert isinstance(scene, PetScene)
    who = random.randrange(len(scene.people))
    question = f"Which is the pet of {scene.people[who]}?"
    return f"Answer the question. {pets_text(scene)} {question}", scene.animals[who]


FAMILY: dict[str, Family] = {
    "gift": _pairs(NAMES, TOOLS, "The {value} had caught {key}.", "What had caught {key}?"),
    "hideout": _pairs(ANIMALS, PLACES, "The {value} had the {key}.", "What had the {key}?"),
    "meal": _pairs(NAMES, FOODS, "{key} bought some {value}.", "What was bought by {key}?"),
    "paint": _pairs(TOOLS, COLOURS, "The {key} came in {value}.", "How came the {key}?"),
    "room": _pairs(NAMES, PLACES, "The {value} missed {key}.", "Who was missed by the {value}?"),
    "blow": _pairs(ANIMALS, TOOLS, "The {value} hit {key}.", "The {value} hit what?"),
    "echo": _short(NAMES, TOOLS, "The {value} saw {key}."),
    "list": _short(PLACES, COLOURS, "The {key} got {value}."),
    "arrival": _last(NAMES, "{} came in.", "Who came last?"),
    "race": _last(ANIMALS, "The {} came.", "Which came last?"),
    "absent": _missing(NAMES, "Who of all these is not there?"),
    "lost": _missing(TOOLS, "Which of all these is lost?"),
    "turn": _turns(NAMES, "Who is next?"),
    "row": _turns(PLACES, "What is next?"),
    "colours": _facts("colour", "What colours?"),
    "foods": _facts("food", "What foods?"),
    "recall_pets": _recall(PET_PAIRS, PETS_IN_SCENE),
    "recall_tools": _recall(TOOL_PAIRS, TOOLS_IN_SCENE),
    "statement": _statement,
    "first_hop": _first_hop,
}
