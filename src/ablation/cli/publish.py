"""`ablation publish`: sends a checkpoint with its model card to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import click

from ablation.cli.options import Command, report_errors
from ablation.cli.studies import CONFIG, find_study_folder, study_options
from ablation.console.printable import printable


@click.command(
    cls=Command,
    short_help="Publish a checkpoint on the hub, with a card that says what it is.",
    examples=(
        "ablation publish hf://owner/model --checkpoint 3B/seed31 --study micro",
        "ablation publish hf://owner/model --checkpoint 3B/seed1 --license apache-2.0 --yes",
    ),
    epilog="The token comes from the environment variable HF_TOKEN and from nowhere else. A new "
    "repository is private, because what was public cannot be taken back; make it public on the "
    "hub once you have read its card there, or here by --public.",
)
@click.argument("uri", help="The model repository, hf://OWNER/MODEL.")
@click.option(
    "--checkpoint",
    required=True,
    metavar="RECIPE/SEED",
    help="The trained model, such as 3B/seed1.",
)
@click.option(
    "--license",
    metavar="ID",
    help="The licence of the model, such as apache-2.0 (default: that of the base, if it is "
    "known).",
)
@click.option("--public", is_flag=True, help="Make a new repository public (default: private).")
@click.option("--yes", is_flag=True, help="Upload. Without it, nothing is sent.")
@study_options
def publish(
    uri: str,
    checkpoint: str,
    license: str | None,
    public: bool,
    yes: bool,
    configfile: Path | None,
    study: str | None,
) -> int:
    """Publish a checkpoint: weights, tokenizer, manifest, model card, and those evaluation results
    that do not leak. The whole study is verified first, and refused if a file has changed since it
    was made or sealed.

    Without --yes this is a dry run: it prints every file with its size, the model card and the
    evaluation results, and sends nothing. It reads the licence of a base on the hub from its card
    there. An upload is one commit; if it is interrupted, the same command goes on. Without --study
    and --configfile, the study is the only one in results.
    """
    from ablation.config.merging import ConfigError
    from ablation.provenance.manifests import StaleInput
    from ablation.publication import hub
    from ablation.publication.checkpoint import NotPublishable, find_checkpoint
    from ablation.publication.eval_results import FILE

    with report_errors(NotPublishable, ConfigError, StaleInput, OSError, ValueError, status=2):
        repository = hub.repository_of(uri)
        found = find_checkpoint(find_study_folder(None, configfile, study), checkpoint)
        publication = hub.prepare(repository, found, license, CONFIG)
        gone = publication.missing
        for name, size in publication.sizes.items():
            print(printable(f"{size:>16,}  {name}{'  (not here)' if name in gone else ''}"))
        print(f"{sum(publication.sizes.values()):>16,}  bytes in {len(publication.sizes)} files")
        if yes:
            print(printable(f"published: {hub.upload(publication, public)}"))
            return 0
    print(printable(f"\n{publication.card}"))
    if results := publication.content.get(FILE):
        print(printable(f"{FILE}:\n{results}"))
    kind = "public" if public else "private"
    print(f"Dry run: nothing was sent. --yes sends it to {repository} ({kind} if it is new).")
    return 0
