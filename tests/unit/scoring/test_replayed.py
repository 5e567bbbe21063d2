"""How forwards come to be replayed, with CUDA's calls replaced; tests/gpu has the real ones."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

from ablation.scoring.replayed import KEPT, Replayed
from tests.support.tiny import tiny_model


@pytest.fixture
def calls(monkeypatch):
    """What was called: a plain forward, one with waits as errors, a capture, a replay."""
    found, mode = [], ["default"]

    class Graph:
        def replay(self):
            found.append("replayed")

    @contextmanager
    def graph(captured, pool):
        before, mode[0] = mode[0], "captured"
        try:
            yield
        finally:
            mode[0] = before

    replaced = {
        "device": lambda device: nullcontext(),
        "graph_pool_handle": object,
        "current_stream": object,
        "set_stream": lambda stream: None,
        "empty_cache": lambda: found.append("emptied"),
        "get_sync_debug_mode": lambda: mode[0],
        "set_sync_debug_mode": lambda value: mode.__setitem__(0, value),
        "CUDAGraph": Graph,
        "graph": graph,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return found, mode


def forward(calls, fails=None, error=None):
    found, mode = calls

    def call():
        found.append(mode[0])
        if mode[0] == fails:
            raise error
        return len(found)

    return call


def test_a_key_that_returns_is_replayed(calls):
    replayed = Replayed(tiny_model("ministral3"), "scoring")
    results = [replayed("key", forward(calls)) for _ in range(5)]
    assert calls[0] == ["default", "error", "captured", "replayed", "replayed", "replayed"]
    assert results == [1, 2, 3, 3, 3]
    replayed("other", forward(calls))
    assert calls[0][-1] == "default"


def test_few_graphs_are_kept_and_none_after_clear(calls):
    replayed = Replayed(tiny_model("ministral3"), "scoring")
    for key in range(KEPT + 1):
        for _ in range(3):
            replayed(key, forward(calls))
    replayed(0, forward(calls))
    assert calls[0][-2:] == ["captured", "replayed"]  # the first graph was given up
    replayed.clear()
    replayed(0, forward(calls))
    assert calls[0][-1] == "default"


def test_a_model_that_waits_is_called_plainly_for_good(calls, capsys):
    model, waits = tiny_model("ministral3"), RuntimeError("a wait\nmore")
    for _ in range(2):
        replayed = Replayed(model, "scoring")
        for _ in range(3):
            replayed("key", forward(calls, "error", waits))
    assert calls[0] == ["default", "error", *["default"] * 5]
    assert capsys.readouterr().err == "scoring without CUDA graphs: a wait\n"


def test_too_little_memory_for_a_graph_is_not_remembered_of_the_model(calls, capsys):
    model, short = tiny_model("ministral3"), torch.OutOfMemoryError("out of memory")
    replayed = Replayed(model, "scoring")
    for _ in range(4):
        replayed("key", forward(calls, "captured", short))
    assert calls[0] == ["default", "error", "captured", "emptied", "default", "default"]
    assert capsys.readouterr().err.count("scoring without CUDA graphs: out of memory") == 1
    again = Replayed(model, "scoring")
    for _ in range(3):
        again("key", forward(calls))
    assert calls[0][-2:] == ["captured", "replayed"]


def test_a_forward_that_lacks_memory_itself_says_so(calls):
    replayed = Replayed(tiny_model("ministral3"), "scoring")
    replayed("key", forward(calls))
    with pytest.raises(torch.OutOfMemoryError):
        replayed("key", forward(calls, "error", torch.OutOfMemoryError("out of memory")))
    assert calls[1] == ["default"]
