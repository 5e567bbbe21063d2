"""Gives each job on a machine with several GPUs the cards with the fewest jobs.

`snakemake --resources gpu=8` starts eight jobs at a time, on however many cards there are. Without
a choice, all of them would use the first card.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ablation.provenance.run_records import nvml_devices

VARIABLE = "CUDA_VISIBLE_DEVICES"
JOBS_A_CARD = 64  # at most; each is a file of no bytes


@contextmanager
def own_cards(wanted: int) -> Iterator[None]:
    """Let this process see only `wanted` cards until the block ends, those with the fewest jobs.

    Nothing is chosen for a job without a GPU, where a scheduler has set CUDA_VISIBLE_DEVICES, and
    on a machine that has no more cards than that. Must come before CUDA is used. Jobs of one user
    see each other in all folders of a machine. The kernel gives the cards of a killed job free.
    """
    names = _cards() if wanted and VARIABLE not in os.environ else []
    if len(names) <= wanted:
        yield
        return
    with ExitStack() as held:
        chosen = _take(names, wanted, held)
        os.environ[VARIABLE] = ",".join(names[number] for number in chosen)
        try:
            yield
        finally:
            del os.environ[VARIABLE]


def _cards() -> list[str]:
    """The names of all cards of this machine, in NVML's order."""
    with nvml_devices() as devices:
        if not devices:
            return []
        import pynvml

        return [pynvml.nvmlDeviceGetUUID(device) for device in devices]


def _take(names: Sequence[str], wanted: int, held: ExitStack) -> list[int]:
    """Lock a place on each of `wanted` cards; the first places of all cards are taken first."""
    folder, chosen = _folder(), list[int]()
    for place in range(JOBS_A_CARD):
        for number, name in enumerate(names):
            if len(chosen) < wanted and number not in chosen:
                file = held.enter_context((folder / f"{name}.{place}").open("w", encoding="utf-8"))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # another job has this place
                chosen.append(number)
    if len(chosen) < wanted:
        raise RuntimeError(
            f"{JOBS_A_CARD} jobs use each card of this machine already. Start fewer at a time: "
            "snakemake --resources gpu=N"
        )
    return sorted(chosen)


def _folder() -> Path:
    """The folder of the locks, which only this user can write to."""
    folder = Path(tempfile.gettempdir()) / f"ablation-cards-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise RuntimeError(f"{folder} can be written by others. Remove it, or set TMPDIR")
    return folder
