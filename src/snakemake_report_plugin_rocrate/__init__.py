"""`snakemake --reporter rocrate`: results/ro-crate-metadata.json, a Provenance Run Crate.

Snakemake loads every report plugin at each start, so what is slow to import waits for `render`.
docs/crate.md tells what stands in the crate.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from snakemake_interface_report_plugins.reporter import ReporterBase
from snakemake_interface_report_plugins.settings import ReportSettingsBase


@dataclass
class ReportSettings(ReportSettingsBase):
    agent: str = field(
        default="",
        metadata={"help": "Who ran the study: NAME, or 'NAME <https://orcid.org/...>'."},
    )
    ledger: str = field(
        default="ledger/{study}.jsonl",
        metadata={"help": "The executor's ledger, where there is one; {study} is config['study']."},
    )


class Reporter(ReporterBase):
    def render(self) -> None:
        """Write the crate of the targets' results. Raises WorkflowError where they are stale."""
        from snakemake.exceptions import WorkflowError

        from ablation.config import load_study
        from ablation.provenance import StaleInput

        from .write import write_crate

        workflow = self.dag.workflow
        files = ("config", workflow.overwrite_configfiles)
        study = load_study(workflow.config, *files).model_dump(mode="json")
        ledger = Path(self.settings.ledger.format(study=study["study"]))
        try:
            write_crate(study, self._jobs(), self._targets(), ledger, self.settings.agent)
        except StaleInput as fault:
            raise WorkflowError(f"no crate is written: {fault}") from None

    def _jobs(self):
        """Every job that runs something, as plain data, in an order that does not vary."""
        from .runs import Job

        times = {record.job: (record.starttime, record.endtime) for record in self.jobs}
        for level in self.dag.toposorted():
            for job in sorted(level, key=lambda job: (job.rule.name, str(job.output))):
                if job.is_norun:
                    continue
                rule = job.rule
                yield Job(
                    rule=rule.name,
                    description=" ".join((rule.docstring or "").split()),
                    snakefile=os.path.relpath(str(rule.snakefile)),
                    script=_script(rule),
                    wildcards=dict(job.wildcards_dict),
                    inputs=tuple(sorted(map(str, job.input))),
                    outputs=tuple(map(str, job.output)),
                    stamp=job.params.get("stamp"),
                    times=times.get(job),
                )

    def _targets(self) -> list[str]:
        wanted = {str(path) for path in self.dag.targetfiles or ()}
        for job in self.dag.targetjobs:
            wanted |= {str(path) for path in (job.input if job.is_norun else job.output)}
        return sorted(wanted)


def _script(rule) -> str | None:
    """The rule's script, relative to the folder in which Snakemake runs."""
    if not rule.is_script:
        return None
    return os.path.relpath(rule.basedir.join(rule.script).get_path_or_uri(secret_free=True))
