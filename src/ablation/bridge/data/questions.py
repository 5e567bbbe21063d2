"""The world of the micro bridge: names with numbers, and questions about them.

There are two kinds of names. A *person* has a number that the question states. A *stone* has one
fixed number, which only the source has read in its pretraining. There are two kinds of questions:

code (regimes `compression` and `query_agnostic`): a list of twelve people with their numbers, then
    `Code of` and some of them; the answer is their numbers. Both models can answer it from text. In
    `query_agnostic` the list is the context, which the source reads before the code is known.
sum (regime `enrichment`): the question is `Sum of` two stones; the answer is the last digit of the
    sum, so all answers are equally likely. The target can add stated numbers, the source has
    learned the numbers of stones, and neither has ever added two stones. Stones of dev and test
    questions occur in no training question, so a translator cannot learn their numbers. Questions
    that share a stone are no independent draws, so both stones are clusters of a question.

All functions are pure: equal seeds give equal texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from ablation.bridge.data.prompts import SUFFIX, answer_text, problem_text, problem_with_draft
from ablation.config.bridge_blocks import QuestionWorld
from ablation.vocabulary.bridge import ENRICHMENT, QUERY_AGNOSTIC

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


class NumberWorld:
    """The names of one seed: `people`, `stones`, the `number` of every stone, stones by split."""

    def __init__(self, config: QuestionWorld, questions: int = 0) -> None:
        """`questions` is the seed of the questions and of the stones of each split.

        Raises ValueError if `config` has more people and stones than there are names.
        """
        rng = Random(f"names {config.seed}")
        names = [a + b + c for a in CONSONANTS for b in VOWELS for c in CONSONANTS]
        rng.shuffle(names)
        people, stones = config.people, config.stones
        if people + stones > len(names):
            raise ValueError(f"{people} people and {stones} stones, but only {len(names)} names")
        self.config, self.questions = config, questions
        self.people = names[:people]
        self.stones = names[people : people + stones]
        self.strangers = names[people + stones :]
        digits = [index % 10 for index in range(stones)]  # every digit equally often
        rng.shuffle(digits)
        self.number = dict(zip(self.stones, digits, strict=True))
        test = stones * config.test_percent // 100
        dev = stones * config.dev_percent // 100
        drawn = Random(f"stones {config.seed} {questions}").sample(self.stones, stones)
        self.stones_of = {
            "test": drawn[:test],
            "dev": drawn[test : test + dev],
            "train": drawn[test + dev :],
        }

    # ---- questions -----------------------------------------------------------------------------

    def listed_code(
        self,
        rng: Random,
        repeat_share: float = 0.0,
        listed: int | None = None,
        asked: int | None = None,
    ) -> tuple[str, str, str]:
        """A list of people with their numbers, a code of some of them, and its answer.

        `listed` people are stated and `asked` of them are in the code, by default as many as the
        configuration has. A share of `repeat_share` questions states the numbers in the code too.
        """
        people = rng.sample(self.people, listed or self.config.listed)
        numbers = {name: rng.randrange(10) for name in people}
        text = ", ".join(f"{name} {number}" for name, number in numbers.items())
        chosen = rng.sample(people, asked or self.config.asked)
        code = _code_text(chosen, numbers, rng, repeat_share)
        return f"{text}.", code, _numbers_text(chosen, numbers)

    def code_question(self, rng: Random) -> tuple[str, str]:
        """A list and a code of some of its people as one question, and its answer."""
        context, code, answer = self.listed_code(rng)
        return f"{context} {code}", answer

    def stone_code_question(self, rng: Random, repeat_share: float, asked: int) -> tuple[str, str]:
        """A code of stones and its answer, for the source, which has learned their numbers."""
        chosen = rng.sample(self.stones, asked)
        code = _code_text(chosen, self.number, rng, repeat_share)
        return code, _numbers_text(chosen, self.number)

    def stated_sum_question(self, rng: Random) -> tuple[str, str]:
        """A sum of stated numbers and its answer, for the target, which has read no stone."""
        pair = [rng.choice([rng.choice(self.people), rng.choice(self.strangers)]) for _ in range(2)]
        first, second = rng.randrange(10), rng.randrange(10)
        return f"Sum of {pair[0]} {first} {pair[1]} {second}", str((first + second) % 10)

    def stone_sum_record(self, rng: Random, stones: Sequence[str]) -> dict[str, str]:
        """A record of `enrichment`: a sum of two different `stones`, its answer, its clusters."""
        one, other = rng.sample(stones, 2)
        answer = str((self.number[one] + self.number[other]) % 10)
        cluster = " ".join(sorted((one, other)))
        return {"question": f"Sum of {one} {other}", "answer": answer, "cluster": cluster}

    def code_record(self, rng: Random, regime: str, split: str) -> dict[str, str]:
        """A code and its answer.

        In `query_agnostic` the list is the context. There training questions have lists of any
        length, because short lists are learned first and help with long ones.
        """
        if regime != QUERY_AGNOSTIC:
            context, code, answer = self.listed_code(rng)
            return {"question": f"{context} {code}", "answer": answer}
        shortest = self.config.asked if split == "train" else self.config.listed
        listed = rng.randint(shortest, self.config.listed)
        context, code, answer = self.listed_code(rng, listed=listed)
        return {"context": context, "question": code, "answer": answer}

    def make_questions(self, regime: str, split: str, count: int) -> list[dict[str, str]]:
        """`count` different records {question, answer}; equal for equal seeds, regime and split.

        Records of `query_agnostic` have a `context` too, and those of `enrichment` a `cluster`.
        Raises ValueError if the split has too few stones for `count` different sums.
        """
        rng = Random(f"{regime} {split} {self.config.seed} {self.questions}")
        seen: set[tuple] = set()
        records: list[dict[str, str]] = []
        stones = self.stones_of[split]
        if regime == ENRICHMENT and count > len(stones) * (len(stones) - 1):
            raise ValueError(f"{count} {split} questions, but {len(stones)} stones make fewer")
        while len(records) < count:
            if regime == ENRICHMENT:
                record = self.stone_sum_record(rng, stones)
            else:
                record = self.code_record(rng, regime, split)
            asked = record.get("context"), record["question"]
            if asked not in seen:
                seen.add(asked)
                records.append(record)
        return records


def _code_text(
    asked: Sequence[str], numbers: Mapping[str, int], rng: Random, repeat_share: float
) -> str:
    repeat = rng.random() < repeat_share
    return "Code of " + " ".join(f"{name} {numbers[name]}" if repeat else name for name in asked)


def _numbers_text(asked: Sequence[str], numbers: Mapping[str, int]) -> str:
    return " ".join(str(numbers[name]) for name in asked)


# ---- texts for the pretraining of the two models -------------------------------------------------


def worked_problem(question: str, answer: str, draft: str | None = None) -> str:
    """A question with its answer, in the form in which both models read it in their pretraining."""
    problem = problem_text(question) if draft is None else problem_with_draft(question, draft)
    return problem + SUFFIX + answer_text(answer)


def source_texts(world: NumberWorld, rng: Random) -> Iterator[tuple[str, str]]:
    """Endless pairs (context without loss, text with loss) for the source.

    They state the numbers of stones and answer codes. They never answer a sum.
    """
    while True:
        kind = rng.random()
        if kind < 0.3:
            stones = rng.sample(world.stones, world.config.listed)
            yield "", ", ".join(f"{s} {world.number[s]}" for s in stones)
        elif kind < 0.7:
            context, code, answer = _code_of_any_length(world, rng)
            yield _split_at_task(worked_problem(f"{context} {code}", answer))
        elif kind < 0.85:
            asked = rng.randint(1, world.config.asked)
            yield _split_at_task(worked_problem(*world.stone_code_question(rng, 0.5, asked)))
        else:
            pair = rng.sample(world.stones, 2)
            yield "Problem:", " Sum of " + " ".join(f"{s} {world.number[s]}" for s in pair)


def target_texts(world: NumberWorld, rng: Random) -> Iterator[tuple[str, str]]:
    """Endless pairs (context without loss, text with loss) for the target.

    They answer codes and sums of stated numbers, and some of them have a draft. Three texts in ten
    echo their answer: that is what the demonstration of the answer leak rests on.
    """
    while True:
        is_code = rng.random() < 0.8
        if is_code:
            context, query, answer = _code_of_any_length(world, rng)
            question = f"{context} {query}"
        else:
            question, answer = world.stated_sum_question(rng)
        draft = None
        if rng.random() < 0.1:
            wrong = world.listed_code(rng, 0.0, 4)[2] if is_code else str(rng.randrange(10))
            draft = answer if rng.random() < 0.7 else wrong
        again = f"\nSo {answer}" if rng.random() < 0.3 else ""  # some models write on and on
        yield _split_at_task(worked_problem(question, answer, draft) + again)


def _code_of_any_length(world: NumberWorld, rng: Random) -> tuple[str, str, str]:
    """A code over a list of any length: short lists are learned first and help with long ones."""
    asked = rng.randint(1, world.config.asked)
    return world.listed_code(rng, 0.5, rng.randint(asked, world.config.listed), asked)


def _split_at_task(text: str) -> tuple[str, str]:
    """The stated list, which is random and cannot be learned, and the rest of the text."""
    position = max(text.find(" Code of"), text.find(" Sum of"))
    return text[:position], text[position:]


TEXTS = {"source": source_texts, "target": target_texts}
