"""Print environment.yml: the pins of requirements*.txt for conda users (`make lock` calls this)."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def pins(name: str) -> list[str]:
    """The `package==version ; marker` lines of a requirements file, without their hashes."""
    lines = (ROOT / name).read_text().splitlines()
    return [re.sub(r"\s*\\$", "", line) for line in lines if re.match(r"[A-Za-z0-9_.-]+==", line)]


def environment() -> str:
    """The text of environment.yml: pip installs the pins, then the package itself."""
    head = ["name: ablation", "channels: [conda-forge]", "dependencies:"]
    head += ["  - python=3.11", "  - make", "  - pip", "  - pip:"]
    body = [
        f'      - "{pin}"'
        for f in ("requirements-torch.txt", "requirements.txt")
        for pin in pins(f)
    ]
    return "\n".join([*head, *body, "      - --no-deps --editable .", ""])


if __name__ == "__main__":
    print(environment(), end="")
