"""The micro-world: its vocabulary, facts and scenes, and the split of scenes.

A scene is one situation and one question about it. The identity of a scene leaves out everything
that does not change the answer (who asks, the order of a list). The split of a scene is a hash of
its identity, so no training text asks a question of the dev or eval split about the same situation.

Texts give a value before its key ("The hawk chose Eve." ... "Who is the pet of Eve?"). So a causal
model has to bind the two when it reads the key, and a bidirectional prefill disturbs that.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from ablation.vocabulary.micro_tasks import TASKS

LOG, TOOL, FACT, PET, ROLE = TASKS  # each task has one kind of scene
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
# Eight activities of five steps, which are always done in this order.
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
    """A property of animals: its possible values, and templates of its question and statement."""

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
    """A sentence about two people, and the reasons that fit the first and the second of them."""

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

# The numbers of people, pets and tools in a scene. All of them compete as choices of an item.
PEOPLE_IN_LOG = 4
PETS_IN_SCENE = 4
TOOLS_IN_SCENE = 3


@dataclass(frozen=True)
class LogScene:
    """Several people do one activity each; the question is somebody's next step.

    activities: the activity of each person, as an index of ACTIVITIES.
    order: the person of each step in the log, as an index of `people`.
    asked: the person whose next step the question is about, as an index of `people`.
    """

    people: tuple[str, ...]
    activities: tuple[int, ...]
    order: tuple[int, ...]
    asked: int
    task: ClassVar[str] = LOG

    def log(self) -> list[tuple[str, str]]:
        """(person, step) in the order of the log."""
        done = [0] * len(self.people)
        log = []
        for who in self.order:
            log.append((self.people[who], ACTIVITIES[self.activities[who]][done[who]]))
            done[who] += 1
        return log

    def next_step(self, who: int, later: int = 0) -> str | None:
        """The step of person `who` after those in the log and `later` more; None after the last."""
        steps = ACTIVITIES[self.activities[who]]
        index = self.order.count(who) + later
        return steps[index] if index < len(steps) else None

    def identity(self) -> tuple:
        return tuple(self.log()), self.people[self.asked]


@dataclass(frozen=True)
class ToolScene:
    """Several places hold a tool each; the question is how to reach a goal that needs one tool.

    asked: the tool that the goal needs, as an index of `tools`.
    """

    tools: tuple[str, ...]
    places: tuple[str, ...]
    person: str
    asked: int
    task: ClassVar[str] = TOOL

    def identity(self) -> tuple:
        return tuple(sorted(zip(self.tools, self.places, strict=True))), self.tools[self.asked]


@dataclass(frozen=True)
class FactScene:
    """A question about a kind of animal whose answer is not in the text."""

    animal: str
    attribute: str
    person: str
    asked: int = 0  # there is only one question
    task: ClassVar[str] = FACT

    def identity(self) -> tuple:
        return self.animal, self.attribute


@dataclass(frozen=True)
class PetScene:
    """Several people have a pet each; the question is a fact about somebody's pet, in two hops.

    asked: the owner of the pet, as an index of `people`.
    """

    people: tuple[str, ...]
    animals: tuple[str, ...]
    attribute: str
    asked: int
    task: ClassVar[str] = PET

    def identity(self) -> tuple:
        pairs = tuple(sorted(zip(self.people, self.animals, strict=True)))
        return pairs, self.attribute, self.people[self.asked]


@dataclass(frozen=True)
class RoleScene:
    """A sentence about two people and a reason that fits one of them.

    role: an index of ROLES.
    asked: the person whom the reason fits, as an index of `people`.
    """

    people: tuple[str, str]
    role: int
    asked: int
    task: ClassVar[str] = ROLE

    def identity(self) -> tuple:
        return self.people, self.role  # a text gives both reasons, so both are in one split


Scene = LogScene | ToolScene | FactScene | PetScene | RoleScene


class World:
    """The facts of one seed, and its split of scenes.

    seed: decides the colour, home and food of each animal, and the split.
    eval_percent, dev_percent: shares of all scenes; the rest is for training texts.
    """

    def __init__(self, seed: int, eval_percent: int, dev_percent: int) -> None:
        self.seed, self.eval_percent, self.dev_percent = seed, eval_percent, dev_percent
        random = Random(f"world {seed}")
        self._facts: dict[str, dict[str, str]] = {}
        for name, attribute in ATTRIBUTES.items():
            # Every value belongs to the same number of animals, so no value is a good guess.
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
            tools=tuple(random.sample(TOOLS, TOOLS_IN_SCENE)),
            places=tuple(random.sample(PLACES, TOOLS_IN_SCENE)),
            person=random.choice(NAMES),
            asked=random.randrange(TOOLS_IN_SCENE),
        )

    def _fact(self, random: Random) -> FactScene:
        attribute = random.choice(tuple(ATTRIBUTES))
        return FactScene(random.choice(ANIMALS), attribute, random.choice(NAMES))

    def _pet(self, random: Random) -> PetScene:
        while True:
            scene = PetScene(
                people=tuple(random.sample(NAMES, PETS_IN_SCENE)),
                animals=tuple(random.sample(ANIMALS, PETS_IN_SCENE)),
                attribute=random.choice(tuple(ATTRIBUTES)),
                asked=random.randrange(PETS_IN_SCENE),
            )
            # The four pets' values are the four choices, so they must differ.
            if len(set(self.pet_facts(scene))) == PETS_IN_SCENE:
                return scene

    def _role(self, random: Random) -> RoleScene:
        first, second = random.sample(NAMES, 2)
        return RoleScene((first, second), random.randrange(len(ROLES)), random.randrange(2))


_SAMPLERS: dict[str, Callable[[World, Random], Scene]] = {
    LOG: World._log,
    TOOL: World._tool,
    FACT: World._fact,
    PET: World._pet,
    ROLE: World._role,
}


# ---- pieces of text, which are the same in documents, finetuning records and items ---------------


def log_text(scene: LogScene) -> str:
    """Who did which step, in the order of the log."""
    return " ".join(f"Who {step}? {person}." for person, step in scene.log())


def tools_text(scene: ToolScene) -> str:
    """Which place holds which tool."""
    pairs = zip(scene.tools, scene.places, strict=True)
    return " ".join(f"The {place} holds the {tool}." for tool, place in pairs)


def tool_question(scene: ToolScene) -> str:
    """The question how to reach the scene's goal."""
    return f"How can {scene.person} {GOAL_OF[scene.tools[scene.asked]]}?"


def tool_answer(scene: ToolScene, place: int | None = None) -> str:
    """The answer to `tool_question`; another `place` (an index of the scene's) makes it wrong."""
    place = scene.asked if place is None else place
    return f"Find the {scene.tools[scene.asked]} in the {scene.places[place]}."


def fact_question(scene: FactScene) -> str:
    """The question about the scene's animal."""
    asked = ATTRIBUTES[scene.attribute].question.format(f"the {scene.animal}")
    return f"{scene.person} saw a {scene.animal}. {asked}"


def pets_text(scene: PetScene) -> str:
    """Who has which pet."""
    pairs = zip(scene.people, scene.animals, strict=True)
    return " ".join(f"The {animal} chose {person}." for person, animal in pairs)


def pet_question(scene: PetScene) -> str:
    """The question about somebody's pet."""
    person = scene.people[scene.asked]
    return ATTRIBUTES[scene.attribute].question.format(f"the pet of {person}")


def role_text(scene: RoleScene) -> str:
    """The sentence about two people, without a reason."""
    return "Today " + ROLES[scene.role].sentence.format(*scene.people)


def role_reason(scene: RoleScene, who: int | None = None) -> str:
    """The reason that fits person `who`, by default the one whom the question is about."""
    who = scene.asked if who is None else who
    return f"{ROLES[scene.role].reasons[who]}."
