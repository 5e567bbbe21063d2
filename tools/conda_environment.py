"""Print environment.yml: the pins of requirements*.txt for conda users (`make lock` calls this)."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ("requirements-torch.txt", "requirements.txt")


def pins(name: str) -> list[str]:
    """The `package==version ; marker` lines of a requirements file, without their hashes."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return [re.sub(r"\s*\\$", "", line) for line in lines if re.match(r"[A-Za-z0-9_.-]+==", line)]


def distributions() -> list[str]:
    """The folders of this repository that pip installs: the plugins, then `ablation` itself."""
    plugins = sorted(file.parent for file in ROOT.glob("packages/*/pyproject.toml"))
    return [f"./{folder.relative_to(ROOT)}" for folder in plugins] + ["."]


# conda writes the `pip:` list to a temporary requirements file beside environment.yml and calls
# `pip install -U -r FILE` in that folder, and pip reads `-e PATH` relative to the folder it is
# called in. So paths are relative to the root of the repository. A line of a requirements file
# cannot say --no-deps, and need not: every dependency is pinned, so pip adds nothing else.
def environment() -> str:
    """The text of environment.yml: the pins, then this repository's distributions, editable."""
    head = ["name: ablation", "channels: [conda-forge]", "dependencies:"]
    head += ["  - python=3.11", "  - make", "  - pip", "  - pip:"]
    pinned = [pin for name in REQUIREMENTS for pin in pins(name)]
    lines = pinned + [f"-e {folder}" for folder in distributions()]
    return "\n".join([*head, *(f'      - "{line}"' for line in lines), ""])


if __name__ == "__main__":
    print(environment(), end="")
