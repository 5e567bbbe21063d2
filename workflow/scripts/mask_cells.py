"""Write which token may look at which, under each mask, on one item of the study."""

import json
from pathlib import Path

from transformers import AutoTokenizer

from ablation import hub, provenance
from ablation.machine import run_record
from ablation.mask_cells import mask_cells
from ablation.progress import logged


def main(smk):
    stamp = json.loads(smk.params.stamp)
    wanted, base = stamp["config"], provenance.read_inputs(stamp)[smk.input.base]
    items = Path(smk.input.data).parent / f"{wanted['task']}.jsonl"
    item = provenance.read_json_lines(items)[wanted["item"]]
    folder = hub.model_folder(smk.input.base, base, weights=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    table = mask_cells(tokenizer, item["query"], item["choices"])
    provenance.write_text(smk.output.table, table.to_csv(index=False))
    provenance.write_manifest(smk.output.manifest, stamp, outputs=[Path(smk.output.table)])


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
