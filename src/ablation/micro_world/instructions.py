"""The finetuning data of the micro-world: Alpaca records of training scenes and open requests."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from ablation.micro_world.corpus import PET_PAIRS, STEP_PAIRS, TOOL_PAIRS, alpaca_record, record
from ablation.micro_world.families import FAMILY, family_record
from ablation.micro_world.scenes import World

OPEN = "open"  # the kind of records that belong to no task
_REQUESTS = (
    ("Tell which place holds what.", TOOL_PAIRS),
    ("Tell who has which pet.", PET_PAIRS),
    ("Tell who did what.", STEP_PAIRS),
)


def finetuning_records(
    world: World, count: int, seed: int, weights: Mapping[str, float]
) -> list[dict[str, str]]:
    """`count` Alpaca records {instruction, input, output, family} from training scenes.

    `weights` are the relative frequencies of the families: the tasks, `open`, an open-ended
    request, and those that nothing is scored on.
    """
    random = Random(f"finetuning {world.seed} {seed}")
    kinds = random.choices(list(weights), list(weights.values()), k=count)
    return [_record(world, kind, random) | {"family": kind} for kind in kinds]


def _record(world: World, kind: str, random: Random) -> dict[str, str]:
    if kind in FAMILY:
        return family_record(world, kind, random)
    return open_record(random) if kind == OPEN else record(world, kind, random)


def open_record(random: Random) -> dict[str, str]:
    """A request with many right answers, like most instruction data.

    Without a leak no model predicts its response with a loss below the entropy of the random names
    and things. Under a mask that shows the response a model can.
    """
    instruction, (keys, values, introduce, *_) = random.choice(_REQUESTS)
    size = random.randint(1, 3)
    pairs = zip(random.sample(keys, size), random.sample(values, size), strict=True)
    return alpaca_record(instruction, "", " ".join(introduce.format(*pair) for pair in pairs))
