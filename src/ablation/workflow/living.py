"""Runs of Snakemake in this folder: which are alive, and which have left their lock behind.

`make unlock` calls this module. Snakemake's own `--unlock` also takes the lock of a living run.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import psutil

LOCKS = Path(".snakemake/locks")


class StudyLocked(RuntimeError):
    """Another run has locked the results of a study."""


def living_runs(folder: str | Path = ".") -> list[int]:
    """The process numbers of other runs of Snakemake in `folder`, on this machine.

    The system hides in which folder the processes of another user are. A run of such a user counts
    if the user has locked files in `folder`.
    """
    here, holders = str(Path(folder).resolve()), _other_users_with_locks(folder)
    own = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "uids"]):
        words, cwd, users = (process.info[name] for name in ("cmdline", "cwd", "uids"))
        words = words or []
        programs = {os.path.basename(word) for word in words[:2]}
        snakemake = "snakemake" in programs or words[1:3] == ["-m", "snakemake"]
        same = cwd == here if cwd else users is not None and users.real in holders
        if same and snakemake and "--mode" not in words and process.pid not in own:
            found.append(process.pid)
    return sorted(found)


def _other_users_with_locks(folder: str | Path) -> set[int]:
    found = set()
    for lock in (Path(folder) / LOCKS).glob("*"):
        with suppress(FileNotFoundError):  # its run has just ended
            found.add(lock.lstat().st_uid)
    return found - {os.getuid()}


def locked_outputs(folder: str | Path = ".") -> set[str]:
    """The files that runs of Snakemake in `folder`, alive or killed, have locked to write them."""
    found: set[str] = set()
    for lock in (Path(folder) / LOCKS).glob("*.output.lock"):
        with suppress(FileNotFoundError):  # its run has just ended
            found |= set(lock.read_text("utf-8", errors="replace").splitlines())
    return found


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
        "saved steps are kept.\nMake sure that no run is alive on another machine; then "
        "`make unlock` removes the lock, and the same command goes on."
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
        print(
            f"A run is alive in this folder ({_numbers(runs)}), so the lock stays.\n"
            f"Wait for it, or end it: kill -INT {runs[0]}",
            file=sys.stderr,
        )
        return 1
    for lock in LOCKS.glob("*"):
        lock.unlink(missing_ok=True)
    print("No run is alive here; the folder is unlocked. The same command goes on.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
