"""How a finetuning record becomes an example, and how examples are held out.

`corrected` is this project's form. `published` is that of the published code, for the arms that
repeat its training exactly. `ablation.training.examples` reads both; they differ in this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Format:
    """A form of examples.

    bos: whether a prompt starts with the tokenizer's BOS, if it has one.
    prompt_end: what follows `### Response:` in the prompt.
    response_start: what stands before the output in the response.
    stripped: whether the fields of a record lose the white space at both of their ends. A record
        whose instruction or output is then empty gives no example.
    split: how the seed holds records out: `shuffled`, or as the library `datasets` does it.
    """

    bos: bool
    prompt_end: str
    response_start: str
    stripped: bool
    split: Literal["shuffled", "datasets"]


FORMATS = {
    # Byte-level BPE splits a text before a space, so that the token ids of prompt and response
    # together are those of the whole text.
    "corrected": Format(
        bos=True, prompt_end="", response_start=" ", stripped=False, split="shuffled"
    ),
    "published": Format(
        bos=False, prompt_end="\n", response_start="", stripped=True, split="datasets"
    ),
}
