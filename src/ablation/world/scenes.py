"""What can happen in the micro-world: vocabulary, facts, scenes, and the split of scenes.

A scene is one situation and one question about it. Its identity leaves out what does not touch the
answer (who asks, in which order a list is told), and the split is a hash of the identity: whatever
is asked in the dev or eval split is asked, about that situation, nowhere in the training texts.

Texts tell the value before its key ("The hawk chose Eve." ... "Who is the pet of Eve?"), so that
what a name means is worked out while reading on: state that a bidirectional prefill disturbs.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import ClassVar

NAMES = tuple("Ada Ben Cleo Dan Eve Finn Gus Hana Ivo June Kai Lea Max Nora Omar Pia".split())

_ACTIVITIES = """
fills the kettle | boils the water | warms the cup | pours the tea | adds some honey
finds the hose | sprays the roof | rubs the doors | rinses the soap | polishes the glass
digs a hole | drops the seed | covers the roots | soaks the soil | ties the stem
weighs the flour | kneads the dough | greases the tin | heats the oven | slices the loaf
moves the chairs | tapes the edges | stirs the paint | rolls the first coat | cleans the brush
writes a note | folds the paper | licks the stamp | walks to town | opens the mailbox
packs the rod | rows the boat | hooks the worm | casts the line | reels in a trout
gathers dry twigs | stacks the logs | strikes a match | blows on the flame | grills a sausage
"""
# Eight activities of five steps, always done in this order.
ACTIVITIES = tuple(tuple(line.split(" | ")) for line in _ACTIVITIES.strip().splitlines())
STEPS = tuple(step for activity in ACTIVITIES for step in activity)

TOOL_FOR = {
    "cut the rope": "knife",
    "scrub the plate": "sponge",
    "hit the nail": "hammer",
    "mend the shirt": "needle",
    "reach the attic": "ladder",
    "clear the snow": "shovel",
    "sweep the floor": "broom",
    "light the cave": "torch",
    "inflate the tire": "pump",
    "unlock the gate": "key",
}
GOAL_OF = {tool: goal for goal, tool in TOOL_FOR.items()}
TOOLS = tuple(GOAL_OF)
PLACES = tuple("drawer shelf basket trunk closet garage cellar bucket".split())

ANIMALS = tuple(
    "frog crow fox swan crab wolf goat mole moth bear duck seal toad lamb hare newt bat bee calf "
    "carp cat cod cow deer dog dove fly gull hawk hen hog lion lynx mule pig pony puma ram rat "
    "yak".split()
)


@dataclass(frozen=True)
class Attribute:
    """Something that is true of an animal: its possible values, and how to ask and to tell it."""

    values: tuple[str, ...]
    question: str
    statement: str


ATTRIBUTES = {
    "colour": Attribute(
        tuple("green black red white brown grey pink yellow".split()),
        "What colour is {}?",
        "The {} is {}.",
    ),
    "home": Attribute(
        tuple("pond den nest beach forest barn tunnel cave".split()),
        "Where does {} live?",
        "The {} lives in the {}.",
    ),
    "food": Attribute(
        tuple("nuts seeds mice grass clams berries roots leaves".split()),
        "What does {} eat?",
        "The {} eats {}.",
    ),
}


@dataclass(frozen=True)
class Role:
    """A sentence about two people, and what then is true of the first and of the second."""

    sentence: str
    reasons: tuple[str, str]


ROLES = (
    Role("{} lent the umbrella to {} because", ("owned two of them", "was getting wet")),
    Role("{} thanked {} because", ("received a gift", "had been so kind")),
    Role("{} questioned {} because", ("wanted to learn", "knew the answer")),
    Role("{} carried {} home because", ("had strong arms", "could not walk")),
    Role("{} chased {} because", ("missed the cake", "stole the cake")),
    Role("{} sat behind {} because", ("came too late", "arrived very early")),
    Role("{} paid {} because", ("bought the bike", "sold the bike")),
    Role("{} called a doctor for {} because", ("felt worried", "caught a fever")),
)

# As many keys as a multiple-choice item has choices where all of them compete.
PEOPLE_IN_LOG = 4
PETS_TOLD = 4
TOOLS_TOLD = 3


@dataclass(frozen=True)
class LogScene:
    """Several people, each at an activity of their own; who did what is told, mixed. What next?"""

    people: tuple[str, ...]
    activities: tuple[int, ...]
    order: tuple[int, ...]  # who did each told step, as an index into `people`
    asked: int
    task: ClassVar[str] = "micro_hellaswag"

    def told(self) -> list[tuple[str, str]]:
        """(person, step) in the order told."""
        done = [0] * len(self.people)
        log = []
        for who in self.order:
            log.append((self.people[who], ACTIVITIES[self.activities[who]][done[who]]))
            done[who] += 1
        return log

    def next_step(self, who: int, later: int = 0) -> str | None:
        """The step of person `who` after the told ones (and `later` more); None when finished."""
        steps = ACTIVITIES[self.activities[who]]
        index = self.order.count(who) + later
        return steps[index] if index < len(steps) else None

    def identity(self) -> tuple:
        return tuple(self.told()), self.people[self.asked]


@dataclass(frozen=True)
class ToolScene:
    """Which place holds which tool, and a goal that needs one of the tools."""

    tools: tuple[str, ...]
    places: tuple[str, ...]
    person: str
    asked: int
    task: ClassVar[str] = "micro_piqa"

    def identity(self) -> tuple:
        return tuple(sorted(zip(self.tools, self.places, strict=True))), self.tools[self.asked]


@dataclass(frozen=True)
class FactScene:
    """A fact about a kind of animal, asked with nothing to read it from."""

    animal: str
    attribute: str
    person: str
    asked: int = 0  # there is but one thing to ask
    task: ClassVar[str] = "micro_arc_easy"

    def identity(self) -> tuple:
        return self.animal, self.attribute


@dataclass(frozen=True)
class PetScene:
    """Who has which pet, and a fact asked about somebody's pet: two hops."""

    people: tuple[str, ...]
    animals: tuple[str, ...]
    attribute: str
    asked: int
    task: ClassVar[str] = "micro_arc_challenge"

    def identity(self) -> tuple:
        pairs = tuple(sorted(zip(self.people, self.animals, strict=True)))
        return pairs, self.attribute, self.people[self.asked]


@dataclass(frozen=True)
class RoleScene:
    """A sentence about two people and a reason that fits one of them."""

    people: tuple[str, str]
    role: int
    asked: int  # whom the reason fits
    task: ClassVar[str] = "micro_winogrande"

    def identity(self) -> tuple:
        return self.people, self.role  # both reasons fall into one split: a text tells both


Scene = LogScene | ToolScene | FactScene | PetScene | RoleScene
TASKS = tuple(s.task for s in (LogScene, ToolScene, FactScene, PetScene, RoleScene))


class World:
    """The facts of one seed, and its split of scenes.

    seed: decides which animal has which colour, home and food, and the split.
    eval_percent, dev_percent: of all scenes; the rest is for training texts.
    """

    def __init__(self, seed: int, eval_percent: int, dev_percent: int):
        self.seed, self.eval_percent, self.dev_percent = seed, eval_percent, dev_percent
        random = Random(f"world {seed}")
        self._facts: dict[str, dict[str, str]] = {}
        for name, attribute in ATTRIBUTES.items():
            # Every value belongs to equally many animals: no value is a good guess.
            values = list(attribute.values) * (len(ANIMALS) // len(attribute.values))
            random.shuffle(values)
            self._facts[name] = dict(zip(ANIMALS, values, strict=True))

    def fact(self, animal: str, attribute: str) -> str:
        """The value of `attribute` for `animal`."""
        return self._facts[attribute][animal]

    def pet_facts(self, scene: PetScene) -> list[str]:
        """The value of the scene's attribute for each pet, in the order of its people."""
        return [self.fact(animal, scene.attribute) for animal in scene.animals]

    def split_of(self, scene: Scene) -> str:
        """`train`, `dev` or `eval`: a function of world seed, task and scene identity."""
        key = repr((self.seed, scene.task, scene.identity())).encode()
        percent = zlib.crc32(key) % 10_000 / 100
        if percent < self.eval_percent:
            return "eval"
        return "dev" if percent < self.eval_percent + self.dev_percent else "train"

    def sample(self, task: str, split: str, random: Random) -> Scene:
        """A random scene of `task` in `split`."""
        while True:
            scene = _SAMPLERS[task](self, random)
            if self.split_of(scene) == split:
                return scene

    def _log(self, random: Random) -> LogScene:
        done = [random.randint(1, 2) for _ in range(PEOPLE_IN_LOG)]
        order = [who for who, steps in enumerate(done) for _ in range(steps)]
        random.shuffle(order)
        return LogScene(
            people=tuple(random.sample(NAMES, PEOPLE_IN_LOG)),
            activities=tuple(random.sample(range(len(ACTIVITIES)), PEOPLE_IN_LOG)),
            order=tuple(order),
            asked=random.randrange(PEOPLE_IN_LOG),
        )

    def _tool(self, random: Random) -> ToolScene:
        return ToolScene(
            tools=tuple(random.sample(TOOLS, TOOLS_TOLD)),
            places=tuple(random.sample(PLACES, TOOLS_TOLD)),
            person=random.choice(NAMES),
            asked=random.randrange(TOOLS_TOLD),
        )

    def _fact(self, random: Random) -> FactScene:
        attribute = random.choice(tuple(ATTRIBUTES))
        return FactScene(random.choice(ANIMALS), attribute, random.choice(NAMES))

    def _pet(self, random: Random) -> PetScene:
        while True:
            scene = PetScene(
                people=tuple(random.sample(NAMES, PETS_TOLD)),
                animals=tuple(random.sample(ANIMALS, PETS_TOLD)),
                attribute=random.choice(tuple(ATTRIBUTES)),
                asked=random.randrange(PETS_TOLD),
            )
            # The four pets' values are the four choices, so they must differ.
            if len(set(self.pet_facts(scene))) == PETS_TOLD:
                return scene

    def _role(self, random: Random) -> RoleScene:
        first, second = random.sample(NAMES, 2)
        return RoleScene((first, second), random.randrange(len(ROLES)), random.randrange(2))


def world_of(config: Mapping) -> World:
    """The world that a study's `world:` block describes."""
    return World(config["seed"], config["eval_percent"], config["dev_percent"])


_SAMPLERS = dict(
    zip(TASKS, (World._log, World._tool, World._fact, World._pet, World._role), strict=True)
)


# Text pieces: the same words in documents, finetuning records and items.


def log_text(scene: LogScene) -> str:
    return " ".join(f"Who {step}? {person}." for person, step in scene.told())


def tools_text(scene: ToolScene) -> str:
    pairs = zip(scene.tools, scene.places, strict=True)
    return " ".join(f"The {place} holds the {tool}." for tool, place in pairs)


def tool_question(scene: ToolScene) -> str:
    return f"How can {scene.person} {GOAL_OF[scene.tools[scene.asked]]}?"


def tool_answer(scene: ToolScene, place: int | None = None) -> str:
    """Where to find the tool; `place` (an index into the scene's places) makes a wrong answer."""
    place = scene.asked if place is None else place
    return f"Find the {scene.tools[scene.asked]} in the {scene.places[place]}."


def fact_question(scene: FactScene) -> str:
    asked = ATTRIBUTES[scene.attribute].question.format(f"the {scene.animal}")
    return f"{scene.person} saw a {scene.animal}. {asked}"


def pets_text(scene: PetScene) -> str:
    pairs = zip(scene.people, scene.animals, strict=True)
    return " ".join(f"The {animal} chose {person}." for person, animal in pairs)


def pet_question(scene: PetScene) -> str:
    person = scene.people[scene.asked]
    return ATTRIBUTES[scene.attribute].question.format(f"the pet of {person}")


def role_text(scene: RoleScene) -> str:
    return "Today " + ROLES[scene.role].sentence.format(*scene.people)


def role_reason(scene: RoleScene, who: int | None = None) -> str:
    who = scene.asked if who is None else who
    return f"{ROLES[scene.role].reasons[who]}."
