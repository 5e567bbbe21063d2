"""`ablation check`: says whether a model folder can be studied, by trying it on a few items."""

from __future__ import annotations

import argparse
import logging
import os
import time
from pathlib import Path

from ablation.cli.options import Commands, report_errors
from ablation.console.printable import printable


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    check = commands.add_parser(
        "check",
        help="Try a model folder: does it score here as in stock lm-eval, under every mask?",
        description="Score a few items with the model of a folder, here and by stock lm-eval; "
        "compare every mask, packing, and the model after it was saved and loaded again. The exit "
        "status is 1 if the model cannot be studied, and the message says why.",
        epilog="docs/models.md lists what was found for each family of transformers.",
    )
    check.add_argument(
        "folder", type=Path, metavar="FOLDER", help="The folder of a Hugging Face checkpoint."
    )
    check.add_argument("--device", default="cpu", help="The device, cpu or cuda (default: cpu).")
    check.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="The number format. Only float32 shows small differences (default: float32).",
    )
    check.add_argument(
        "--attention",
        default="sdpa",
        choices=("sdpa", "eager", "flex_attention"),
        help="The attention implementation (default: sdpa).",
    )
    check.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print each comparison as it is made, then the verdict."""
    # The libraries read these settings when they are imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from ablation.scoring.check import REFUSALS, check

    started, failed = time.perf_counter(), []
    folder = arguments.folder
    with report_errors(*REFUSALS):
        for step in check(folder, arguments.dtype, arguments.attention, arguments.device):
            print(f"{step.name:<17}{'agrees' if step.passed else 'DIFFERS'}  {step.found}")
            failed += [] if step.passed else [step.name]
    seconds = time.perf_counter() - started
    verdict = f"differs in {', '.join(failed)}: do not study it" if failed else "can be studied"
    print(printable(f"{folder} {verdict} ({seconds:.0f} s)"))
    return 1 if failed else 0
