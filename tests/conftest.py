"""Fixtures of every folder of tests."""

import gc
import io
import socket
from importlib import resources

import pytest

CONTEXT = "https://w3id.org/ro/crate/1.1/context"

# In which order files begin: the micro study, then what takes long. What looks at the micro study
# on any worker is last, when it is made.
FIRST = """
test_micro_study test_bridge_pipeline test_any_model test_several_ranks
test_resume test_gpu_benchmark test_rehearsal_study test_hub_study
""".split()
LAST = ["test_provenance_study", "test_staleness"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests that share what a fixture of their file made stay together; long ones begin first.

    Without a group every worker would make it again.
    """
    for item in items:
        fixtures = [found[-1] for found in item._fixtureinfo.name2fixturedefs.values()]
        shares = any(fixture.scope == "module" for fixture in fixtures)
        if shares and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    place = {name: number for number, name in enumerate([*FIRST, "", *LAST])}
    items.sort(key=lambda item: place.get(item.path.stem, place[""]))


def pytest_collection_finish():
    """What was imported is there to stay: the garbage collector need not walk through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def crate_findings(tmp_path_factory, monkeypatch):
    """A function from a crate's folder to what roc-validator finds: (check, entity, message).

    The context of RO-Crate 1.1 comes from the `rocrate` package, by the validator's own cache;
    whoever asks the network for anything fails the test.
    """
    from requests import Response
    from requests.adapters import BaseAdapter
    from requests_cache import CachedSession
    from rocrate_validator.services import ValidationSettings, validate
    from urllib3 import HTTPResponse

    content = resources.files("rocrate").joinpath("data/ro-crate.jsonld").read_bytes()
    assert f'"@id": "{CONTEXT}"'.encode() in content[:200]

    class Shelf(BaseAdapter):
        def send(self, request, **_):
            answer = Response()
            answer.status_code, answer.url, answer.request = 200, request.url, request
            answer.headers["Content-Type"] = "application/ld+json"
            answer.raw = HTTPResponse(io.BytesIO(content), status=200, preload_content=False)
            return answer

        def close(self):
            pass

    cache = tmp_path_factory.mktemp("validator") / "http"
    with CachedSession(cache_name=str(cache), backend="sqlite", expire_after=-1) as session:
        session.mount("https://", Shelf())
        assert session.get(CONTEXT).content == content

    def refuse(*address, **_):
        raise AssertionError(f"the network was asked: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    def findings(folder, severity="REQUIRED"):
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


@pytest.fixture
def fake_vast():
    """A fake Vast (see tests/fakes/vast), one of its minutes a second; nothing of it is left."""
    from tests.fakes.vast import FakeVast, what_is_missing

    if missing := what_is_missing():
        pytest.skip(missing)
    with FakeVast(time_scale=60, limits=False) as fake:
        yield fake
