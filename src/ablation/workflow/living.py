"""Runs of Snakemake in this folder: which are alive, and which have left their lock behind.

`make unlock` calls this module. Snakemake's own `--unlock` also takes the lock of a living run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

LOCKS = Path(".snakemake/locks")


class StudyLocked(RuntimeError):
    """Another run has locked the results of a study."""


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


def locked_outputs(folder: str | Path = ".") -> set[str]:
    """The files that runs of Snakemake in `folder`, alive or killed, have locked to write them."""
    locks = (Path(folder) / LOCKS).glob("*.output.lock")
    return {line for lock in locks for line in lock.read_text("utf-8").splitlines()}


def refuse_locked_study(home: str, study: str) -> None:
    """Raise StudyLocked if another run makes results in the folder `home`, or was killed there.

    The results of a bridge are in a folder below those of its study.
    """
    locked = {file for file in locked_outputs() if file.startswith(f"{home}/")}
    if not any(home.endswith("/bridge") or not f.startswith(f"{home}/bridge/") for f in locked):
        return
    if runs := living_runs():
        raise StudyLocked(
            f"Another run of the study {study} works in this folder ({_numbers(runs)}). Nothing "
            f"was started.\nWait for it, or end it (kill -INT {runs[0]}); then the same command "
            "goes on."
        )
    raise StudyLocked(
        f"A run of the study {study} was killed and has left its lock; its finished results and "
        "saved steps are kept.\n`make unlock` removes the lock (first see that none runs on "
        "another machine), then the same command goes on."
    )


def leave_to_other_run(table: str, own: str) -> str | None:
    """What to know before a run that leaves `table` to another run, which has locked it."""
    if table not in locked_outputs():
        return None
    runs = living_runs()
    other = (
        f"Another run works in this folder ({_numbers(runs)})"
        if runs
        else ("A run of another study was killed and has left its lock (`make unlock` removes it)")
    )
    return f"{other}, so {table} is left to it.\nThe table of this study is {own}."


def _numbers(runs: list[int]) -> str:
    return f"process {', '.join(map(str, runs))}"


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
