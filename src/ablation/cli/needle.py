"""`ablation needle`: writes retrieval items of a given length in tokens, and their task files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from ablation.cli.options import PATH, Command, Several, report_errors
from ablation.console.printable import printable


@click.command(
    cls=Command,
    short_help="Write retrieval tasks: long prompts of a given length, answers early to late.",
    examples=(
        "ablation needle path/to/checkpoint --tokens 4096 8192",
        "ablation needle results/smollm2/base --tokens 8192 --items 200 --seed 2",
    ),
    epilog="docs/long_prompts.md says what the items are, and what long prompts cost.",
)
@click.argument(
    "folder",
    type=PATH,
    metavar="FOLDER",
    help="The folder of the model that will read the items, or of the base in a study's results.",
)
@click.option(
    "--tokens",
    cls=Several,
    type=click.IntRange(1),
    required=True,
    metavar="N",
    help="The lengths of prompt and answer in tokens of the model's tokenizer.",
)
@click.option(
    "--items",
    type=click.IntRange(1),
    default=100,
    metavar="N",
    help="The number of items of each length and position (default: 100).",
)
@click.option("--seed", type=int, default=1, help="The seed of the texts (default: 1).")
@click.option(
    "--out",
    type=PATH,
    default=Path("data/needle"),
    help="The folder of the items (default: data/needle).",
)
@click.option(
    "--config",
    type=PATH,
    default=Path("config"),
    help="The folder whose tasks/needle gets the task files (default: config).",
)
def needle(
    folder: Path, tokens: tuple[int, ...], items: int, seed: int, out: Path, config: Path
) -> int:
    """Write made-up texts in which one sentence has the answer to a question, early, in the middle
    or late, and a task file for each length and position. A study scores them under every mask and
    intervention when its `evaluation.tasks` names them. Equal arguments write equal files.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from ablation.data import needles
    from ablation.data.hub import HubError, model_folder
    from ablation.provenance.manifests import StaleInput, load_manifest

    with report_errors(HubError, StaleInput, ValueError, OSError):
        from ablation.config.architectures import positions
        from ablation.console.progress import Progress
        from ablation.model.checkpoints import read_config, read_tokenizer
        from ablation.provenance.files import write_json_lines, write_text

        manifest = folder / "manifest.json"
        if manifest.is_file() and not (folder / "config.json").is_file():
            folder = model_folder(manifest, load_manifest(manifest), weights=False)
        longest = positions(read_config(folder).to_dict())
        if longest is not None and max(tokens) > longest:
            raise needles.Unfitting(
                f"--tokens {max(tokens)} found, but the model in {folder} reads {longest} at most, "
                "so the beginning of the items would be cut. Give fewer, or another model"
            )
        tokenizer = read_tokenizer(folder)

        def lengths(texts: Sequence[str]) -> list[int]:
            return [len(ids) for ids in tokenizer(list(texts))["input_ids"]]

        names = []
        for length in tokens:
            for position in needles.POSITIONS:
                name = needles.task_name(length, position)
                progress, made = Progress(name, items), []
                for item in needles.items(length, position, items, seed, lengths):
                    made.append(item)
                    progress.update(len(made))
                data = out / f"{name}.jsonl"
                write_json_lines(data, made)
                task = needles.task_file(length, position, data.as_posix())
                write_text(config / "tasks/needle" / f"{name}.yaml", task)
                names.append(name)
    print(printable(f"{items} items of each task in {out}, task files in {config}/tasks/needle"))
    print(f"evaluation: {{tasks: [{', '.join(names)}]}}")
    return 0
