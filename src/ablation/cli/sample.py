"""`ablation sample`: shows how the base and its finetuned models continue the same prompts."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import click

from ablation.cli.options import FILE_TO_WRITE, PATH, Command, Several, report_errors
from ablation.cli.studies import configfile_of, name_of, results_of, study_options
from ablation.vocabulary.masks import MASKS, SAMPLED_MASKS


@click.command(
    cls=Command,
    short_help="Continue prompts with the base and its finetuned models, side by side.",
    examples=(
        "ablation sample",
        'ablation sample --recipe 3B 5C --prompt "Then Eve" --out said.md',
        "ablation sample --study demo --mask causal prefill_bidir",
    ),
    epilog="full_bidir generates what prefill_bidir generates, because there is no continuation "
    "yet that the prompt could attend to.",
)
@click.option(
    "--recipe",
    cls=Several,
    help="The recipes whose models continue the prompts (default: all of the study).",
)
@click.option(
    "--seed", cls=Several, type=int, help="The seeds of the finetunings (default: the lowest)."
)
@click.option(
    "--mask",
    cls=Several,
    type=click.Choice(MASKS),
    default=SAMPLED_MASKS,
    help=f"The masks of the prefill (default: {' '.join(SAMPLED_MASKS)}).",
)
@click.option(
    "--prompt", cls=Several, help="The prompts (default: one item of each task of the study)."
)
@click.option(
    "--file",
    type=PATH,
    help="A file with one prompt a line, or a .jsonl file with Alpaca records or with objects that "
    "hold `prompt` and `answer`.",
)
@click.option(
    "--instruction",
    is_flag=True,
    help="Put each prompt into the Alpaca form on which the models were finetuned.",
)
@click.option(
    "--max-new-tokens",
    type=int,
    default=32,
    help="The largest number of tokens in a continuation (default: 32).",
)
@click.option(
    "--temperature",
    type=float,
    default=0.0,
    help="The temperature of sampling; 0 decodes greedily (default: 0).",
)
@click.option(
    "--sampling-seed",
    type=int,
    default=0,
    help="The seed of sampling at a temperature above 0 (default: 0).",
)
@click.option("--device", default="cpu", help="The device, cpu, cuda or mps (default: cpu).")
@click.option(
    "--dtype",
    type=click.Choice(("float32", "bfloat16")),
    default="float32",
    help="The number format of weights and activations (default: float32).",
)
@click.option(
    "--out",
    type=FILE_TO_WRITE,
    help="Also write the continuations into this .jsonl, .csv or .md file.",
)
@study_options
def sample(
    recipe: tuple[str, ...],
    seed: tuple[int, ...],
    mask: tuple[str, ...],
    prompt: tuple[str, ...],
    file: Path | None,
    instruction: bool,
    max_new_tokens: int,
    temperature: float,
    sampling_seed: int,
    device: str,
    dtype: str,
    out: Path | None,
    configfile: Path | None,
    study: str | None,
) -> int:
    """Continue prompts with the base and its finetuned models, side by side. The prompt is read
    under each mask (prefill); decoding is causal. Without --study and --configfile, the models are
    those of the study micro.
    """
    # The libraries read these settings when they are imported; their loading bars and remarks
    # would otherwise be printed between the tables.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from ablation.config.merging import ConfigError
    from ablation.data.continuations import FORMATS, CannotSample
    from ablation.data.hub import HubError
    from ablation.provenance.manifests import StaleInput
    from ablation.provenance.next_actions import DEFAULT_STUDY, command_for

    with report_errors(CannotSample, ConfigError, HubError, StaleInput, OSError):
        if max_new_tokens < 1 or not 0 <= temperature < math.inf:
            raise CannotSample("--max-new-tokens starts at 1, --temperature at 0")
        if out and out.suffix not in FORMATS:
            raise CannotSample(f"--out {out}: expected {', '.join(FORMATS)}")
        name = name_of(configfile, study) or name_of(configfile_of(None, None), None)
        results = results_of(name or DEFAULT_STUDY)
        if not (base := results / "base/manifest.json").is_file():
            raise CannotSample(f"{base} was not found. Make it: {command_for(base)}")
        # Torch is imported after what the user may have mistyped.
        from ablation.report.continuations import print_continuations, write_continuations
        from ablation.scoring import generate

        models = generate.models_of(results, recipe, seed)
        prompts = generate.prompts_of(results, prompt, file, instruction)
        continuations = list(
            generate.sample(
                models,
                prompts,
                mask,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=sampling_seed,
                device=device,
                dtype=dtype,
            )
        )
        if out:
            write_continuations(continuations, out)
    print_continuations(continuations)
    if out:
        print(f"{len(continuations)} continuations in {out}")
    return 0
