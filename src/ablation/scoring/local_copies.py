"""Lets lm_eval read the data sets of its tasks from a folder, as stage 0 has brought them there.

lm_eval would read them with `datasets.load_dataset`: from the hub, at whichever commit is there or
in its cache. It would also read the split with examples for prompts that hold none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask

from ablation.data.benchmarks import read_documents
from ablation.data.local_files import split_of
from ablation.data.shots import Shots, shots_of


class LocalSplits(dict[str, datasets.Dataset]):
    """{split: its documents} of a data set in a folder; each is read when it is asked for."""

    def __init__(self, folder: Path, data: str, configuration: str) -> None:
        super().__init__()
        self._place = (folder, data, configuration)

    def __missing__(self, split: str) -> datasets.Dataset:
        """Read a split. Raises FileNotFoundError, with the place, if it is not there."""
        files = split_of(*self._place, split)
        if not files:
            expected = Path(*self._place).as_posix()
            raise FileNotFoundError(
                f"no {split} split found: {expected}/{split}-....parquet was expected"
            )
        documents = [document for file in files.values() for document in read_documents(file)]
        self[split] = datasets.Dataset.from_list(documents)
        return self[split]


@contextmanager
def local_copies(folder: str | Path | None, shots: Shots = None) -> Iterator[None]:
    """Tasks that are loaded meanwhile read the data sets that `folder` has from there.

    shots: the number of examples in each prompt, see `shots_of`. Examples are read only for tasks
        that have them.
    """
    stock_load, stock_examples = datasets.load_dataset, ConfigurableTask.fewshot_docs

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        if folder is None or not (Path(folder) / path).is_dir():
            return stock_load(path=path, name=name, **options)
        return LocalSplits(Path(folder), path, name or "")

    def fewshot_docs(task: ConfigurableTask) -> Any:
        number = shots_of(task.config.task, task.config.num_fewshot, shots)
        return stock_examples(task) if number else None

    datasets.load_dataset, ConfigurableTask.fewshot_docs = load_dataset, fewshot_docs
    try:
        yield
    finally:
        datasets.load_dataset, ConfigurableTask.fewshot_docs = stock_load, stock_examples
