"""Names, their numbers, and the questions about them. Pure: a seed in, texts out.

*People* carry a number that the text tells. *Stones* have one number for ever, which only the
source has read. Two questions:

code (compression): twelve people and their numbers, then `Code of` four of them: the answer writes
    the four numbers. Both models can do it; the target could read the text itself.
sum (enrichment): `Sum of` two stones, its last digit, so that all answers are equally likely. The
    target can add numbers that it is told, the source knows the numbers, and neither has ever added
    two stones. Stones of dev and test questions occur in no training question: a translator cannot
    learn their numbers, only how to read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from ablation.bridge import prompts

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


class Numbers:
    """The world of one seed: `people`, `stones`, the `number` of every stone, stones by split."""

    def __init__(self, config: Mapping):
        rng = Random(f"names {config['seed']}")
        names = [a + b + c for a in CONSONANTS for b in VOWELS for c in CONSONANTS]
        rng.shuffle(names)
        people, stones = config["people"], config["stones"]
        if people + stones > len(names):
            raise ValueError(f"{people} people and {stones} stones, but only {len(names)} names")
        self.config = dict(config)
        self.people = names[:people]
        self.stones = names[people : people + stones]
        self.strangers = names[people + stones :]
        digits = [index % 10 for index in range(stones)]  # as many stones of each number
        rng.shuffle(digits)
        self.number = dict(zip(self.stones, digits, strict=True))
        held = {s: stones * config[f"{s}_percent"] // 100 for s in ("test", "dev")}
        first, second = held["test"], held["test"] + held["dev"]
        self.stones_of = {
            "test": self.stones[:first],
            "dev": self.stones[first:second],
            "train": self.stones[second:],
        }

    # ---- questions -----------------------------------------------------------------------------

    def code(
        self, rng: Random, told: float = 0.0, listed: int | None = None, asked: int | None = None
    ) -> tuple[str, str]:
        """A question about people, with its answer; a share `told` of questions repeats numbers."""
        people = rng.sample(self.people, listed or self.config["listed"])
        numbers = {name: rng.randrange(10) for name in people}
        text = ", ".join(f"{name} {number}" for name, number in numbers.items())
        chosen = rng.sample(people, asked or self.config["asked"])
        return f"{text}. {_code(chosen, numbers, rng, told)}", _written(chosen, numbers)

    def known(self, rng: Random, told: float, asked: int) -> tuple[str, str]:
        """The code of stones: for the source alone, which knows their numbers."""
        chosen = rng.sample(self.stones, asked)
        return _code(chosen, self.number, rng, told), _written(chosen, self.number)

    def told_sum(self, rng: Random) -> tuple[str, str]:
        """A sum of told numbers: for the target, which knows no stone but can add."""
        pair = [rng.choice([rng.choice(self.people), rng.choice(self.strangers)]) for _ in range(2)]
        first, second = rng.randrange(10), rng.randrange(10)
        return f"Sum of {pair[0]} {first} {pair[1]} {second}", str((first + second) % 10)

    def stone_sum(self, rng: Random, stones: Sequence[str]) -> tuple[str, str]:
        """The question of the enrichment regime: a sum of two different `stones`."""
        one, other = rng.sample(stones, 2)
        return f"Sum of {one} {other}", str((self.number[one] + self.number[other]) % 10)

    def questions(self, regime: str, split: str, count: int) -> list[dict]:
        """`count` different records {question, answer}; equal for equal seed, regime and split."""
        rng, seen, records = Random(f"{regime} {split} {self.config['seed']}"), set(), []
        stones = self.stones_of[split]
        if regime == "enrichment" and count > len(stones) * (len(stones) - 1):
            raise ValueError(f"{count} {split} questions, but {len(stones)} stones make fewer")
        while len(records) < count:
            if regime == "compression":
                question, answer = self.code(rng)
            else:
                question, answer = self.stone_sum(rng, stones)
            if question not in seen:
                seen.add(question)
                records.append({"question": question, "answer": answer})
        return records


def _code(asked: Sequence[str], numbers: Mapping, rng: Random, told: float) -> str:
    repeat = rng.random() < told
    return "Code of " + " ".join(f"{name} {numbers[name]}" if repeat else name for name in asked)


def _written(asked: Sequence[str], numbers: Mapping) -> str:
    return " ".join(str(numbers[name]) for name in asked)


# ---- what the two models read --------------------------------------------------------------------


def problem(question: str, answer: str, draft: str | None = None) -> str:
    """A worked problem, as both models read it."""
    hint = "" if draft is None else f"\nDraft: {draft}"
    return prompts.problem(question) + hint + prompts.SUFFIX + prompts.worked(answer)


def source_texts(world: Numbers, rng: Random) -> Iterator[tuple[str, str]]:
    """(what is read, what is learned): numbers of stones, codes; sums are never answered."""
    while True:
        kind = rng.random()
        if kind < 0.3:
            stones = rng.sample(world.stones, world.config["listed"])
            yield "", ", ".join(f"{s} {world.number[s]}" for s in stones)
        elif kind < 0.7:
            yield _split(problem(*_code_of_any_length(world, rng)))
        elif kind < 0.85:
            yield _split(problem(*world.known(rng, 0.5, rng.randint(1, world.config["asked"]))))
        else:
            pair = rng.sample(world.stones, 2)
            yield "Problem:", " Sum of " + " ".join(f"{s} {world.number[s]}" for s in pair)


def target_texts(world: Numbers, rng: Random) -> Iterator[tuple[str, str]]:
    """(what is read, what is learned): codes and sums of told numbers, some with a draft."""
    while True:
        code = rng.random() < 0.8
        question, answer = _code_of_any_length(world, rng) if code else world.told_sum(rng)
        draft = None
        if rng.random() < 0.1:
            wrong = world.code(rng, 0.0, 4)[1] if code else str(rng.randrange(10))
            draft = answer if rng.random() < 0.7 else wrong
        again = f"\nSo {answer}" if rng.random() < 0.3 else ""  # as models do that run on
        yield _split(problem(question, answer, draft) + again)


def _code_of_any_length(world: Numbers, rng: Random) -> tuple[str, str]:
    """Short lists are learned first, and teach the long ones."""
    asked = rng.randint(1, world.config["asked"])
    return world.code(rng, 0.5, rng.randint(asked, world.config["listed"]), asked)


def _split(text: str) -> tuple[str, str]:
    """A list of random numbers can be read, not learned."""
    at = max(text.find(" Code of"), text.find(" Sum of"))
    return text[:at], text[at:]


TEXTS = {"source": source_texts, "target": target_texts}
