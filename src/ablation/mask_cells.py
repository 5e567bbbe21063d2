"""The three masks on one real item, cell by cell: which token looks at which, and why it may."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from ablation.masks import rule
from ablation.names import MASKS
from ablation.packing import Example, pack

COLUMNS = ["mask", "query", "key", *("query_token", "key_token", "query_part", "key_part"), "why"]


def mask_cells(
    tokenizer: PreTrainedTokenizerBase, prompt: str, choices: Sequence[str]
) -> pd.DataFrame:
    """The cells that each mask allows, with `COLUMNS`, in the row in which the item is scored.

    `query` and `key` are positions in that row, parts `prompt` or `choice 1`.. Under `full_bidir`
    a prompt cannot be shared: the row is that of the first choice, with its last token, which the
    others leave out because nothing is predicted from it. `why` is

    - `past`: the token itself, or one before it;
    - `later prompt`: a prompt token further on;
    - `undecoded`: a token of the answer that inference would not have yet;
    - `own target`: the token that the query is to predict: the leak.
    """
    ids = tokenizer(prompt)["input_ids"]  # prompt and choice are cut apart as lm_eval does it
    continuations = [tokenizer(f"{prompt} {c}")["input_ids"][len(ids) :] for c in choices]
    rows = []
    for mask in MASKS:
        leaky = mask == "full_bidir"
        example = Example(ids, continuations[:1] if leaky else continuations)
        row = pack([example], capacity=2**20, keep_last=leaky)
        tokens = [tokenizer.decode([i]) for i in row.input_ids[0].tolist()]
        branch = row.branch[0].tolist()
        parts = [f"choice {b}" if b else "prompt" for b in branch]
        position = torch.arange(len(tokens))
        allowed = rule(mask, row.doc, row.branch, row.position_ids)(
            torch.tensor(0), torch.tensor(0), position[:, None], position[None, :]
        )
        for query, key in allowed.nonzero().tolist():
            if key <= query:
                why = "past"
            elif branch[key] == 0:
                why = "later prompt"
            else:  # only where the row holds one continuation: the next token is the target
                why = "own target" if key == query + 1 else "undecoded"
            pair = (query, key)
            rows.append((mask, *pair, *(tokens[i] for i in pair), *(parts[i] for i in pair), why))
    return pd.DataFrame(rows, columns=COLUMNS)
