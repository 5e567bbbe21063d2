"""Rows of generation tasks: one row per item and filter, and the texts beside them.

A filter is what a task file names in `filter_list`: it takes an answer out of a text. The rows have
the judgements, from which tables are computed. The texts are in a file of their own, as a model
may quote the benchmark in them, and an archive for publication holds no text of a benchmark.
"""

from __future__ import annotations

ROWS, TEXTS = "generations.parquet", "texts.parquet"  # the names of the two files

# {column: its type}. The three hashes are those that lm_eval logs.
ROW_COLUMNS = {
    "task": "string",
    "doc_id": "int64",
    "doc_hash": "string",
    "prompt_hash": "string",
    "target_hash": "string",
    "filter": "string",  # its name in the task file; `none` if there is none
    "exact_match": "bool",  # whether the answer is one of the references
    "references": "string",  # SHA-256 of each right answer, as `exact_match.reference` makes it
    "text_sha256": "string",  # of the text, in the file of texts
    "tokens": "int64",  # the number of generated tokens, the one that ended the text included
    "ended": "bool",  # by a stop string or EOS, and not by the largest number of tokens
    "cluster": "string",  # items of one cluster are no independent draws; by default, the doc_hash
    "truncated": "bool",  # whether the prompt was shortened from the left
    "mask": "string",
    "checkpoint": "string",  # the folder of the model's manifest
}
TEXT_COLUMNS = {
    "task": "string",
    "doc_id": "int64",
    "filter": "string",
    "mask": "string",
    "text": "string",  # cut at the first stop string, without special tokens
    "answer": "string",  # what the filter takes out of the text
}
