"""Writes the missing commits of hub repositories into the configuration file of a study.

Only the text of the pins changes; comments, order and style of the file are kept.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from ablation.config.checks import is_commit, repositories
from ablation.config.merging import ConfigError, parse_scalar, read_config_file, resolve
from ablation.data import hub
from ablation.provenance.files import display_path, write_text


def pin(file: str | Path, folder: Path) -> dict[str, tuple[str, str]]:
    """Look up and write the missing commits; {repository: (commit, file with the new pin)}.

    A pin is written into the file that has it without a commit: `file`, or a file that it extends.
    If no file has the pin, it is added to `file`. Raises ConfigError for a file that cannot be
    read, and HubError for a commit that cannot be looked up; then no file changes.
    """
    file = Path(file)
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; the configuration file of a study was expected")
    layer = resolve(read_config_file(file).values, folder, [file])
    pins = layer.values.get("pins") or {}
    read = repositories(layer.values, folder)
    missing = {r: k for r, k in read.items() if not is_commit(pins.get(r))}
    # All commits are looked up before a file changes.
    commits = {r: hub.resolve_commit(r, kind, pins.get(r)) for r, kind in missing.items()}
    written = {}
    for repository, commit in commits.items():
        place = layer.places.get(("pins", repository), display_path(file)).rpartition(":")[0]
        home = Path(place or file)
        write_text(home, with_pin(home.read_text("utf-8"), repository, commit))
        written[repository] = (commit, display_path(home))
    return written


def with_pin(text: str, repository: str, commit: str) -> str:
    """The YAML `text` with `commit` as the pin of `repository` and no other change.

    Raises ConfigError for YAML in which the pin cannot be written.
    """
    pinned = (
        commit if parse_scalar(commit) == commit else f'"{commit}"'
    )  # YAML reads some hashes as numbers
    entry = f"{repository}: {pinned}"
    block = _value(yaml.compose(text), "pins")
    if not isinstance(block, yaml.MappingNode):
        if block is not None:
            raise ConfigError("pins: `repository: commit` lines were expected")
        after = f"{text}{'' if text.endswith(chr(10)) else chr(10)}\npins:\n  {entry}\n"
    elif (value := _value(block, repository)) is not None:
        start, end = value.start_mark.index, value.end_mark.index
        space = "" if text[start - 1 : start] in ("", " ") else " "
        after = f"{text[:start]}{space}{pinned}{text[end:]}"
    elif block.flow_style:
        start = block.start_mark.index + 1
        after = f"{text[:start]}{entry}{', ' if block.value else ''}{text[start:]}"
    else:
        first = block.value[0][0].start_mark
        after = f"{text[: first.index]}{entry}\n{' ' * first.column}{text[first.index :]}"
    _verify_only_pin_changed(text, after, repository, commit)
    return after


def _value(node: yaml.Node | None, name: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for key, value in pairs if key.value == name), None)


def _verify_only_pin_changed(before: str, after: str, repository: str, commit: str) -> None:
    values, expected = yaml.safe_load(after), yaml.safe_load(before) or {}
    expected["pins"] = (expected.get("pins") or {}) | {repository: commit}
    if values != expected:
        raise ConfigError(
            f"pins.{repository}: its form in YAML is unusual, so it was not changed. Write the "
            f"commit yourself: {commit}"
        )
