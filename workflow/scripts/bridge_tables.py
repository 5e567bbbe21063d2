"""Write every table of the second study that is computed from sample rows."""

from pathlib import Path

from ablation.bridge.analysis.all_tables import COSTS, study_tables
from ablation.config.bridge_blocks import Claims, Freeze, Recipe
from ablation.provenance.job import Job, run

READ = (COSTS, "samples.parquet", "summary.json", "curve.jsonl")


def main(job: Job) -> None:
    config = job.config
    tables = study_tables(
        {Path(path).parent: manifest for path, manifest in job.inputs.items()},
        config["study"],
        config["confidence"],
        Claims.model_validate(config["claims"]),
        {name: Recipe.model_validate(recipe) for name, recipe in config["recipes"].items()},
        config["seeds"],
        config["freeze"] and Freeze.model_validate(config["freeze"]),
        config["rehearsal"],
    )
    for path in job.output.tables:
        job.write_table(path, tables[Path(path).stem])
    job.write_manifest(job.output.tables)


if __name__ == "__main__":
    run(main, snakemake, only=READ)  # noqa: F821
