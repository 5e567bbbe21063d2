"""The licence of a model that is to be published: as given, or that of its base.

A trained model is derived from its base, so it cannot be published before the base's licence is
known. Nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ablation.publication.checkpoint import Checkpoint, NotPublishable

IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.+-]*")
UNKNOWN = "unknown"  # the hub's identifier for a card that does not say
MADE_HERE = ("shipped", "pretrain", "random")  # bases that the repository of the study makes
CITATION = Path("CITATION.cff")


@dataclass(frozen=True)
class Licence:
    """A licence as the hub names it; source: how it is known, in words.

    name, link: those of a licence that the hub has no identifier for (`other`).
    """

    identifier: str
    source: str
    name: str | None = None
    link: str | None = None


def licence_of(checkpoint: Checkpoint, given: str | None = None) -> Licence:
    """The licence `given`, or that of the base. Raises NotPublishable if it is unknown.

    For a base on the hub, its card at the pinned commit is read over the network.
    """
    if given is not None:
        if not IDENTIFIER.fullmatch(given.lower()):
            raise NotPublishable(f"--license {given}: an identifier such as apache-2.0 is expected")
        return Licence(given.lower(), "as given")
    if on_hub := checkpoint.base_on_hub:
        base, why = on_hub[0], "its card on the hub names none"
        try:
            found = _card_on_hub(*on_hub)
        except Exception as error:  # of the network, of the hub, of the card
            found, why = {}, f"its card on the hub cannot be read ({type(error).__name__})"
        source = f"that of {base} at {on_hub[1][:12]}"
    elif checkpoint.base.get("fingerprint", {}).get("config", {}).get("base") in MADE_HERE:
        base, why = "the base", f"{CITATION} here names no `license:`"
        found = _yaml(CITATION.read_text("utf-8")) if CITATION.is_file() else {}
        source = f"that of this repository ({CITATION}), which made the base"
    else:
        base, why = "the base", "its folder has no README.md with `license:`"
        found = _card_in_folder(checkpoint)
        source = "that of the README.md of the base"
    licence = found.get("license")
    licence = licence.lower() if isinstance(licence, str) else UNKNOWN
    if not IDENTIFIER.fullmatch(licence) or licence == UNKNOWN:
        raise NotPublishable(
            f"The licence of {base} is unknown: {why}. A model that was trained from it is derived "
            "from it.\nFind its licence, then name that of your model: --license apache-2.0"
        )
    name, link = (
        str(found[key]) if key in found else None for key in ("license_name", "license_link")
    )
    return Licence(licence, source, name, link)


def _card_on_hub(name: str, commit: str) -> Mapping[str, Any]:
    from huggingface_hub import HfApi

    card = HfApi().model_info(name, revision=commit).card_data
    return card.to_dict() if card else {}


def _card_in_folder(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The front matter of the README.md beside the base's config.json."""
    for name in checkpoint.base.get("outputs", {}):
        if Path(name).name == "config.json":
            file = checkpoint.home / "base" / Path(name).parent / "README.md"
            text = file.read_text("utf-8", "replace") if file.is_file() else ""
            if front := re.match(r"---\s*\n(.*?)\n---\s*\n", text, re.S):
                return _yaml(front[1])
    return {}


def _yaml(text: str) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, Mapping) else {}
