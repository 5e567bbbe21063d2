"""Draw one figure of the first or of the second study from its tables."""

from pathlib import Path

from ablation.bridge.report import figures as bridge_figures
from ablation.provenance.files import write_bytes
from ablation.provenance.job import Job, run
from ablation.report import charts, figures
from ablation.vocabulary.stages import STAGES

MODULES = {"figures": figures, "bridge": bridge_figures}  # by group of stages


def main(job: Job) -> None:
    module = MODULES[STAGES[job.fingerprint["stage"]].group]
    draw = getattr(module, job.config["figure"])
    chart = draw(*map(charts.read, job.input.tables), **job.config["options"])
    drawn = charts.render_all(chart, [Path(path).suffix for path in job.output.figures])
    for path in job.output.figures:
        write_bytes(path, drawn[Path(path).suffix])
    job.write_manifest(job.output.figures)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
