"""`ablation pin`: the commits that a study lacks, asked of the hub and written into its YAML.

Only the text of the pins changes: comments, order and style of the file stay.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from ablation import hub
from ablation.faults import is_commit, repositories
from ablation.layers import ConfigError, read_layer, resolve, scalar, shown
from ablation.provenance import write_text


def pin(file: str | Path, folder: str | Path = "config") -> dict[str, tuple[str, str]]:
    """{repository: (its commit, the file where it now stands)} of all that had none.

    A pin is written where the study, or the file that it extends, has it without a commit; one that
    is nowhere goes into `file`. Raises ConfigError for a file that cannot be read, and HubError.
    """
    file = Path(file)
    if not file.is_file():
        raise ConfigError(f"{file}: no such file")
    layer = resolve(read_layer(file).values, Path(folder), [file])
    pins = layer.values.get("pins") or {}
    lacking = {r: k for r, k in repositories(layer.values).items() if not is_commit(pins.get(r))}
    # All are asked for before anything is written.
    commits = {r: hub.commit_of(r, kind, pins.get(r)) for r, kind in lacking.items()}
    written = {}
    for repository, commit in commits.items():
        place = layer.places.get(("pins", repository), shown(file)).rpartition(":")[0]
        home = Path(place or file)
        write_text(home, with_pin(home.read_text("utf-8"), repository, commit))
        written[repository] = (commit, shown(home))
    return written


def with_pin(text: str, repository: str, commit: str) -> str:
    """The YAML `text` with `commit` as the pin of `repository`, and nothing else changed.

    Raises ConfigError where that cannot be done.
    """
    pinned = commit if scalar(commit) == commit else f'"{commit}"'  # some hashes look like numbers
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
    _only_the_pin_changed(text, after, repository, commit)
    return after


def _value(node: yaml.Node | None, name: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((value for key, value in pairs if key.value == name), None)


def _only_the_pin_changed(before: str, after: str, repository: str, commit: str) -> None:
    values, expected = yaml.safe_load(after), yaml.safe_load(before) or {}
    expected["pins"] = (expected.get("pins") or {}) | {repository: commit}
    if values != expected:
        raise ConfigError(f"pins.{repository}: write {commit} there yourself, its place is unusual")
