"""Write which token may attend to which under each mask, on one item of the study."""

from pathlib import Path

from ablation.data import hub
from ablation.data.json_lines import read_json_lines
from ablation.model.checkpoints import read_tokenizer
from ablation.model.mask_cells import mask_cells
from ablation.provenance.job import Job, run


def main(job: Job) -> None:
    items = Path(job.input.data).parent / f"{job.config['task']}.jsonl"
    item = read_json_lines(items)[job.config["item"]]
    folder = hub.model_folder(job.input.base, job.inputs[job.input.base], weights=False)
    tokenizer = read_tokenizer(folder)
    table = mask_cells(tokenizer, item["query"], item["choices"])
    job.write_table(job.output.table, table)
    job.write_manifest([job.output.table])


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
