"""Endings that are no fault of the code, as a message of three lines in place of a traceback."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

KEPT = "Finished results are kept; this job begins again."
AGAIN = "The same command goes on."
FULL = (errno.ENOSPC, errno.EDQUOT)
# What safetensors and torch say instead of raising an OSError.
FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed")


@contextmanager
def told_in_three_lines(rule: str) -> Iterator[None]:
    """End the process with what happened to the job of `rule`, what is kept and what goes on.

    This holds for Ctrl-C, a full disk and too little memory; other errors pass. Notes on the error
    (`BaseException.add_note`) say what is kept.
    """
    try:
        yield
    except BaseException as error:
        if (found := _ending(error)) is None:
            raise
        what, remedy = found
        kept = " ".join(getattr(error, "__notes__", ())) or KEPT
        raise SystemExit(f"{rule}: {what}\n{kept}\n{remedy}{AGAIN}") from None


def _ending(error: BaseException) -> tuple[str, str] | None:
    """What happened, and what to do before the next run; None for an error of another kind."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C.", ""
    first = str(error).partition("\n")[0]
    if getattr(error, "errno", None) in FULL or any(text in first for text in FULL_TEXTS):
        return f"the disk is full ({first}).", "Make room on it first (df -h .). "
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is slow to import
        return (
            f"the GPU has too little memory ({first}).",
            "End other programs on it (nvidia-smi), or lower micro_batch_examples or max_seq_len. ",
        )
    if isinstance(error, MemoryError):
        return "this machine has too little memory.", "Give Snakemake fewer --cores. "
    return None
