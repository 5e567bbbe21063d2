"""Checks that a process computes with its study's `hardware.instructions`."""

from __future__ import annotations

import os

import torch

from ablation.config.study import ComputeSettings
from ablation.vocabulary.instructions import environment


class OtherInstructions(RuntimeError):
    """This process computes with other instructions than the study's, so in other last bits."""


def refuse_other_instructions(hardware: ComputeSettings) -> None:
    """Raise OtherInstructions if torch was imported without those of the study."""
    wanted = {} if hardware.gpu else environment(hardware.instructions)
    missing = [f"{name}={value}" for name, value in wanted.items() if os.environ.get(name) != value]
    found = torch.backends.cpu.get_cpu_capability()
    if missing or (wanted and found.lower() != hardware.instructions):
        raise OtherInstructions(
            f"hardware.instructions is {hardware.instructions}, but torch computes with {found}"
            + (f" and without {' '.join(missing)}" if missing else "")
            + ". Start the study with snakemake, which sets these variables. On a processor "
            "without AVX2 set hardware.instructions to null: the last bits of results will differ."
        )
