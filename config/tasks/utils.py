"""Reads the micro tasks' items from the study's data folder: no hub, no shared cache."""

from pathlib import Path

from datasets import Dataset

from ablation.provenance import read_json_lines


def local_items(task: str, data_folder: str | None = None, **unused) -> dict[str, Dataset]:
    """{"eval": items of `task`} from `<data_folder>/<task>.jsonl`, in memory.

    lm_eval calls this with a task's metadata and dataset_kwargs; `data_folder` comes from
    `TaskManager(metadata={"data_folder": ...})`.
    """
    if data_folder is None:
        raise ValueError(
            f"{task}: no data folder. Its items belong to a study; give TaskManager "
            'metadata={"data_folder": "results/<study>/base/items"}.'
        )
    return {"eval": Dataset.from_list(read_json_lines(Path(data_folder) / f"{task}.jsonl"))}
