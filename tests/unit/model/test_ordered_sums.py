"""Promises of linear layers whose sums have one order: exact chains, the same gradients."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ablation.model import ordered_sums
from ablation.model.checks.held import OtherInstructions
from ablation.model.ordered_sums import MOST_TERMS, OrderedLinear, order_sums
from ablation.vocabulary.instructions import environment

pytestmark = pytest.mark.skipif(not environment("avx2"), reason="no x86-64 processor")

CHAINS = """
import torch
from ablation.model.ordered_sums import OrderedLinear, order_sums

torch.manual_seed(0)
CASES = ((64, 128, (12, 83)), (128, 64, (3, 7)), (7, 2, (2,)), (100, 943, (130,)))
for inputs, outputs, shape in CASES:
    layer, states = torch.nn.Linear(inputs, outputs, bias=False), torch.randn(*shape, inputs)
    stock = layer(states)
    order_sums(layer)
    assert type(layer) is OrderedLinear
    chain = torch.zeros(*shape, outputs)
    for term in range(inputs):  # a product of two float32 is exact in float64
        product = states[..., term, None].double() * layer.weight[:, term].double()
        chain = (chain.double() + product).float()
    found = layer(states)
    print(inputs, outputs, (found == chain).double().mean().item())
    assert (found == chain).double().mean() > .999, "two roundings may differ from one in 2**29"
    torch.testing.assert_close(found, stock)
"""


def test_every_number_of_a_short_product_is_one_chain_of_fused_multiply_adds():
    """That is arithmetic, and the same on every processor; MKL's order is its own."""
    held = os.environ | environment("avx2")
    run = subprocess.run([sys.executable, "-c", CHAINS], env=held, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@given(
    st.sampled_from([1, 8, 64, MOST_TERMS, MOST_TERMS + 1]),
    st.sampled_from([1, 2, 65, MOST_TERMS + 1]),
    st.sampled_from([(1,), (5,), (2, 1), (3, 17), (0, 4)]),
    st.booleans(),
)
def test_a_layer_and_its_gradients_are_those_of_the_stock_layer(inputs, outputs, shape, bias):
    torch.manual_seed(0)
    stock, ordered = nn.Linear(inputs, outputs, bias), OrderedLinear(inputs, outputs, bias)
    ordered.load_state_dict(stock.state_dict())
    given_states = torch.randn(*shape, inputs)
    results = []
    for layer in (stock, ordered):
        states = given_states.clone().requires_grad_()
        found = layer(states)
        found.square().sum().backward()
        results.append([found, states.grad, *(weight.grad for weight in layer.parameters())])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_frozen_layer_gives_gradients_of_its_states_and_a_first_layer_of_its_weight():
    layer = OrderedLinear(8, 4)
    states = torch.randn(3, 8, requires_grad=True)
    layer.requires_grad_(False)(states).sum().backward()
    assert states.grad is not None and layer.weight.grad is None
    layer.requires_grad_()(states.detach()).sum().backward()
    assert layer.weight.grad is not None


def test_layers_of_other_dtypes_and_classes_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(ordered_sums, "_require_chains", lambda: None)

    class Own(nn.Linear):
        pass

    model = nn.ModuleList([nn.Linear(4, 4), Own(4, 4), nn.Linear(4, 4, dtype=torch.bfloat16)])
    order_sums(model)
    assert [type(layer) for layer in model] == [OrderedLinear, Own, nn.Linear]


def test_a_processor_on_which_sums_have_another_order_is_refused(monkeypatch):
    monkeypatch.setattr(
        ordered_sums,
        "_product",
        lambda states, weight: states.flip(-1).contiguous() @ weight.flip(-1).t(),
    )
    ordered_sums._require_chains.cache_clear()
    with pytest.raises(OtherInstructions, match="hardware.instructions to null"):
        order_sums(nn.Linear(4, 4))
    ordered_sums._require_chains.cache_clear()
