"""Turns the output of tools/install.sh into one line of progress: `sh tools/install.sh … | this`.

pip says several lines a package, or with --quiet nothing for minutes.
"""

import re
import sys
from pathlib import Path

LOCKS = ("requirements.txt", "requirements-torch-cpu.txt")


def main() -> None:
    """Read pip's output until its end."""
    total = sum(len(re.findall(r"(?m)^[\w.-]+==", Path(lock).read_text("utf-8"))) for lock in LOCKS)
    on_terminal, found, unpacked = sys.stderr.isatty(), 0, False
    print("Installing PyTorch, Snakemake and what they need into .venv: 2 GB", file=sys.stderr)
    for line in sys.stdin:
        if line.startswith(("Collecting ", "Processing ")) and " (from -r " in line:
            found += 1
            if on_terminal or found % 30 == 0:
                show(f"  {found} of {total} packages fetched", on_terminal)
        elif line.startswith("Installing collected packages:") and "," in line:
            unpacked = True
            text = f"  {found} of {total} packages fetched, unpacking {line.count(',') + 1}"
            show(text, on_terminal)
    show("  all packages are installed" if unpacked else "", on_terminal, last=True)


def show(text: str, on_terminal: bool, last: bool = False) -> None:
    end = "" if on_terminal and not last else "\n"
    print(f"\r{text:<60}" if on_terminal else text, end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
