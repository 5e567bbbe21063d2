"""Promises of the fast paths on a GPU: they compute the same numbers as the plain ones."""

import copy
import weakref
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers.optimization import Adafactor

import ablation.model.output_head as head_module
from ablation.model.block_masks import BLOCK, SMALL, visible_blocks
from ablation.model.masks import rule, sees_ahead
from ablation.model.output_head import float32_logits, summed_cross_entropy, token_scores
from ablation.model.packing import NARROWEST, Example, fixed_rows, forwards, pack
from ablation.training.optimizers.master_weights import GradientSums
from ablation.training.optimizers.stochastic_adafactor import StochasticAdafactor
from ablation.vocabulary.masks import MASKS
from tests.support.tiny import ids, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")


# --- rows of few widths -------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(0, 256), max_size=60),
    capacity=st.sampled_from([256, 512, 1000, 4096]),
    widths=st.sampled_from([1, 4, 8]),
)
def test_fixed_rows_hold_everything_once_in_few_widths(lengths, capacity, widths):
    rows = list(fixed_rows(lengths, capacity, widths))
    assert sorted(i for members, _ in rows for i in members) == list(range(len(lengths)))
    for members, width in rows:
        used = sum(lengths[i] for i in members)
        assert used <= width < used + capacity / widths or width == NARROWEST or used == 0
    multiples = {capacity * n // widths for n in range(1, widths + 1)}
    assert {width for _, width in rows} <= {max(NARROWEST, width) for width in multiples}


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


@pytest.mark.parametrize("block", [BLOCK, SMALL])
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
def test_blocks_left_out_hold_no_visible_pair_and_full_ones_only_such(mask, block, sizes, padding):
    examples = [
        Example(
            ids(n, i), [ids(m, i) for m in (branches if mask != "full_bidir" else branches[:1])]
        )
        for i, (n, branches) in enumerate(sizes)
    ]
    length = sum(len(e.prompt) + sum(map(len, e.continuations)) for e in examples)
    rows = pack(examples, length, width=length + padding)
    part, full = visible_blocks(sees_ahead(mask, rows.branch), rows.doc, rows.branch, block)
    index = torch.arange(length + padding)
    zero = torch.zeros(1, 1, dtype=torch.long)
    function = rule(mask, rows.doc, rows.branch, rows.position_ids)
    pairs = function(zero, zero, index[:, None], index[None, :])
    short = -len(index) % block
    pairs = torch.nn.functional.pad(pairs, (0, short, 0, short))
    pairs = pairs.unflatten(0, (-1, block)).unflatten(2, (-1, block)).transpose(1, 2)
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


@pytest.mark.parametrize("targets", [0, 23])
def test_the_loss_reads_no_memory_that_was_not_written(targets, monkeypatch):
    monkeypatch.setitem(head_module.CHUNK, "cpu", 7 * 50)
    head = torch.nn.Linear(16, 50, bias=False)
    states = torch.randn(targets, 16, requires_grad=True)
    torch.use_deterministic_algorithms(True)  # what is not written is then not a number
    try:
        summed_cross_entropy(head, states, torch.randint(50, (targets,))).backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert head.weight.grad.isfinite().all() and states.grad.isfinite().all()
    assert (head.weight.grad != 0).any() == (targets > 0)


def test_a_packed_step_by_the_fast_loss_is_the_plain_step():
    examples = [Example(ids(5 + i, i), [ids(3 + i % 4, 50 + i)]) for i in range(9)]
    model = tiny_model("ministral3")
    from ablation.model.forward import last_states
    from ablation.training.trainer import summed_loss

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

TRAINERS = partial(Adafactor, scale_parameter=False, relative_step=False)  # as the Trainer has it
ADAFACTORS = (StochasticAdafactor, TRAINERS)


def gradient(shape, step):
    return torch.randn(shape, generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize("clip_threshold", [1.0, 0.1])  # of the norm, at its default and at work
@settings(max_examples=20, deadline=None)
@given(shape=st.lists(st.integers(1, 12), max_size=3))
def test_on_float32_weights_it_is_transformers_adafactor(shape, clip_threshold):
    start, found = torch.randn(shape, generator=torch.Generator().manual_seed(99)), []
    for kind in ADAFACTORS:
        weight = torch.nn.Parameter(start.clone())
        optimizer = kind([weight], lr=1e-2, weight_decay=0.1, clip_threshold=clip_threshold)
        for step in range(8):
            # large ones in between, so that the update's size is above the threshold
            weight.grad = gradient(shape, step) * (30.0 if step % 3 == 2 else 0.1)
            optimizer.step()
        found.append(weight.detach())
    assert (found[0] != start).any()
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


def test_a_weight_that_had_no_gradient_starts_when_it_has_one():
    found = []
    for kind in ADAFACTORS:
        late, other = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
        optimizer = kind([late, other], lr=1e-2)
        for step in range(6):
            late.grad = gradient((4, 4), step) if step > 3 else None
            other.grad = gradient((4, 4), step)
            optimizer.step()
        found.append(late.detach())
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(100_000,), (100, 1000), (10, 100, 100)])
def test_small_steps_move_bfloat16_weights_by_the_right_amount_in_expectation(shape):
    # A step of 2e-5 on a weight of 1 is 1/195 of the spacing below it: plainly rounded, nothing.
    weight = torch.nn.Parameter(torch.ones(shape, dtype=torch.bfloat16))
    optimizer = StochasticAdafactor([weight], lr=2e-5)
    for _ in range(20):
        weight.grad = torch.full(shape, 0.5)
        optimizer.step()
    moved = 1 - weight.float()
    assert moved.mean().item() == pytest.approx(20 * 2e-5, rel=0.05)
    spacing = 2.0**-8
    assert set(moved.unique().tolist()) <= {0.0, spacing, 2 * spacing, 3 * spacing}


def test_bfloat16_weights_follow_the_float32_ones():
    # Steps far below the spacing of most weights.
    start = gradient((64, 96), 99).bfloat16()
    exact, rounded = (torch.nn.Parameter(start.clone().to(d)) for d in (torch.float32, start.dtype))
    optimizer = StochasticAdafactor([exact, rounded], lr=2e-4, weight_decay=0.1)
    for step in range(100):
        exact.grad = rounded.grad = gradient((64, 96), step) + 1
        optimizer.step()
    wanted, found = exact.detach() - start, rounded.detach().float() - start.float()
    share = (found * wanted).sum() / wanted.square().sum()
    assert share.item() == pytest.approx(1, abs=0.05)


def test_a_resumed_optimizer_goes_on_with_the_same_bits():
    shapes = [(300,), (20, 15), (3, 10, 10)]

    def start(dtype):
        return [torch.nn.Parameter(gradient(shape, 9).to(dtype)) for shape in shapes]

    def train(steps, weights, optimizer):
        for step in steps:
            for weight in weights:
                weight.grad = gradient(weight.shape, step)
            optimizer.step()

    whole = start(torch.bfloat16)
    optimizer = StochasticAdafactor(whole, lr=1e-3)
    train(range(3), whole, optimizer)
    halves = [torch.nn.Parameter(weight.detach().clone()) for weight in whole]
    state = copy.deepcopy(optimizer.state_dict())
    train(range(3, 6), whole, optimizer)
    resumed = StochasticAdafactor(halves, lr=1e-3)
    resumed.load_state_dict(state)
    averages = [a for s in resumed.state.values() for a in s.values() if torch.is_tensor(a)]
    assert len(averages) == 5 and {a.dtype for a in averages} == {torch.float32}
    train(range(3, 6), halves, resumed)
    assert all(torch.equal(*pair) for pair in zip(halves, whole, strict=True))


@pytest.mark.parametrize("largest", [1e9, 0.7])  # never clipped, always clipped
def test_it_clips_as_clipping_before_transformers_adafactor_does(largest):
    shapes, found = [(), (9,), (5, 7), (2, 3, 4)], []
    for kind in ADAFACTORS:
        weights = [torch.nn.Parameter(gradient(shape, 99)) for shape in shapes]
        optimizer = kind(weights, lr=1e-2, weight_decay=0.1)
        norms = []
        for step in range(6):
            for weight in weights:
                weight.grad = gradient(weight.shape, step) * (1 + step)
            if kind is StochasticAdafactor:
                norms.append(optimizer.clip_grad_norm_(largest))
            else:
                norms.append(torch.nn.utils.clip_grad_norm_(weights, largest))
            optimizer.step()
        found.append([torch.stack(norms), *(weight.detach() for weight in weights)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_a_step_is_clipped_by_its_own_gradients_only():
    found = []
    for clipped in ((0, 1, 2), (1,)):
        weight = torch.nn.Parameter(torch.ones(4, 6))
        optimizer = StochasticAdafactor([weight], lr=1e-2)
        for step in range(3):
            weight.grad = gradient((4, 6), step)
            if step in clipped:
                optimizer.clip_grad_norm_(1e9 if step != 1 else 0.5)
            optimizer.step()
        found.append(weight.detach())
    assert torch.equal(*found)


# --- sums of gradients --------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(1, 5),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    told=st.integers(1, 2),
    aside=st.booleans(),
)
def test_gradients_add_up_in_float32_one_after_the_other(count, dtype, told, aside):
    weight = torch.nn.Parameter(torch.zeros(5, 7, dtype=dtype))
    for _ in range(told):  # twice is once: a model may get a second optimizer
        gradients = GradientSums([weight])
    for _ in range(2):  # steps
        total = torch.zeros(5, 7)
        for number in range(count):
            made = gradient((5, 7), number).to(dtype)
            with gradients.aside() if aside else nullcontext():
                assert not aside or dtype == torch.float32 or weight.grad is None
                (weight * made).sum().backward()
            total += made
        assert weight.grad.dtype == (dtype if count == 1 else torch.float32)
        assert torch.equal(weight.grad.float(), total)
        weight.grad = None


def test_the_first_gradient_is_kept_as_it_was_made():
    made = []

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, weight):
            return weight.sum()

        @staticmethod
        def backward(ctx, _):
            gradient = torch.ones(64, 64, dtype=torch.bfloat16)
            made.append(gradient.data_ptr())
            return gradient

    weight = torch.nn.Parameter(torch.zeros(64, 64, dtype=torch.bfloat16))
    GradientSums([weight])
    Product.apply(weight).backward()
    assert weight.grad.data_ptr() == made[0]  # not copied


def test_a_weight_without_a_further_gradient_keeps_its_sum():
    weights = [torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16)) for _ in range(2)]
    gradients = GradientSums(weights)
    for used in (weights, weights, weights[:1]):
        with gradients.aside():
            sum(weight.sum() for weight in used).backward()
    assert [weight.grad.tolist() for weight in weights] == [[3.0] * 4, [2.0] * 4]


def test_what_is_compiled_beside_sums_is_compiled_whole():
    layer = torch.nn.Linear(4, 4).bfloat16()
    gradients = GradientSums(layer.parameters())
    compiled = torch.compile(layer, backend="eager", fullgraph=True, dynamic=False)
    for width in (2, 3, 4, 5):  # of one step
        with gradients.aside():
            compiled(torch.ones(width, 4).bfloat16()).sum().backward()
    assert layer.bias.grad.dtype == torch.float32 and (layer.bias.grad == 14).all()


def test_a_weight_used_twice_has_one_gradient():
    tied, apart = (torch.nn.Parameter(torch.ones(8, dtype=torch.bfloat16)) for _ in range(2))
    GradientSums([tied])
    for weight in (tied, apart):  # 1 + 1/256 is 1 in bfloat16, as torch adds within a backward
        (weight.sum() + (weight / 256).sum()).backward()
    assert tied.grad.dtype == torch.bfloat16 and torch.equal(tied.grad, apart.grad)


def test_a_backward_that_failed_leaves_the_sum_as_it_was():
    weight = torch.nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    gradients = GradientSums([weight])
    weight.sum().backward()
    handle = weight.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError), gradients.aside():
        weight.sum().backward()
    handle.remove()
    with gradients.aside():
        weight.sum().backward()
    assert (weight.grad == 2).all()


def test_weights_with_sums_are_freed():
    weight = torch.nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    GradientSums([weight])
    weight.sum().backward()
    alive = weakref.ref(weight)
    del weight
    assert alive() is None
