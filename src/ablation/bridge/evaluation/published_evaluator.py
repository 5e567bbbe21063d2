"""The published evaluation of recipe 1b, kept to show that it leaks. No result of ours uses it.

It reused the training collator: the target was given soft tokens, the prompt and the gold solution.
The text that it generated after them was scored, by the first `#### number` or else by the last
integer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from ablation.bridge.data.prompts import Question, answer_text, prompt_text
from ablation.bridge.evaluation.generate import Generated, generate
from ablation.bridge.model.batches import SOFT, Row
from ablation.bridge.model.pair import FrozenModel
from ablation.config.bridge_blocks import Recipe


def last_number(text: str) -> str | None:
    """The number after the first `####`, or else the last integer, as the published code read it.

    Numbers that the micro-world writes digit by digit (`7 5 9`) count as one integer.
    """
    text = re.sub(r"(?<=\d) (?=\d)", "", text)
    marked = re.search(r"####\s*(-?\d+)", text)
    if marked:
        return marked[1]
    numbers = re.findall(r"-?\d+", text)
    return numbers[-1] if numbers else None


def leaky_answers(
    target: FrozenModel, records: Sequence[Mapping], soft: Tensor, recipe: Recipe
) -> Generated:
    """The target's texts after soft tokens [questions, K, width], prompt and gold solution.

    EOS is not allowed as the first token. The published models had not learned EOS, and their
    evaluator scored the text after the gold solution; our models would end there.
    """
    k, encoder, rows = soft.shape[1], target.encoder, []
    for record in records:
        gold = answer_text(record["answer"], record.get("solution", ""))
        inner = encoder.encode(prompt_text(Question.of(record).whole) + gold)
        rows.append(Row([*encoder.bos, *k * [SOFT], *inner], (0, 0)))
    return generate(
        target,
        rows,
        soft,
        max_new_tokens=recipe.max_new_tokens,
        batch_size=recipe.eval_batch,
        ban_eos=1,
    )


def leaky_correct(text: str, answer: str) -> bool:
    """Whether the number in `text` is the number in the gold solution, as it compared them."""
    gold = last_number(answer_text(answer))
    return gold is not None and last_number(text) == gold
