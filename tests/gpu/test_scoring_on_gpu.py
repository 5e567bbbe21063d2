"""Promises of scoring on a CUDA device: rows replayed as graphs have the bits of plain forwards."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from dataclasses import replace

from workload import TOY, as_ids, make_items, make_model, make_tokenizer

from ablation.scoring import replayed
from ablation.scoring.masked_lm import MaskedLM
from ablation.vocabulary.masks import MASKS
from tests.support.captures import captures

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU = {"gpu": 1, "attention": "flex_attention", "compile": True, "dtype": "bfloat16"}
SIZE = replace(
    TOY,
    shape=TOY.shape.model_copy(update={"vocabulary": 4096}),
    hardware=TOY.hardware.model_copy(update=GPU),
)
ITEMS = as_ids(make_items(SIZE, 60))


@pytest.fixture
def model():
    return make_model(SIZE)


def waiting(module, inputs, out):
    out[0].sum().item()


def scores(model, mask="causal"):
    lm = MaskedLM(model, make_tokenizer(SIZE), mask=mask, row_tokens=512)
    return lm._loglikelihood_tokens(ITEMS)


@pytest.mark.parametrize("mask", MASKS)
def test_replayed_rows_have_the_bits_of_plain_forwards(model, mask, monkeypatch):
    found = captures(monkeypatch)
    with_graphs = scores(model, mask)
    assert len(found) == 1 and all(found)
    monkeypatch.setattr(replayed, "LARGE", 0)
    assert scores(model, mask) == with_graphs and len(found) == 1


def test_new_weights_are_read_by_the_next_scoring(model, monkeypatch):
    before = scores(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.data = weight.data * 1.01  # in other memory
    found = scores(model)
    monkeypatch.setattr(replayed, "LARGE", 0)
    assert found == scores(model) != before


def test_rows_of_a_forward_that_waits_are_not_replayed(model, monkeypatch, capsys):
    expected, found = scores(model), captures(monkeypatch)
    model.get_decoder().register_forward_hook(waiting)
    for _ in range(2):
        assert scores(model) == expected
    assert not found and capsys.readouterr().err.count("scoring without CUDA graphs") == 1
    assert torch.cuda.get_sync_debug_mode() == 0


def test_a_capture_that_lacks_memory_ends_graphs_and_no_scoring(model, monkeypatch, capsys):
    expected, found = scores(model), captures(monkeypatch)
    real, calls = replayed.last_states, []

    def short(*arguments):
        calls.append(arguments)
        if len(calls) == 3:  # after a plain one and a tried one
            raise torch.OutOfMemoryError
        return real(*arguments)

    monkeypatch.setattr(replayed, "last_states", short)
    assert scores(model) == expected
    assert found == [None] and "scoring without CUDA graphs" in capsys.readouterr().err
