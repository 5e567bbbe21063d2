"""`ablation studies`: all studies in results/, in a table and as a page."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ablation.cli.options import FILE_TO_WRITE, Command, format_option, report_errors
from ablation.cli.studies import CONFIG, RESULTS, studies_in
from ablation.provenance.next_actions import configured_studies

PAGE = RESULTS / "studies.html"


@click.command(
    cls=Command,
    short_help="List all studies in results/, and write them as a page.",
    examples=(
        "ablation studies",
        "ablation studies --format markdown",
        "ablation studies --page shown/studies.html",
    ),
)
@click.option(
    "--page", type=FILE_TO_WRITE, default=PAGE, help=f"The page to write (default: {PAGE})."
)
@format_option
def studies(page: Path, form: str) -> int:
    """List the base, recipes, seeds, state, finding, leaks, date, hours and size of each study in
    results/, as its records have them. The page also has every recipe and mask; its rows can be
    sorted and filtered.
    """
    from ablation.lineage.studies import overview, read_study, state_of
    from ablation.lineage.studies import page as page_of
    from ablation.provenance.files import write_text
    from ablation.report.text_tables import print_as

    with report_errors(ValueError, OSError):
        names = studies_in(RESULTS)
        if not names:
            raise ValueError(f"{RESULTS}/ holds no results of a study; `make demo` makes one")
        found = [read_study(RESULTS / name) for name in names]
        states = {study.name: state_of(study, _expected(study.name)) for study in found}
        page.parent.mkdir(parents=True, exist_ok=True)
        write_text(page, page_of(found, states))
        print_as(form, overview(found, states))
    print(f"{page} has every recipe and mask", file=sys.stderr if form != "text" else None)
    return 0


def _expected(study: str) -> list[dict[str, str]]:
    """{manifest: fingerprint hash} of the table's inputs, for each configuration file."""
    from ablation.config.load import load_study
    from ablation.config.merging import ConfigError, read_config_file, shipped_config
    from ablation.workflow.generation_fingerprints import GenerationFingerprints
    from ablation.workflow.paths import Paths

    found, root = [], shipped_config().parent
    for file, name in configured_studies(CONFIG).items():
        if name != study:
            continue
        try:
            loaded = load_study(read_config_file(file).values, shipped_config(), [file], False)
            paths = Paths(loaded, root)
            prints = GenerationFingerprints(loaded, paths, root)
            wanted = prints.measured | {paths.manifest_of("recovery"): prints.of("recovery")}
        except (ConfigError, KeyError, OSError, ValueError):
            continue  # its model or data are not here
        found.append({path: str(made["hash"]) for path, made in wanted.items()})
    return found
