"""The Alpaca form of an instruction example: `{instruction, input, output}` as prompt and response.

Serves the micro-world's own data and real sets with the same fields (yahma/alpaca-cleaned). No
torch here: data rules import it.
"""

from __future__ import annotations

from collections.abc import Mapping


def alpaca_prompt(example: Mapping[str, str]) -> str:
    """The text in front of the response; ends in `### Response:`, without white space.

    The response follows after one space. Byte-level BPE splits the text before that space, so that
    prompt and response tokenized apart give the same ids as the whole text tokenized at once. An
    absent or empty `input` leaves its block out.
    """
    given = f"### Input:\n{example['input']}\n\n" if example.get("input") else ""
    return f"### Instruction:\n{example['instruction']}\n\n{given}### Response:"


def alpaca_text(example: Mapping[str, str]) -> str:
    """Prompt and response as one text."""
    return f"{alpaca_prompt(example)} {example['output']}"
