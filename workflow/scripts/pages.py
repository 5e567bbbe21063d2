"""Write the report pages of the first or of the second study, each from its tables."""

from ablation.bridge.report import pages as bridge_pages
from ablation.provenance.files import write_text
from ablation.provenance.job import Job, run
from ablation.provenance.tables import unchecked_in
from ablation.report import charts, pages
from ablation.report.html_tables import with_marks
from ablation.vocabulary.stages import STAGES

MODULES = {"report": pages, "bridge": bridge_pages}  # by group of stages


def main(job: Job) -> None:
    module, outputs = MODULES[STAGES[job.fingerprint["stage"]].group], []
    for page, tables in job.config["pages"].items():
        draw = getattr(module, page)
        outputs.append(job.home / f"{page}.html")
        read = [charts.read(job.home.parent / f"{table}.csv") for table in tables]
        write_text(outputs[-1], with_marks(draw(*read), unchecked_in(*read)))
    job.write_manifest(outputs)


if __name__ == "__main__":
    run(main, snakemake)  # noqa: F821
