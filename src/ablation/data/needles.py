"""Retrieval items: a question about one sentence, the needle, of a long made-up text.

The form is that of Kamradt's needle in a haystack and of RULER's task with several keys (Hsieh et
al. 2024, arXiv:2404.06654). Each text gives four people a code, and the question asks for one of
them. The other codes are the wrong choices, and their sentences stand around the needle in random
order. So neither a code that occurs in the text nor the first or last one is the answer more often
than by chance.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from random import Random
from typing import Any

# {name of a position: the share of the prompt's tokens that stand before the needle}
POSITIONS = {"early": 0.1, "middle": 0.5, "late": 0.9}
_NAME = re.compile(rf"needle_(\d+)(k?)_({'|'.join(POSITIONS)})")
CHOICES = 4
LOWEST_CODE, HIGHEST_CODE = 10_000, 99_999
BATCH = 256  # filler sentences that are drawn together

# The words of a filler sentence, one from each line.
_WORDS = [
    line.split()
    for line in (
        "old young quiet tired clever patient hungry gentle lonely proud busy careful",
        "heron badger fox otter raven goose weasel pony hare beaver falcon hedgehog",
        "watched carried followed found guarded missed painted remembered borrowed hid",
        "lantern basket ladder kettle blanket barrel mirror bucket candle saddle wagon",
        "near behind beside above below inside",
        "mill bridge harbour orchard barn meadow tower chapel market garden river gate",
    )
]
Lengths = Callable[[Sequence[str]], list[int]]  # the number of tokens of each text


class Unfitting(ValueError):
    """Items of this length cannot be made, or the model cannot read them."""


def task_name(tokens: int, position: str) -> str:
    """The name of the task with items of this length and position, such as `needle_4k_early`."""
    length = f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)
    return f"needle_{length}_{position}"


def tokens_and_position(task: str) -> tuple[int, str] | None:
    """What `task_name` made a name of, or None for the name of another task."""
    found = _NAME.fullmatch(task)
    return (int(found[1]) * (1024 if found[2] else 1), found[3]) if found else None


def how_made(task: str) -> str:
    """For an error message: the command that makes a retrieval task; empty for another task."""
    found = tokens_and_position(task)
    return f"; `ablation needle MODEL --tokens {found[0]}` makes it" if found else ""


def items(
    tokens: int, position: str, count: int, seed: int, lengths: Lengths
) -> Iterator[dict[str, Any]]:
    """`count` items {query, choices, gold}, each `tokens` long or less by under one sentence.

    The length is that of the prompt and its longest choice. `position` is a key of POSITIONS; the
    needle begins at this share of the prompt, within half a filler sentence. Equal arguments give
    equal items; those of another position are others.

    lengths: the number of tokens of each text for the model, with those that its tokenizer adds.

    Raises Unfitting for a length in which the sentences of all codes have no room.
    """
    random = Random(f"needle {tokens} {position} {seed}")
    for _ in range(count):
        story = _Story(random, tokens, lengths)
        query = story.query(story.fillers_in(tokens, POSITIONS[position]), POSITIONS[position])
        choices = random.sample(story.codes, CHOICES)
        yield {
            "query": query,
            "choices": choices,
            "gold": choices.index(story.codes[story.asked]),
        }


class _Story:
    """The sentences of one item, more of them than `tokens` tokens hold.

    facts: the sentences of the codes, in their order in the text; that of `asked` is the needle.
    reach: [n], the tokens of the first n fillers.
    """

    def __init__(self, random: Random, tokens: int, lengths: Lengths) -> None:
        people = _names(random)
        numbers = random.sample(range(LOWEST_CODE, HIGHEST_CODE + 1), CHOICES)
        self.codes = [str(number) for number in numbers]
        pairs = zip(people, self.codes, strict=True)
        self.facts = [f"The code of {who} is {code}." for who, code in pairs]
        self.asked = random.randrange(CHOICES)
        self.question = f"\n\nQuestion: What is the code of {people[self.asked]}?\nAnswer:"
        self._lengths = lengths
        self._added = lengths([""])[0]  # such as BOS
        self.longest = max(zip(self._costs(self.codes), self.codes, strict=True))[1]
        self.fact_tokens = self._costs(self.facts)
        self.fillers: list[str] = []
        self.reach = [0]
        while self.reach[-1] <= tokens:
            more = [_filler(random) for _ in range(BATCH)]
            self.fillers += more
            self.reach += [self.reach[-1] + cost for cost in accumulate(self._costs(more))]

    def _costs(self, sentences: Sequence[str]) -> list[int]:
        """The tokens that each sentence takes within a text."""
        lengths = self._lengths([f" {sentence}" for sentence in sentences])
        return [length - self._added for length in lengths]

    def fillers_in(self, tokens: int, share: float) -> int:
        """The largest number of fillers with which prompt and choice have `tokens` at most."""

        def whole(fillers: int) -> int:
            return self._lengths([f"{self.query(fillers, share)} {self.longest}"])[0]

        # Tokens of a sentence may differ a little within a text, so an estimate is corrected.
        fillers = max(0, bisect_right(self.reach, tokens - whole(0)) - 1)
        while fillers and whole(fillers) > tokens:
            fillers -= 1
        while whole(fillers + 1) <= tokens:
            fillers += 1
        before = self._before(fillers, share)
        if not self.asked <= before <= fillers - (CHOICES - 1 - self.asked):
            around = sum(self.fact_tokens) + self.reach[CHOICES] + sum(self._costs([self.question]))
            enough = -(-around // min(share, 1 - share) // 100) * 100
            raise Unfitting(
                f"{tokens} tokens are too few for {CHOICES} codes around {share:.0%} of a prompt: "
                f"give {enough:.0f} or more"
            )
        return fillers

    def query(self, fillers: int, share: float) -> str:
        """The prompt with so many fillers, and the needle at `share` of it."""
        sentences = self.fillers[:fillers]
        before = self._before(fillers, share)
        for fact in reversed(range(CHOICES)):  # one filler stands between two facts
            sentences.insert(max(0, before + fact - self.asked), self.facts[fact])
        return " ".join(sentences) + self.question

    def _before(self, fillers: int, share: float) -> int:
        """The number of fillers before the needle, with which it is nearest to `share`."""
        whole = self.reach[fillers] + sum(self.fact_tokens) + sum(self._costs([self.question]))
        wanted = share * whole - sum(self.fact_tokens[: self.asked])
        after = bisect_left(self.reach, wanted, hi=fillers)
        nearer_before = after and wanted - self.reach[after - 1] < self.reach[after] - wanted
        return after - 1 if nearer_before else after


def _filler(random: Random) -> str:
    """A sentence without names and digits, such as `The old heron found a kettle near the mill.`"""
    adjective, animal, verb, thing, where, place = map(random.choice, _WORDS)
    return f"The {adjective} {animal} {verb} a {thing} {where} the {place}."


def _names(random: Random) -> list[str]:
    """Different invented names of three syllables."""
    names: dict[str, None] = {}
    while len(names) < CHOICES:
        syllables = (random.choice("bdfgklmnprstv") + random.choice("aeiou") for _ in range(3))
        names["".join(syllables).capitalize()] = None
    return list(names)


# ---- files --------------------------------------------------------------------------------------


def task_file(tokens: int, position: str, data: str) -> str:
    """The task file of the items in the file `data`, a path from the folder of the run.

    A study whose base reads fewer than `tokens` is refused when it is loaded.
    """
    place = f"{POSITIONS[position]:.0%} of the prompt"
    return f"""\
# Items of {tokens:,} tokens, whose answer begins after {place}; `ablation needle` wrote them.
task: {task_name(tokens, position)}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {json.dumps(data)}}}
output_type: multiple_choice
test_split: test
doc_to_text: query
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
  tokens: {tokens}
"""
