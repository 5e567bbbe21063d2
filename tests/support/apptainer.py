"""Reads definition files of Apptainer, so that tests can check and run their steps without it."""

import re
from pathlib import Path

SECTIONS = ("arguments", "files", "post", "environment", "runscript", "test")


def read_definition(file: Path) -> dict[str, str]:
    """{name of a header or section: its text} of a definition file, without comments."""
    text = re.sub(r"^#.*\n", "", file.read_text("utf-8"), flags=re.M)
    header, *parts = re.split(r"^%(\w+)\n", text, flags=re.M)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    unknown = sections.keys() - set(SECTIONS)
    assert not unknown, f"{file}: this reader does not know {', '.join(sorted(unknown))}"
    fields = dict(re.findall(r"^(\w+): *(.+)$", header, re.M))
    return fields | {
        name: re.sub(r"(?m)^    ", "", text).strip() for name, text in sections.items()
    }
