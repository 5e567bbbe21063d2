"""For tests of crates: a fixture that validates without a network, and readers of entities.

The fixture needs the extra `test`.
"""

import io
import socket
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

CONTEXT = "https://w3id.org/ro/crate/1.1/context"

Finding = tuple[str, str | None, str | None]  # the check, the entity, the message


@pytest.fixture
def crate_findings(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Finding]]:
    """A function from a crate's folder to what roc-validator finds in it.

    The context of RO-Crate 1.1 comes from the package `rocrate`, by the validator's own cache;
    a test fails if anything connects to the network.
    """
    from requests import Response
    from requests.adapters import BaseAdapter
    from requests_cache import CachedSession
    from rocrate_validator.services import ValidationSettings, validate
    from urllib3 import HTTPResponse

    content = resources.files("rocrate").joinpath("data/ro-crate.jsonld").read_bytes()
    assert f'"@id": "{CONTEXT}"'.encode() in content[:200]

    class Shelf(BaseAdapter):
        def send(self, request, **_):  # type: ignore[no-untyped-def, override]
            answer = Response()
            answer.status_code, answer.url, answer.request = 200, request.url, request
            answer.headers["Content-Type"] = "application/ld+json"
            answer.raw = HTTPResponse(io.BytesIO(content), status=200, preload_content=False)
            return answer

        def close(self) -> None:
            pass

    cache = tmp_path_factory.mktemp("validator") / "http"
    with CachedSession(cache_name=str(cache), backend="sqlite", expire_after=-1) as session:
        session.mount("https://", Shelf())
        assert session.get(CONTEXT).content == content

    def refuse(*address: object, **_: object) -> None:
        raise AssertionError(f"a connection to the network was opened: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    def findings(folder: str | Path, severity: str = "REQUIRED") -> list[Finding]:
        result = validate(
            ValidationSettings(
                rocrate_uri=str(folder),
                profile_identifier="provenance-run-crate-0.5",
                requirement_severity=severity,
                offline=True,
                cache_path=cache,
            )
        )
        return [(i.check.identifier, i.violatingEntity, i.message) for i in result.get_issues()]

    return findings


def references(value: object) -> set[str]:
    """The @id of every entity that a value refers to."""
    if isinstance(value, dict):
        return {value["@id"]} if "@id" in value else set().union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def figures(
    entities: dict[str, dict[str, Any]], action: dict[str, Any]
) -> dict[str, tuple[Any, str]]:
    """{figure: (value, unit)} of an action's resource usage."""
    used = [entities[name] for name in sorted(references(action["resourceUsage"]))]
    return {e["propertyID"]: (e["value"], e["unitCode"].rpartition("/")[2]) for e in used}
