"""All sample rows of a study in one parquet file, for readers who do not have `ablation`.

Each row is one choice of one item under one condition. Texts of items are in no sample row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ablation.provenance.atomic import atomic_path
from ablation.provenance.manifests import load_manifest
from ablation.publication.checkpoint import NotPublishable

SAMPLES = "samples.parquet"
# The conditions in a group share the hashes of their items, if these fit into one dictionary.
ROWS_A_GROUP, LARGEST_DICTIONARY = 500_000, 64 << 20
FACTS = ("stage", "recipe", "seed", "condition", "train_leaks", "eval_leaks")


class Column(NamedTuple):
    """A column of the file: its type and its meaning."""

    kind: pa.DataType
    meaning: str


COLUMNS = {
    "stage": Column(pa.string(), "The stage of the study that scored the row."),
    "recipe": Column(pa.string(), "The recipe of the finetuning; empty for the base."),
    "seed": Column(pa.int64(), "The seed of the finetuning; empty for the base."),
    "condition": Column(pa.string(), "The mask or intervention under which the row was scored."),
    "train_leaks": Column(pa.bool_(), "Whether the training showed the model its own targets."),
    "eval_leaks": Column(
        pa.bool_(),
        "Whether the scoring showed the model its own targets; such a row is no result.",
    ),
    "task": Column(pa.string(), "The task of the item."),
    "doc_id": Column(pa.int64(), "The number of the item in its task."),
    "doc_hash": Column(pa.string(), "The hash of the item, as lm-eval logs it."),
    "prompt_hash": Column(pa.string(), "The hash of its prompt, as lm-eval logs it."),
    "target_hash": Column(pa.string(), "The hash of its target, as lm-eval logs it."),
    "choice": Column(pa.int64(), "The index of the choice in the task's order."),
    "gold": Column(pa.int64(), "The index of the right choice."),
    "loglikelihood": Column(pa.float64(), "The log-likelihood of the choice in nats."),
    "loglikelihood_float32": Column(
        pa.float64(), "The same in nats, from logits that were not rounded."
    ),
    "is_greedy": Column(pa.bool_(), "Whether every token of the choice was the most likely one."),
    "tokens": Column(pa.int64(), "The number of scored tokens of the choice."),
    "characters": Column(pa.int64(), "The number of characters of the choice."),
    "bytes": Column(pa.int64(), "The number of bytes of the choice."),
    "cluster": Column(pa.string(), "Items of one cluster are no independent draws."),
    "truncated": Column(pa.bool_(), "Whether the prompt was shortened from the left."),
}
SCHEMA = pa.schema([(name, column.kind) for name, column in COLUMNS.items()])


def write_sample_table(home: Path, target: Path) -> int:
    """Write the sample rows of the study in `home`; returns their number.

    Equal rows give equal bytes with one version of pyarrow. Raises NotPublishable without rows.
    """
    count = 0
    settings = {"compression": "zstd", "dictionary_pagesize_limit": LARGEST_DICTIONARY}
    with atomic_path(target) as scratch:
        with pq.ParquetWriter(scratch, SCHEMA, **settings) as writer:
            for group in _groups(home):
                writer.write_table(group, row_group_size=group.num_rows)
                count += group.num_rows
        if not count:
            raise NotPublishable(f"{home} has no sample rows: nothing was scored in this study")
    return count


def _groups(home: Path) -> Iterator[pa.Table]:
    """The rows in tables of about ROWS_A_GROUP, in the order of their manifests."""
    group: list[pa.Table] = []
    for path in sorted(home.rglob("manifest.json")):
        manifest = load_manifest(path)
        if SAMPLES in manifest["outputs"] and "mask" in manifest:  # rows of a bridge have no mask
            group.append(_with_facts(pq.read_table(path.parent / SAMPLES), manifest))
        if sum(table.num_rows for table in group) >= ROWS_A_GROUP:
            yield pa.concat_tables(group)
            group = []
    if group:
        yield pa.concat_tables(group)


def _with_facts(rows: pa.Table, manifest: Mapping[str, Any]) -> pa.Table:
    facts = {name: manifest.get(name) for name in FACTS}
    facts |= {"stage": manifest["fingerprint"]["stage"], "condition": manifest["mask"]}
    # Without the result of an audit, rows are taken for leaking; the base was not trained here.
    facts["train_leaks"] = bool(manifest.get("train_leaks", "recipe" in manifest))
    facts["eval_leaks"] = bool(manifest.get("eval_leaks", True))
    columns = [
        pa.array([facts[name]] * rows.num_rows, column.kind)
        if name in facts
        else rows[name].cast(column.kind)
        if name in rows.column_names
        else pa.nulls(rows.num_rows, column.kind)
        for name, column in COLUMNS.items()
    ]
    return pa.table(columns, schema=SCHEMA)
