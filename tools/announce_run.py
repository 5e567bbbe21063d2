"""Says in a box what a run will do, before anything is installed or computed.

    python3 tools/announce_run.py config/demo.yaml demo packages

The words after the file are the name of its study and, if they are yet to be installed, `packages`.
Times and sizes are those of measured runs, so a study of one's own has none. It runs before there
are packages, so it needs Python alone; the box is that of `ablation.report.finding`.
"""

from __future__ import annotations

import sys

WIDTH = 110  # characters
# {file of a shipped study: what it does, its measured time, the megabytes of its results}
# Time and size: `time make demo` and `time make study` in a fresh clone with installed packages, on
# two idle cores; `du -cm results/STUDY results/_workflow results/*.html results/*.json`.
SHIPPED = {
    "config/demo.yaml": (
        "finetunes a shipped model of 290,000 weights 5 times: five recipes, one seed",
        "about 3 minutes",
        40,
    ),
    "config/default.yaml": (
        "finetunes a shipped model of 290,000 weights 27 times: nine recipes, three seeds",
        "about 15 minutes (14 min 23 s measured)",
        104,
    ),
}
STEPS = (
    "Then it scores them under three masks, writes tables, figures, a report and an RO-Crate, and",
    "verifies every file.",
)
PACKAGES = "First the packages: about 2 GB in .venv, two to six minutes."


def announcement(file: str, packages: bool) -> list[str]:
    """The lines for the study of a file; packages: whether they are yet to be installed."""
    lines = [PACKAGES] if packages else []
    if file not in SHIPPED:
        return [
            *lines,
            f"The study of {file}: checkpoints, scores, tables, figures, a report and an RO-Crate.",
            "How long it takes is not known before its first jobs have run.",
            f"An estimate for rented GPUs: ablation plan --configfile {file}",
            *again(f"make study STUDY={file}"),
        ]
    does, minutes, megabytes = SHIPPED[file]
    return [
        *lines,
        f"The study {does}.",
        *STEPS,
        f"Time: {minutes} on two idle cores. Disk: {megabytes} MB in results/.",
        *again("make demo" if "demo" in file else "make study"),
    ]


def again(command: str) -> list[str]:
    """How the run is stopped, and goes on."""
    return [f"Ctrl-C stops it, and {command} goes on from there: what is finished is kept."]


def box(title: str, lines: list[str], encoding: str) -> str:
    """The lines in a frame, as rich draws it; of ASCII, if `encoding` has no better characters."""
    try:
        corners = "╭─╮│╰╯"
        corners.encode(encoding)
    except UnicodeEncodeError:
        corners = "+-+|++"
    left, line, right, side, below, end = corners
    inner = max([WIDTH - 4, *map(len, lines)])
    head = f" {title} ".center(inner + 2, line)
    rows = [f"{side} {text:<{inner}} {side}" for text in lines]
    return "\n".join([f"{left}{head}{right}", *rows, f"{below}{line * (inner + 2)}{end}"])


if __name__ == "__main__":
    study_file, study, *rest = sys.argv[1:]
    said = announcement(study_file, "packages" in rest)
    print(box(study, said, sys.stdout.encoding or "ascii"), flush=True)
