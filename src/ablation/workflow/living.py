"""Runs of Snakemake in this folder: which are alive, and which have left their lock behind.

`make unlock` calls this module. Snakemake's own `--unlock` also takes the lock of a living run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

LOCKS = Path(".snakemake/locks")


def living_runs(folder: str | Path = ".") -> list[int]:
    """The process numbers of other runs of Snakemake in `folder`, on this machine.

    The list is empty where the system has no /proc.
    """
    own, here = _ancestors(), Path(folder).resolve()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            same = (process / "cwd").resolve(strict=True) == here
        except OSError:  # it has ended, or is another user's
            continue
        programs = {os.path.basename(word) for word in words[:2]}
        snakemake = b"snakemake" in programs or words[1:3] == [b"-m", b"snakemake"]
        if same and snakemake and b"--mode" not in words and int(process.name) not in own:
            found.append(int(process.name))
    return sorted(found)


def _ancestors() -> set[int]:
    """This process and those that have started it."""
    found, number = set(), os.getpid()
    while number > 1:
        found.add(number)
        try:
            status = Path(f"/proc/{number}/stat").read_text("utf-8", errors="replace")
        except OSError:
            break
        number = int(status.rpartition(")")[2].split()[1])
    return found


def lock_message(folder: str | Path = ".") -> str | None:
    """What to know of the lock in `folder` before a run starts; None without a lock."""
    if not any((Path(folder) / LOCKS).glob("*")):
        return None
    if runs := living_runs(folder):
        numbers = ", ".join(map(str, runs))
        return (
            f"Another run works in this folder (process {numbers}). A study beside it needs a name "
            "and a target of its own\n(results/NAME/recovery.csv); otherwise wait for that run."
        )
    return (
        "A run in this folder was killed and has left its lock; its finished results and saved "
        "steps are kept.\n`make unlock` removes the lock (first see that none runs on another "
        "machine), then the same command goes on."
    )


def main() -> int:
    """Remove the lock of this folder, unless a run is alive. Returns the exit status."""
    if runs := living_runs():
        numbers = ", ".join(map(str, runs))
        print(
            f"A run is alive in this folder (process {numbers}), so the lock stays.\n"
            f"Wait for it, or end it: kill -INT {runs[0]}",
            file=sys.stderr,
        )
        return 1
    for lock in LOCKS.glob("*"):
        lock.unlink()
    print("No run is alive here; the folder is unlocked. The same command goes on.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
