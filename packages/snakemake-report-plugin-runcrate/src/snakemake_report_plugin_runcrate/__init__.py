"""`snakemake --reporter runcrate`: finished results become a Provenance Run Crate, in place.

Snakemake imports every report plugin at each start, so everything else is imported in `render`.
"""

from dataclasses import dataclass, field

from snakemake_interface_report_plugins.reporter import ReporterBase
from snakemake_interface_report_plugins.settings import ReportSettingsBase


@dataclass
class ReportSettings(ReportSettingsBase):
    folder: str = field(
        default="",
        metadata={
            "help": "The crate: the folder in which ro-crate-metadata.json is written. By default "
            "the deepest folder that holds every output of every job."
        },
    )
    agent: str = field(
        default="",
        metadata={"help": "Who ran the workflow: NAME, or 'NAME <https://orcid.org/...>'."},
    )
    ledger: str = field(
        default="",
        metadata={
            "help": "A file with attempts and their cost, for the hook of an installed package "
            "(by default, the hook's own choice). Without a hook, this has no effect."
        },
    )


class Reporter(ReporterBase):
    def render(self) -> None:
        """Write the crate of the targets' results.

        Raises WorkflowError, and writes nothing, if a result is missing or is not current.
        """
        from snakemake_interface_common.exceptions import WorkflowError

        from .hooks import StaleResult
        from .recorded import read_workflow
        from .write import write_crate

        settings = self.settings or ReportSettings()
        try:
            write_crate(
                read_workflow(self.dag, self.jobs, settings.ledger),
                folder=settings.folder or None,
                agent=settings.agent or None,
            )
        except StaleResult as error:
            raise WorkflowError(f"no crate is written: {error}") from None
