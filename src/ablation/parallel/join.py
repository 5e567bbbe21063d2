"""Starts this machine's ranks of a job that began on another one, and waits for their end.

python -m ablation.parallel.join FOLDER, where the job has named FOLDER; both machines must see it.
"""

from __future__ import annotations

import sys
from contextlib import suppress

from torch.distributed import DistError

from ablation.parallel.launch import Meeting, RankFailed, report, run_ranks

CONNECT_SECONDS = 60.0  # within which the machine where the job began must answer


def main(folder: str) -> int:
    """The exit code: 0 if all ranks here have finished their work."""
    try:
        meeting = Meeting.read(folder)
    except FileNotFoundError:
        print(
            f"{folder} holds no job that waits for machines: it has ended, or this machine does "
            "not see its folder. Take the command from the job's log.",
            file=sys.stderr,
        )
        return 1
    try:
        store = meeting.store(CONNECT_SECONDS)
    except DistError as why:
        print(
            f"no job answers at {meeting.address}:{meeting.port} ({type(why).__name__}): the job "
            f"of {folder} has ended, or this machine cannot reach that address (MASTER_ADDR, "
            "docs/slurm.md).",
            file=sys.stderr,
        )
        return 1
    try:
        failed = run_ranks(meeting, folder, store)
        if not failed:
            return 0
    except RankFailed as why:
        print(f"join: {why}", file=sys.stderr)
        failed = {}
    with suppress(RuntimeError):  # the machine where the job began may have ended
        report(store, failed)
    return 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
