"""`ablation check`: says whether a model folder can be studied, by trying it on a few items."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import click

from ablation.cli.options import PATH, Command, report_errors
from ablation.console.printable import printable


@click.command(
    cls=Command,
    short_help="Test whether a model folder scores here as in stock lm-eval, under every mask.",
    examples=(
        "ablation check path/to/checkpoint",
        "ablation check path/to/checkpoint --device cuda --dtype bfloat16",
    ),
    epilog="docs/models.md lists what was found for each family of transformers.",
)
@click.argument(
    "folder", type=PATH, metavar="FOLDER", help="The folder of a Hugging Face checkpoint."
)
@click.option("--device", default="cpu", help="The device, cpu, cuda or mps (default: cpu).")
@click.option(
    "--dtype",
    type=click.Choice(("float32", "bfloat16")),
    default="float32",
    help="The number format. Only float32 shows small differences (default: float32).",
)
@click.option(
    "--attention",
    type=click.Choice(("sdpa", "eager", "flex_attention")),
    default="sdpa",
    help="The attention implementation (default: sdpa).",
)
def check(folder: Path, device: str, dtype: str, attention: str) -> int:
    """Score a few items with the model of a folder, here and by stock lm-eval, and compare the
    scores. Every mask, packed rows, and a copy that was saved and loaded again are tested too. The
    exit status is 1 if the model cannot be studied, and the message says why.
    """
    # The libraries read these settings when they are imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from ablation.scoring.check import REFUSALS, check

    started, failed = time.perf_counter(), []
    with report_errors(*REFUSALS):
        for step in check(folder, dtype, attention, device):
            print(f"{step.name:<17}{'agrees' if step.passed else 'DIFFERS'}  {step.found}")
            failed += [] if step.passed else [step.name]
    seconds = time.perf_counter() - started
    verdict = f"differs in {', '.join(failed)}: do not study it" if failed else "can be studied"
    print(printable(f"{folder} {verdict} ({seconds:.0f} s)"))
    return 1 if failed else 0
