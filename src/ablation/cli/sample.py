"""`ablation sample`: shows how the base and its finetuned models continue the same prompts."""

from __future__ import annotations

import argparse
import logging
import math
import os
from pathlib import Path

from ablation.cli.options import Commands, file_to_write, report_errors
from ablation.vocabulary.masks import MASKS, SAMPLED_MASKS


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    sample = commands.add_parser(
        "sample",
        help="Continue prompts with the base and its finetuned models, side by side.",
        description="Continue prompts with the base and its finetuned models, side by side. The "
        "prompt is read under each mask (prefill); decoding is causal.",
        epilog="full_bidir generates what prefill_bidir generates, because there is no "
        "continuation yet that the prompt could attend to.",
    )
    option = sample.add_argument
    option("--study", default="micro", help="The study in results/STUDY (default: micro).")
    option(
        "--recipe",
        nargs="+",
        default=[],
        help="The recipes whose models continue the prompts (default: all of the study).",
    )
    option(
        "--seed",
        nargs="+",
        type=int,
        default=[],
        help="The seeds of the finetunings (default: the lowest).",
    )
    option(
        "--mask",
        nargs="+",
        default=list(SAMPLED_MASKS),
        choices=MASKS,
        help=f"The masks of the prefill (default: {' '.join(SAMPLED_MASKS)}).",
    )
    option(
        "--prompt",
        nargs="+",
        default=[],
        help="The prompts (default: one item of each task of the study).",
    )
    option(
        "--file",
        type=Path,
        help="A file with one prompt a line, or a .jsonl file with Alpaca records or with objects "
        "that hold `prompt` and `answer`.",
    )
    option(
        "--instruction",
        action="store_true",
        help="Put each prompt into the Alpaca form on which the models were finetuned.",
    )
    option(
        "--max-new-tokens",
        type=int,
        default=32,
        help="The largest number of tokens in a continuation (default: 32).",
    )
    option(
        "--temperature",
        type=float,
        default=0.0,
        help="The temperature of sampling; 0 decodes greedily (default: 0).",
    )
    option(
        "--sampling-seed",
        type=int,
        default=0,
        help="The seed of sampling at a temperature above 0 (default: 0).",
    )
    option("--device", default="cpu", help="The device, cpu or cuda (default: cpu).")
    option(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="The number format of weights and activations (default: float32).",
    )
    option(
        "--out",
        type=file_to_write,
        help="Also write the continuations into this .jsonl, .csv or .md file.",
    )
    sample.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the continuations and write them into `--out`."""
    # The libraries read these settings when they are imported; their loading bars and remarks
    # would otherwise be printed between the tables.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from ablation.data.continuations import FORMATS, CannotSample
    from ablation.data.hub import HubError
    from ablation.provenance.manifests import StaleInput
    from ablation.report.continuations import print_continuations, write_continuations
    from ablation.scoring import generate

    results, out = Path("results") / arguments.study, arguments.out
    with report_errors(CannotSample, HubError, StaleInput, OSError):
        if arguments.max_new_tokens < 1 or not 0 <= arguments.temperature < math.inf:
            raise CannotSample("--max-new-tokens starts at 1, --temperature at 0")
        if out and out.suffix not in FORMATS:
            raise CannotSample(f"--out {out}: expected {', '.join(FORMATS)}")
        models = generate.models_of(results, arguments.recipe, arguments.seed)
        prompts = generate.prompts_of(
            results, arguments.prompt, arguments.file, arguments.instruction
        )
        continuations = list(
            generate.sample(
                models,
                prompts,
                arguments.mask,
                max_new_tokens=arguments.max_new_tokens,
                temperature=arguments.temperature,
                seed=arguments.sampling_seed,
                device=arguments.device,
                dtype=arguments.dtype,
            )
        )
        if out:
            write_continuations(continuations, out)
    print_continuations(continuations)
    if out:
        print(f"{len(continuations)} continuations in {out}")
    return 0
