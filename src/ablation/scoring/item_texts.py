"""The texts of scored items, built again by lm_eval from the study's data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pandas as pd
from lm_eval import utils
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ablation.data import hub
from ablation.data.lm_eval_samples import ItemText
from ablation.scoring.generation.items import GenerationItems
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
    items = Items(
        _tokenizer(options, checkpoint, manifest),
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


def generation_texts(
    evaluation: Mapping[str, Any],
    data: Path | None,
    world: Path | None,
    checkpoint: Path,
    manifest: Mapping[str, Any],
    task_folder: Path,
) -> tuple[Texts, pd.DataFrame]:
    """`item_texts` of generation tasks; world: the folder of the micro-world's items."""
    items = GenerationItems(
        _tokenizer(evaluation, checkpoint, manifest),
        task_folder=task_folder,
        data_folder=data,
        world_folder=world,
        **evaluation,
    )
    texts: Texts = {}
    rows = []
    for name, task in items._loaded["tasks"].items():
        for made in task.items:
            first = made[0]
            target = str(task.doc_to_target(first.doc))
            arguments = [request.args for request in made]
            texts.setdefault(name, {})[first.doc_id] = ItemText(first.doc, target, arguments)
            rows.append((name, first.doc_id, *item_hashes(first.doc, first.args[0], target)))
    frame = pd.DataFrame(rows, columns=["task", "doc_id", *HASHES])
    return texts, frame.set_index(["task", "doc_id"])


def item_hashes(doc: Mapping[str, Any], prompt: str, target: str) -> tuple[str, ...]:
    """The hashes of document, prompt and target, as lm-eval logs them."""
    logged = json.dumps(doc, indent=2, default=utils.handle_non_serializable, ensure_ascii=False)
    return tuple(utils.hash_string(text) for text in (logged, prompt, target))


def _tokenizer(
    options: Mapping[str, Any], checkpoint: Path, manifest: Mapping[str, Any]
) -> PreTrainedTokenizerBase:
    """The tokenizer, if a chat template is used; otherwise items do not depend on it."""
    tokenizer = None
    if options.get("chat_template"):
        folder = hub.model_folder(checkpoint, manifest, weights=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return cast(PreTrainedTokenizerBase, tokenizer)
