"""Read every scored condition and write the tables of what was lost and what came back."""

import json
from pathlib import Path

from ablation import provenance
from ablation.conditions import per_task_table, read_conditions
from ablation.machine import run_record
from ablation.progress import logged
from ablation.recovery import CONTRAST_COLUMNS, study_tables, table


def main(smk):
    stamp = json.loads(smk.params.stamp)
    config = stamp["config"]
    conditions = read_conditions(provenance.read_inputs(stamp))
    metric, confidence = config["metric"], config["statistics"]["confidence"]
    recovery, contrasts = study_tables(conditions, config)
    tables = {
        smk.output.recovery: table(recovery),
        smk.output.per_task: per_task_table(config["study"], conditions, metric, confidence),
        smk.output.contrasts: table(contrasts, CONTRAST_COLUMNS),
    }
    for path, frame in tables.items():
        provenance.write_text(path, frame.to_csv(index=False))
    provenance.write_manifest(smk.output.manifest, stamp, outputs=map(Path, tables))


if __name__ == "__main__":
    with logged(snakemake.log[0]), run_record(snakemake.output.run):  # noqa: F821
        main(snakemake)  # noqa: F821
