"""Reads Dockerfiles, so that tests can check and run their steps without Docker."""

import re
from pathlib import Path

INSTRUCTIONS = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "CMD"}


def read_dockerfile(file: Path) -> list[tuple[str, str]]:
    """The (instruction, text) pairs of a Dockerfile, each on one line."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text("utf-8"), flags=re.M)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    steps = [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]
    unknown = {what for what, _ in steps} - INSTRUCTIONS
    assert not unknown, f"{file}: this reader does not know {', '.join(sorted(unknown))}"
    return steps
