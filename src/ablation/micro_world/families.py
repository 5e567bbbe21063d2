"""Families of finetuning records that nothing is scored on: requests in words of the micro-world.

They are for the question whether what finetuning gives back carries over to tasks that no record
asks (docs/studies/dose.md). No record tells a fact whose question is held out.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from ablation.micro_world.corpus import PET_PAIRS, TOOL_PAIRS, Pairs, alpaca_record
from ablation.micro_world.scenes import (
    ANIMALS,
    ATTRIBUTES,
    FACT,
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

KINDS = (ANIMALS, TOOLS, PLACES)
WORDS = tuple(word for kind in KINDS for word in kind)
COLOURS = ATTRIBUTES["colour"].values

Made = tuple[str, str]  # what is given, and the answer


class Family(NamedTuple):
    """The request that all records of a family begin with, and the function that makes the rest."""

    request: str
    make: Callable[[World, Random], Made]


def family_record(world: World, name: str, random: Random) -> dict[str, str]:
    """One Alpaca record of a family.

    It has no `input`, like an open request, so that records of both have about as many tokens.
    """
    given, answer = FAMILY[name].make(world, random)
    return alpaca_record(f"{FAMILY[name].request} {given}", "", answer)


# ---- lists of words --------------------------------------------------------------------------


def _reverse(world: World, random: Random) -> Made:
    words = random.sample(WORDS, random.randint(6, 9))
    return " ".join(words), " ".join(reversed(words))


def _copy(world: World, random: Random) -> Made:
    words = random.sample(WORDS, random.randint(6, 9))
    return " ".join(words), " ".join(words)


def _last(world: World, random: Random) -> Made:
    words = random.sample(WORDS, random.randint(11, 14))
    return " ".join(words), words[-1]


def _next(world: World, random: Random) -> Made:
    words = random.sample(WORDS, random.randint(8, 12))
    at = random.randrange(len(words) - 1)
    return f"{' '.join(words)}. {words[at]}?", words[at + 1]


def _twice(world: World, random: Random) -> Made:
    words = random.sample(WORDS, random.randint(11, 14))
    word = random.choice(words)
    words.insert(random.randrange(len(words) + 1), word)
    return " ".join(words), word


def _missing(world: World, random: Random) -> Made:
    words = random.sample(WORDS, random.randint(4, 6))
    missing, *kept = random.sample(words, len(words))
    return f"{' '.join(words)}. {' '.join(kept)}.", missing


def _replace(world: World, random: Random) -> Made:
    old, new, *words = random.sample(WORDS, random.randint(5, 6))
    words.insert(random.randrange(len(words) + 1), old)
    replaced = [new if word == old else word for word in words]
    return f"{old} {new}. {' '.join(words)}.", " ".join(replaced)


def _alternate(world: World, random: Random) -> Made:
    words = random.sample(WORDS, random.randint(2, 3))
    row = [words[k % len(words)] for k in range(random.randint(13, 16))]
    return " ".join(row[:-1]), row[-1]


def _odd(world: World, random: Random) -> Made:
    common, other = random.sample(KINDS, 2)
    odd = random.choice(other)
    words = [*random.sample(common, random.randint(6, 8)), odd]
    return " ".join(random.sample(words, len(words))), odd


def _count(world: World, random: Random) -> Made:
    words, animals = _animals_among(random, 9)
    return words, str(len(animals))


def _filter(world: World, random: Random) -> Made:
    words, animals = _animals_among(random, 7)
    return words, " ".join(animals)


def _animals_among(random: Random, most: int) -> tuple[str, list[str]]:
    """A list of animals and tools, and its animals in their order."""
    animals = random.sample(ANIMALS, random.randint(1, most))
    words = animals + random.sample(TOOLS, random.randint(1, most))
    random.shuffle(words)
    return " ".join(words), [word for word in words if word in animals]


def _longer(world: World, random: Random) -> Made:
    words = random.sample(WORDS, random.choice((7, 9)))  # an odd number: no list is as long
    first = random.randint(1, len(words) - 1)
    answer = "first" if first > len(words) / 2 else "second"
    return f"{' '.join(words[:first])}. {' '.join(words[first:])}.", answer


# ---- who has what ----------------------------------------------------------------------------


def _lookup(world: World, random: Random) -> Made:
    size = random.randint(3, 5)
    pairs = list(zip(random.sample(NAMES, size), random.sample(COLOURS, size), strict=True))
    who, colour = random.choice(pairs)
    return " ".join(f"{one}: {other}." for one, other in pairs) + f" {who}?", colour


def _met(world: World, random: Random) -> Made:
    people = random.sample(NAMES, random.choice((4, 6, 8)))
    pairs = list(zip(people[::2], people[1::2], strict=True))
    who, whom = random.choice(pairs)
    return " ".join(f"{one} met {other}." for one, other in pairs) + f" {whom}?", who


def _swap(world: World, random: Random) -> Made:
    (one, other), (first, second) = random.sample(NAMES, 2), random.sample(ANIMALS, 2)
    told = "{}: {}. {}: {}."
    return told.format(one, first, other, second), told.format(other, first, one, second)


def _yesno(world: World, random: Random) -> Made:
    asked, answers = [], []
    for _ in range(random.randint(3, 4)):
        scene = world.sample(FACT, "train", random)
        assert isinstance(scene, FactScene)
        fact = world.fact(scene.animal, scene.attribute)
        told = random.choice([fact, random.choice(ATTRIBUTES[scene.attribute].values)])
        asked.append(f"{scene.animal} {told}?")
        answers.append("yes" if told == fact else "no")
    return " ".join(asked), " ".join(answers)


# ---- parts of pretraining documents ----------------------------------------------------------


def _recall(kind: Pairs, scene_size: int) -> Callable[[World, Random], Made]:
    """Pairs of key and value, one of which is recalled. As in registers, no scene has as many."""
    keys, values, introduce, *_ = kind

    def make(world: World, random: Random) -> Made:
        size = random.choice([n for n in (2, 3) if n != scene_size])
        pairs = list(zip(random.sample(keys, size), random.sample(values, size), strict=True))
        key, value = random.choice(pairs)
        return " ".join(introduce.format(*pair) for pair in pairs) + f" So {key}", f"{value}."

    return make


def _statement(world: World, random: Random) -> Made:
    while True:
        animal = random.choice(ANIMALS)
        scenes = [FactScene(animal, name, "") for name in random.sample(tuple(ATTRIBUTES), 3)]
        if all(world.split_of(scene) == "train" for scene in scenes):
            break
    told = " ".join(
        ATTRIBUTES[s.attribute].statement.format(animal, world.fact(animal, s.attribute))
        for s in scenes
    )
    given, answer = told.rsplit(" ", 1)
    return given, answer


def _first_hop(world: World, random: Random) -> Made:
    scene = world.sample(PET, "train", random)
    assert isinstance(scene, PetScene)
    who = random.randrange(len(scene.people))
    return f"{pets_text(scene)} Which is the pet of {scene.people[who]}?", scene.animals[who]


FAMILY = {
    "reverse": Family("Reverse the list:", _reverse),
    "lookup": Family("Which colour?", _lookup),
    "odd": Family("Which word of the list is odd?", _odd),
    "count": Family("Count the animals:", _count),
    "missing": Family("Which word is missing?", _missing),
    "swap": Family("Swap the names:", _swap),
    "alternate": Family("Which word is due?", _alternate),
    "last": Family("Which word is last?", _last),
    "met": Family("Who met them?", _met),
    "copy": Family("Copy the list:", _copy),
    "filter": Family("List the animals:", _filter),
    "longer": Family("Which list is longer?", _longer),
    "twice": Family("Which word is twice?", _twice),
    "yesno": Family("Is it so?", _yesno),
    "replace": Family("Replace the word:", _replace),
    "next": Family("Which word is next?", _next),
    "recall_pets": Family("Continue the text.", _recall(PET_PAIRS, PETS_IN_SCENE)),
    "recall_tools": Family("Continue the text.", _recall(TOOL_PAIRS, TOOLS_IN_SCENE)),
    "statement": Family("Continue the text.", _statement),
    "first_hop": Family("Answer the question.", _first_hop),
}
