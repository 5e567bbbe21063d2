"""What the base model is finetuned on: Alpaca records from training scenes, and open requests."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from ablation.world.corpus import PET_PAIRS, STEP_PAIRS, TOOL_PAIRS, alpaca_record, record
from ablation.world.scenes import World

OPEN = "open"  # the kind of record that is no task's
_REQUESTS = (
    ("Tell which place holds what.", TOOL_PAIRS),
    ("Tell who has which pet.", PET_PAIRS),
    ("Tell who did what.", STEP_PAIRS),
)


def finetuning_records(
    world: World, count: int, seed: int, weights: Mapping[str, float]
) -> list[dict[str, str]]:
    """`count` Alpaca records {instruction, input, output} from training scenes.

    `weights` say how often each task's kind of scene comes, and `open`: an open-ended request.
    """
    random = Random(f"finetuning {world.seed} {seed}")
    kinds = random.choices(list(weights), list(weights.values()), k=count)
    return [open_record(random) if k == OPEN else record(world, k, random) for k in kinds]


def open_record(random: Random) -> dict[str, str]:
    """A request with many right answers, as most instruction data are.

    No honest mask can predict its response below the entropy of names and things; a mask that
    shows the response can.
    """
    instruction, (keys, values, tell, *_) = random.choice(_REQUESTS)
    size = random.randint(1, 3)
    pairs = zip(random.sample(keys, size), random.sample(values, size), strict=True)
    return alpaca_record(instruction, "", " ".join(tell.format(*pair) for pair in pairs))
