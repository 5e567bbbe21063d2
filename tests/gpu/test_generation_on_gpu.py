"""Promises of decoding on a CUDA device: steps replayed as graphs give the texts of plain ones."""

import random

import pytest
import torch

from ablation.scoring.generation import decoding_step
from ablation.scoring.generation.decoding_audit import decoding_audit
from ablation.scoring.generation.greedy import GreedyDecoder
from tests.support.captures import captures
from tests.support.tiny import tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SEED = random.Random(0)
PROMPTS = [[SEED.randrange(3, 320) for _ in range(length)] for length in (61, 9, 40, 5, 33, 17, 60)]


def waiting(module, args, out):
    out.sum().item()


def texts(model, mask):
    ends = lambda tokens: tokens[-1] % 16 == 0  # noqa: E731  # some end early, some never
    return GreedyDecoder(model, mask, slots=3).run(PROMPTS, 40, ends)


@pytest.fixture
def captured(monkeypatch):
    monkeypatch.setattr(decoding_step, "COLUMNS", 16)  # several graphs for short texts
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    return captures(monkeypatch)


@pytest.mark.parametrize("mask", ["causal", "prefill_bidir"])
@pytest.mark.parametrize("name", ["ministral3", "qwen3_sliding"])
def test_replayed_steps_give_the_texts_of_a_cpu(name, mask, captured):
    special = {"sliding_window": 9} if name == "qwen3_sliding" else {}
    model = tiny_model(name, vocabulary=320, **special)
    expected = texts(model, mask)
    assert len({text.ended for text in expected}) == 2  # so that slots are refilled and given up
    assert texts(model.to("cuda"), mask) == expected
    assert len(captured) > 2 and all(captured)
    decoding_audit(model, mask)


def test_a_forward_that_waits_for_the_gpu_is_not_replayed(captured, capsys):
    model = tiny_model("ministral3", vocabulary=320)
    expected = texts(model, "causal")
    model.to("cuda").lm_head.register_forward_hook(waiting)
    assert texts(model, "causal") == expected
    assert not captured
    assert capsys.readouterr().err.count("decoding without CUDA graphs") == 1
    assert torch.cuda.get_sync_debug_mode() == 0
