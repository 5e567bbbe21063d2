"""The published evaluation of recipe 1b, kept to show what it measures. Never used for a result.

It reused the training collator: the target was fed soft tokens, the prompt and the GOLD SOLUTION,
and what it said after that was scored, by the first `#### number` or else by the last integer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import PreTrainedModel

from ablation.bridge import prompts
from ablation.bridge.batches import SOFT, Row, Words
from ablation.bridge.generate import Generated, generate


def last_number(text: str) -> str | None:
    """`#### 18` anywhere, or else the last integer of the text, as the published code had it.

    Numbers that the micro-world writes digit by digit (`7 5 9`) are one integer.
    """
    text = re.sub(r"(?<=\d) (?=\d)", "", text)
    marked = re.search(r"####\s*(-?\d+)", text)
    if marked:
        return marked[1]
    numbers = re.findall(r"-?\d+", text)
    return numbers[-1] if numbers else None


def leaky_answers(
    target: PreTrainedModel,
    words: Words,
    records: Sequence[Mapping],
    soft: Tensor,
    options: Mapping,
) -> Generated:
    """What the target says after soft tokens, the prompt and the gold solution.

    EOS may not come at once, where ours would end: the published models had never learned to end
    an answer, and it was what followed one that was scored.
    """
    k, rows = soft.shape[1], []
    for record in records:
        gold = prompts.worked(record["answer"], record.get("solution", ""))
        inner = words.encode(prompts.prompt(record["question"]) + gold)
        rows.append(Row([*words.bos, *k * [SOFT], *inner], (0, 0)))
    return generate(
        target,
        words,
        rows,
        soft,
        max_new_tokens=options["max_new_tokens"],
        batch_size=options["eval_batch"],
        ban_eos=1,
    )


def leaky_correct(text: str, answer: str) -> bool:
    """Its verdict: its reading of the text against its reading of the gold solution."""
    gold = last_number(prompts.worked(answer))
    return gold is not None and last_number(text) == gold
