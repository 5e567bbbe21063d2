"""What other programs may use: pausing the display, and reporting dollars."""

import threading
from contextlib import contextmanager

import pytest
from snakemake_logger_plugin_live import costs
from snakemake_logger_plugin_live.costs import Costs
from snakemake_logger_plugin_live.pause import live_display_paused, register_pause


@pytest.fixture
def events():
    """What a registered pause was asked to do, in order."""
    happened = []

    @contextmanager
    def pause():
        happened.append("paused")
        try:
            yield
        finally:
            happened.append("resumed")

    register_pause(pause)
    yield happened
    register_pause(None)


def test_without_a_display_a_pause_does_nothing():
    with live_display_paused():
        pass


def test_a_display_is_paused_once_however_deep_pauses_are_nested(events):
    with live_display_paused(), live_display_paused():
        assert events == ["paused"]
    assert events == ["paused", "resumed"]


def test_the_display_resumes_after_an_error(events):
    with pytest.raises(KeyboardInterrupt), live_display_paused():
        raise KeyboardInterrupt
    with live_display_paused():
        pass
    assert events == ["paused", "resumed"] * 2


def test_a_second_thread_waits_for_the_first_question(events):
    def ask():
        with live_display_paused():
            events.append("second question")

    with live_display_paused():
        other = threading.Thread(target=ask)
        other.start()
        other.join(timeout=0.2)
        assert events == ["paused"]
    other.join(timeout=10)
    assert events == ["paused", "resumed", "paused", "second question", "resumed"]


def test_a_display_that_has_gone_is_no_longer_paused(events):
    register_pause(None)
    with live_display_paused():
        pass
    assert events == []


class Source:
    """A source of costs whose answer, or error, the test sets."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_costs_are_those_since_the_start_over_all_sources():
    first, second = Source(5.0), Source(1)
    spent = Costs([first, second])
    assert spent.dollars() == 0.0
    first.answer, second.answer = 5.5, 3
    assert spent.dollars() == pytest.approx(2.5)
    assert Costs([]).dollars() == 0.0


@pytest.mark.parametrize("failure", [OSError("gone"), None, "text", float("nan"), float("inf")])
def test_a_source_that_fails_keeps_its_last_answer(failure):
    source = Source(5.0)
    spent = Costs([source])
    source.answer = 7.0
    assert spent.dollars() == 2.0
    source.answer = failure
    assert spent.dollars() == 2.0
    source.answer = 8.0
    assert spent.dollars() == 3.0


def test_a_source_that_fails_at_first_counts_from_its_first_answer():
    source = Source(OSError("not yet"))
    spent = Costs([source])
    source.answer = 9.0
    assert spent.dollars() == 0.0
    source.answer = 9.5
    assert spent.dollars() == 0.5


def test_sources_are_found_by_entry_points_and_broken_ones_are_left_out(tmp_path, monkeypatch):
    folder = tmp_path / "bills-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: bills\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        f"[{costs.GROUP}]\ngood = bills_module:spent\nbroken = no_such_module:spent\n"
    )
    (tmp_path / "bills_module.py").write_text("def spent():\n    return 2.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    ours = [source for source in costs.installed_sources() if source.__module__ == "bills_module"]
    assert [source() for source in ours] == [2.5]
