"""The instruction sets to which CPU jobs can be held, so that their results have the same bytes.

Libraries choose their kernels by the processor that they find, and kernels differ in the last bits.
The environment variables below are read when torch and numpy are imported.
"""

from __future__ import annotations

import os
import platform

INSTRUCTIONS = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",  # torch
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        # With its kernels for AVX2, strict or not, MKL's sums differ between makes of processor.
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Haswell",  # numpy and scipy
    }
}


def environment(instructions: str | None) -> dict[str, str]:
    """The variables that hold a process to `instructions`; none on other processors than x86-64."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    return INSTRUCTIONS[instructions] if instructions and x86 else {}


def held_to() -> str | None:
    """The instructions to which the variables of this process hold it, None without them."""
    for name in INSTRUCTIONS:
        variables = environment(name)  # none where they have no meaning
        if variables and variables.items() <= os.environ.items():
            return name
    return None
