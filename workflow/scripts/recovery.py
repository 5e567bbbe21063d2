"""Read every scored condition and write the tables of lost and recovered accuracy."""

from ablation.analysis.conditions import per_task_table, read_conditions
from ablation.analysis.recovery import CONTRAST_COLUMNS, study_tables, table
from ablation.analysis.recovery_columns import RecoverySettings
from ablation.provenance.job import Job, run


def main(job: Job) -> None:
    settings, conditions = RecoverySettings.model_validate(job.config), read_conditions(job.inputs)
    metric, confidence = settings.metric, settings.statistics.confidence
    recovery, contrasts = study_tables(conditions, settings)
    tables = {
        job.output.recovery: table(recovery),
        job.output.per_task: per_task_table(settings.study, conditions, metric, confidence),
        job.output.contrasts: table(contrasts, CONTRAST_COLUMNS),
    }
    for path, frame in tables.items():
        job.write_table(path, frame)
    job.write_manifest(list(tables))


if __name__ == "__main__":
    run(main, snakemake, history=True)  # noqa: F821
