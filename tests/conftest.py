"""Fixtures of every folder of tests."""

import pytest


@pytest.fixture
def fake_vast():
    """A fake Vast (see tests/fakes/vast), one of its minutes a second; nothing of it is left."""
    from tests.fakes.vast import FakeVast, what_is_missing

    if missing := what_is_missing():
        pytest.skip(missing)
    with FakeVast(time_scale=60, limits=False) as fake:
        yield fake
