"""All sample rows of a study in one parquet file a kind, for readers who do not have `ablation`.

Each row is one choice of one item under one condition; of a generation task, one item and filter.
No row has the text of an item, or one that a model has generated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ablation.data.generation.rows import ROWS as GENERATIONS
from ablation.provenance.atomic import atomic_path
from ablation.provenance.manifests import load_manifest
from ablation.publication.checkpoint import NotPublishable

SAMPLES = "samples.parquet"
# The conditions in a group share the hashes of their items, if these fit into one dictionary.
ROWS_A_GROUP, LARGEST_DICTIONARY = 500_000, 64 << 20


class Column(NamedTuple):
    """A column of the file: its type and its meaning."""

    kind: pa.DataType
    meaning: str


FACTS = {
    "stage": Column(pa.string(), "The stage of the study that scored the row."),
    "recipe": Column(pa.string(), "The recipe of the finetuning; empty for the base."),
    "seed": Column(pa.int64(), "The seed of the finetuning; empty for the base."),
    "condition": Column(pa.string(), "The mask or intervention under which the row was scored."),
    "train_leaks": Column(pa.bool_(), "Whether the training showed the model its own targets."),
    "eval_leaks": Column(
        pa.bool_(),
        "Whether the scoring showed the model its own targets; such a row is no result.",
    ),
}
ITEM = {
    "task": Column(pa.string(), "The task of the item."),
    "doc_id": Column(pa.int64(), "The number of the item in its task."),
    "doc_hash": Column(pa.string(), "The hash of the item, as lm-eval logs it."),
    "prompt_hash": Column(pa.string(), "The hash of its prompt, as lm-eval logs it."),
    "target_hash": Column(pa.string(), "The hash of its target, as lm-eval logs it."),
}
DRAW = {
    "cluster": Column(pa.string(), "Items of one cluster are no independent draws."),
    "truncated": Column(pa.bool_(), "Whether the prompt was shortened from the left."),
}
COLUMNS = {
    **FACTS,
    **ITEM,
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
    **DRAW,
}
GENERATION_COLUMNS = {
    **FACTS,
    **ITEM,
    "filter": Column(pa.string(), "The filter of the task that took the answer out of the text."),
    "exact_match": Column(pa.bool_(), "Whether the answer is one of the right ones."),
    "references": Column(pa.string(), "SHA-256 of each right answer, as the metric compares it."),
    "text_sha256": Column(pa.string(), "SHA-256 of the generated text."),
    "tokens": Column(pa.int64(), "The number of generated tokens."),
    "ended": Column(pa.bool_(), "Whether a stop string or EOS ended the text, and no limit."),
    **DRAW,
}
# {file of rows: its columns}
ROW_FILES = {SAMPLES: COLUMNS, GENERATIONS: GENERATION_COLUMNS}


def write_row_files(home: Path, folder: Path) -> list[str]:
    """Write those of ROW_FILES of which the study in `home` has rows; returns their names.

    Equal rows give equal bytes with one version of pyarrow. Raises NotPublishable without a row.
    """
    written = [name for name in ROW_FILES if _write(home, name, folder / name)]
    if not written:
        raise NotPublishable(f"{home} has no sample rows: nothing was scored in this study")
    return written


def _write(home: Path, name: str, target: Path) -> int:
    """Write one of ROW_FILES, if there are rows; returns their number."""
    count, columns = 0, ROW_FILES[name]
    schema = pa.schema([(column, found.kind) for column, found in columns.items()])
    settings = {"compression": "zstd", "dictionary_pagesize_limit": LARGEST_DICTIONARY}
    with (
        atomic_path(target) as scratch,
        pq.ParquetWriter(scratch, schema, **settings) as writer,
    ):
        for group in _groups(home, name):
            writer.write_table(group, row_group_size=group.num_rows)
            count += group.num_rows
    if not count:
        target.unlink()
    return count


def _groups(home: Path, name: str) -> Iterator[pa.Table]:
    """The rows in tables of about ROWS_A_GROUP, in the order of their manifests."""
    group: list[pa.Table] = []
    for path in sorted(home.rglob("manifest.json")):
        manifest = load_manifest(path)
        if name in manifest["outputs"] and "mask" in manifest:  # rows of a bridge have no mask
            rows = pq.read_table(path.parent / name)
            group.append(_with_facts(rows, manifest, ROW_FILES[name]))
        if sum(table.num_rows for table in group) >= ROWS_A_GROUP:
            yield pa.concat_tables(group)
            group = []
    if group:
        yield pa.concat_tables(group)


def _with_facts(
    rows: pa.Table, manifest: Mapping[str, Any], of_file: Mapping[str, Column]
) -> pa.Table:
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
        for name, column in of_file.items()
    ]
    return pa.table(columns, names=list(of_file))
