"""Reads the items of the micro-world for generation tasks."""

from pathlib import Path

from datasets import Dataset

from ablation.data.json_lines import read_json_lines


def world_items(items: str, data_folder: str | None = None, **unused: object) -> dict[str, Dataset]:
    """{"eval": the items of a task of multiple choice} from `<data_folder>/<items>.jsonl`.

    lm_eval calls this function with a task's metadata and dataset_kwargs, as
    config/tasks/utils.py describes it. Raises ValueError without a folder.
    """
    if data_folder is None:
        raise ValueError(f"{items}: no data folder was given, but its items belong to a study")
    return {"eval": Dataset.from_list(read_json_lines(Path(data_folder) / f"{items}.jsonl"))}
