"""The texts of scored items, built again by lm_eval from the study's data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pandas as pd
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ablation.data import hub
from ablation.data.lm_eval_samples import ItemText
from ablation.scoring.items import Items

Texts = dict[str, dict[int, ItemText]]  # task -> doc_id -> texts
HASHES = ["doc_hash", "prompt_hash", "target_hash"]


def item_texts(
    evaluation: Mapping[str, Any],
    data: Path | None,
    checkpoint: Path,
    manifest: Mapping[str, Any],
    task_folder: Path,
) -> tuple[Texts, pd.DataFrame]:
    """The texts of all items, and their hashes, indexed by task and doc_id.

    evaluation: the settings in the fingerprint of a scoring job. data: the folder of the items.
    checkpoint, manifest: the manifest of a scored model, whose tokenizer chat templates need.

    Raises HubError, OSError and ValueError if the data or the tokenizer are not here.
    """
    options = {k: v for k, v in evaluation.items() if k not in ("row_tokens", "batch_tokens")}
    tokenizer = None
    if options.get("chat_template"):
        folder = hub.model_folder(checkpoint, manifest, weights=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    items = Items(
        cast(PreTrainedTokenizerBase, tokenizer),  # without a chat template it is not used
        task_folder=task_folder,
        data_folder=data,
        **options,
    )
    texts: Texts = {}
    for part in items.by_protocol:
        choices = part.rows.groupby(["task", "doc_id"]).size()
        for name, task in part._loaded["tasks"].items():
            texts[name] = {
                first.doc_id: ItemText(
                    first.doc,
                    str(task.doc_to_target(first.doc)),
                    # later requests of an item are of other metrics than its sample rows have
                    [made.args for made in (first, *rest)][: choices[name, first.doc_id]],
                )
                for first, *rest in task.items
            }
    rows = pd.concat([part.rows for part in items.by_protocol])
    return texts, rows.drop_duplicates(["task", "doc_id"]).set_index(["task", "doc_id"])[HASHES]
