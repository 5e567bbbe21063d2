"""Promises of what makes a GPU fast: it computes what the plain way computes."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import ids, tiny_model
from torch.nn.functional import cross_entropy

import ablation.head as head_module
from ablation.blocks import BLOCK, visible_blocks
from ablation.head import float32_logits, summed_cross_entropy, token_scores
from ablation.masks import MASKS, rule, sees_ahead
from ablation.packing import Example, fixed_rows, forwards, pack
from ablation.precision import StochasticAdamW


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


# --- rows of few widths -------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(0, 256), max_size=60),
    capacity=st.sampled_from([256, 512, 1000]),
    widths=st.sampled_from([1, 4, 8]),
)
def test_fixed_rows_hold_everything_once_in_few_widths(lengths, capacity, widths):
    rows = list(fixed_rows(lengths, capacity, widths))
    assert sorted(i for members, _ in rows for i in members) == list(range(len(lengths)))
    for members, width in rows:
        used = sum(lengths[i] for i in members)
        assert used <= width < used + capacity / widths or used == 0
    assert {width for _, width in rows} <= {capacity * n // widths for n in range(1, widths + 1)}


def test_a_long_batch_wastes_little():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(60, 400, (200,), generator=generator).tolist()
    rows = list(fixed_rows(lengths, 4096))
    assert sum(width for _, width in rows) < 1.02 * sum(lengths)
    assert {width for _, width in rows[:-1]} == {4096}


def test_an_example_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="takes 300 tokens, but a row holds 256"):
        list(fixed_rows([12, 300], 256))


# --- block masks --------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", MASKS)
@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 300), st.lists(st.integers(1, 200), min_size=1, max_size=3)),
        min_size=1,
        max_size=5,
    ),
    padding=st.integers(0, 200),
)
def test_blocks_left_out_hold_no_visible_pair_and_full_ones_only_such(mask, sizes, padding):
    examples = [
        Example(
            ids(n, i), [ids(m, i) for m in (branches if mask != "full_bidir" else branches[:1])]
        )
        for i, (n, branches) in enumerate(sizes)
    ]
    length = sum(len(e.prompt) + sum(map(len, e.continuations)) for e in examples)
    rows = pack(examples, length, width=length + padding)
    part, full = visible_blocks(sees_ahead(mask, rows.branch), rows.doc, rows.branch)
    index = torch.arange(length + padding)
    zero = torch.zeros(1, 1, dtype=torch.long)
    function = rule(mask, rows.doc, rows.branch, rows.position_ids)
    pairs = function(zero, zero, index[:, None], index[None, :])
    short = -len(index) % BLOCK
    pairs = torch.nn.functional.pad(pairs, (0, short, 0, short))
    pairs = pairs.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(1, 2)
    assert not (part & full).any()
    assert not (pairs.any(-1).any(-1) & ~part[0] & ~full[0]).any()
    assert pairs.all(-1).all(-1)[full[0]].all()


def test_blocks_of_one_long_prompt_are_full_and_far_examples_are_not_looked_at():
    rows = pack([Example(ids(512, 1), [ids(128, 2)]), Example(ids(512, 3), [ids(128, 4)])], 1280)
    part, full = visible_blocks(sees_ahead("prefill_bidir", rows.branch), rows.doc, rows.branch)
    assert full[0, :4, :4].all() and full[0, 4, :4].all() and full[0].sum() == 2 * 20
    assert torch.equal(part[0].nonzero(), torch.tensor([[4, 4], [9, 9]]))


# --- the head -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows_held", [1, 7, 100])
def test_loss_by_chunks_equals_the_whole_one_with_its_gradients(rows_held, monkeypatch):
    monkeypatch.setitem(head_module.CHUNK, "cpu", rows_held * 50)
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 50, bias=False)
    target = torch.randint(50, (23,))
    found = []
    for loss_of in (
        summed_cross_entropy,
        lambda head, states, target: cross_entropy(head(states), target, reduction="sum"),
    ):
        states = torch.randn(23, 16, generator=torch.Generator().manual_seed(1), requires_grad=True)
        head.zero_grad()
        loss = loss_of(head, states, target)
        (loss / 23).backward()
        found.append((loss.detach(), states.grad, head.weight.grad.clone()))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


def test_a_packed_step_by_the_fast_loss_is_the_plain_step():
    examples = [Example(ids(5 + i, i), [ids(3 + i % 4, 50 + i)]) for i in range(9)]
    model = tiny_model("ministral3")
    from ablation.finetune import summed_loss
    from ablation.models import last_states

    def fast(rows):
        states, head = last_states(model, rows, "prefill_bidir")
        states = states[rows.target_row, rows.target_position]
        return summed_cross_entropy(head, states, rows.target_id)

    gradients, losses = [], []
    for parts, loss_of in (
        (forwards(examples, 64, fixed=True), fast),
        (forwards(examples, 64, fixed=False), lambda r: summed_loss(model, r, "prefill_bidir")[0]),
    ):
        model.zero_grad()
        loss = sum(loss_of(rows) for rows in parts)
        loss.backward()
        losses.append(loss.detach())
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(*losses)
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


def test_token_scores_are_log_softmax_and_argmax():
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 40, bias=False)
    states = torch.randn(6, 8)
    row, token = torch.tensor([0, 0, 3, 5]), torch.tensor([3, 39, 0, 7])
    logits = head(states).detach()
    logprob, greedy = token_scores(float32_logits(head, states).detach(), row, token)
    torch.testing.assert_close(logprob, torch.log_softmax(logits, -1)[row, token])
    assert torch.equal(greedy, logits.argmax(-1)[row] == token)


# --- the optimizer ------------------------------------------------------------------------------


def test_on_float32_weights_it_is_adamw():
    torch.manual_seed(0)
    start, found = torch.randn(7, 5), []
    for kind in (StochasticAdamW, torch.optim.AdamW):
        weight = torch.nn.Parameter(start.clone())
        optimizer = kind([weight], lr=1e-2, betas=(0.9, 0.98), weight_decay=0.1)
        for step in range(5):
            generator = torch.Generator().manual_seed(step)
            weight.grad = torch.randn(7, 5, generator=generator)
            optimizer.step()
        found.append(weight.detach())
    torch.testing.assert_close(*found)


def test_small_steps_move_bfloat16_weights_by_the_right_amount_in_expectation():
    # A step of 2e-5 on a weight of 1 is 1/195 of the spacing below it: plainly rounded, nothing.
    weight = torch.nn.Parameter(torch.ones(100_000, dtype=torch.bfloat16))
    optimizer = StochasticAdamW([weight], lr=2e-5)
    for _ in range(20):
        weight.grad = torch.full_like(weight, 0.5)
        optimizer.step()
    moved = 1 - weight.float()
    assert moved.mean().item() == pytest.approx(20 * 2e-5, rel=0.05)
    spacing = 2.0**-8
    assert set(moved.unique().tolist()) <= {0.0, spacing, 2 * spacing, 3 * spacing}


def test_rounding_of_the_averages_is_unbiased():
    weight = torch.nn.Parameter(torch.zeros(50_000, dtype=torch.bfloat16))
    optimizer = StochasticAdamW([weight], lr=1e-9, betas=(0.9, 0.999))
    for _ in range(30):
        weight.grad = torch.full_like(weight, 0.3)
        optimizer.step()
    state, grad = optimizer.state[weight], float(weight.grad[0])
    assert state["exp_avg"].float().mean() == pytest.approx(grad * (1 - 0.9**30), rel=1e-3)
    expected = grad**2 * (1 - 0.999**30)
    assert state["exp_avg_sq"].float().mean() == pytest.approx(expected, rel=1e-3)


def test_a_resumed_optimizer_goes_on_with_the_same_bits():
    def train(steps, weight, optimizer):
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            weight.grad = torch.randn(300, generator=generator).bfloat16()
            optimizer.step()

    start = torch.randn(300, generator=torch.Generator().manual_seed(9)).bfloat16()
    whole = torch.nn.Parameter(start.clone())
    optimizer = StochasticAdamW([whole], lr=1e-3)
    train(range(3), whole, optimizer)
    half = torch.nn.Parameter(whole.detach().clone())
    state = copy.deepcopy(optimizer.state_dict())
    train(range(3, 6), whole, optimizer)
    resumed = StochasticAdamW([half], lr=1e-3)
    resumed.load_state_dict(state)
    train(range(3, 6), half, resumed)
    assert torch.equal(half, whole)
