"""The table behind the figure of the masks: each pair of tokens of one item that a mask allows."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from ablation.model.masks import rule
from ablation.model.packing import Example, pack
from ablation.vocabulary.masks import MASK

COLUMNS = ["mask", "query", "key", *("query_token", "key_token", "query_part", "key_part"), "why"]


def mask_cells(
    tokenizer: PreTrainedTokenizerBase, prompt: str, choices: Sequence[str]
) -> pd.DataFrame:
    """One table row for each allowed pair of query and key under each mask, with `COLUMNS`.

    `query` and `key` are positions in the packed row in which the item is scored; their parts are
    `prompt`, `choice 1`, `choice 2`, ... A packed row leaves out the last token of each choice,
    because nothing is predicted from it. Under a mask that shows the response to the prompt,
    choices cannot share a prompt: the packed row then holds the first choice alone, with its last
    token. `why` is

    - `past`: the key is the query itself or a token before it;
    - `later prompt`: the key is a later prompt token;
    - `undecoded`: the key is a token of the answer that inference has not generated yet;
    - `own target`: the key is the token that the query predicts, which is the leak.
    """
    ids = tokenizer(prompt)["input_ids"]  # lm_eval splits the tokens of prompt and choice here
    continuations = [tokenizer(f"{prompt} {c}")["input_ids"][len(ids) :] for c in choices]
    rows = []
    for mask, properties in MASK.items():
        alone = properties.prompt_sees_response
        example = Example(ids, continuations[:1] if alone else continuations)
        row = pack([example], capacity=2**20, keep_last=alone)
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
            else:  # the row holds one continuation, so the next token is the target
                why = "own target" if key == query + 1 else "undecoded"
            pair = (query, key)
            rows.append((mask, *pair, *(tokens[i] for i in pair), *(parts[i] for i in pair), why))
    return pd.DataFrame(rows, columns=COLUMNS)
