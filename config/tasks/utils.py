"""Reads the items of the micro tasks from the study's data folder, without hub or shared cache."""

from pathlib import Path

from datasets import Dataset

from ablation.data.json_lines import read_json_lines


def local_items(task: str, data_folder: str | None = None, **unused: object) -> dict[str, Dataset]:
    """{"eval": items of `task`} from `<data_folder>/<task>.jsonl`, in memory.

    lm_eval calls this function with a task's metadata and dataset_kwargs; `data_folder` comes from
    `TaskManager(metadata={"data_folder": ...})`. Raises ValueError without it.
    """
    if data_folder is None:
        raise ValueError(
            f"{task}: no data folder was given, but its items belong to a study. Give TaskManager "
            'metadata={"data_folder": "results/<study>/base/items"}.'
        )
    return {"eval": Dataset.from_list(read_json_lines(Path(data_folder) / f"{task}.jsonl"))}
