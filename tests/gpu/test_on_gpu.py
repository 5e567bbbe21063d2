"""Promises on a CUDA device: compiled flex attention equals dense masks, and nothing waits."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from dataclasses import replace

from gpu_training import timed_recipe
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import TrainerCallback
from workload import TOY, as_ids, make_items, make_model, make_samples, make_tokenizer

from ablation.model.forward import target_logits
from ablation.model.leak_audit import leak_audit
from ablation.model.masks import TakenWindow, forward_inputs, rule, take_window
from ablation.model.output_head import score_rows
from ablation.model.packing import Example, forwards, pack
from ablation.scoring.masked_lm import MaskedLM
from ablation.training.early_stopping import Stops
from ablation.training.optimizers.master_weights import GradientSums
from ablation.training.optimizers.stochastic_adafactor import StochasticAdafactor
from ablation.training.trainer import MaskedTrainer, summed_loss
from ablation.training.trainer_arguments import custom_optimizer, training_arguments
from ablation.vocabulary.masks import MASK, MASKS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU = {"gpu": 1, "attention": "flex_attention", "compile": True}
SIZE = replace(
    TOY,
    shape=TOY.shape.model_copy(update={"vocabulary": 4096}),
    hardware=TOY.hardware.model_copy(update=GPU),
)


@pytest.fixture(scope="module")
def fast():
    return make_model(SIZE)


@pytest.fixture(scope="module")
def plain():
    return make_model(SIZE, "sdpa")


@pytest.fixture(autouse=True)
def exact_products():
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("mask", MASKS)
def test_scores_of_long_compiled_rows_are_those_of_dense_masks(fast, plain, mask):
    tokenizer, ids = make_tokenizer(SIZE), as_ids(make_items(SIZE, 40))
    found = MaskedLM(fast, tokenizer, mask=mask, row_tokens=None)._loglikelihood_tokens(ids)
    expected = MaskedLM(plain, tokenizer, mask=mask)._loglikelihood_tokens(ids)
    for (ours, greedy), (theirs, theirs_greedy) in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-2) and greedy == theirs_greedy


@torch.no_grad()
@pytest.mark.parametrize("window", [None, TakenWindow(300, "prefill")])
@pytest.mark.parametrize("mask", MASKS)
def test_attention_in_small_blocks_is_that_of_a_dense_mask(mask, window):
    size = replace(SIZE, hardware=SIZE.hardware.model_copy(update={"dtype": "bfloat16"}))
    items = make_items(size, 24) + make_items(size, 1, prompt=700)
    if MASK[mask].leaks:
        items = [Example(item.prompt, item.continuations[:1]) for item in items]
    rows = pack(items, 8192, width=8192).to("cuda")
    random = torch.Generator("cuda").manual_seed(0)
    q, k, v = (
        torch.randn(1, heads, 8192, 128, device="cuda", generator=random).bfloat16()
        for heads in (8, 2, 2)
    )
    model = make_model(size)
    if window:
        take_window(model, window)
    inputs = forward_inputs(model, mask, rows)
    blocks, options = inputs["attention_mask"], inputs["kernel_options"]
    assert blocks.BLOCK_SIZE == (64, 64)
    found = torch.compile(flex_attention)(
        q, k, v, block_mask=blocks, enable_gqa=True, kernel_options=options
    )
    index = torch.arange(8192, device="cuda")
    zero = index.new_zeros(1, 1)
    dense = rule(mask, rows.doc, rows.branch, rows.position_ids, taken=window)(
        zero, zero, index[:, None], index[None, :]
    )
    expected = scaled_dot_product_attention(
        *(x.float() for x in (q, k, v)), attn_mask=dense, enable_gqa=True
    )
    assert (found - expected).abs().max() < 3e-2


@pytest.mark.parametrize("shape", [(1, 5), (3, 1024), (7, 50_001), (2048, 131_072)])
def test_log_sum_exp_and_argmax_in_one_pass_are_those_of_torch(shape):
    from ablation.model.output_head_triton import normalizers  # needs Triton

    logits = 5 * torch.randn(shape, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    logits[-1] = -torch.inf
    logits[-1, shape[1] // 2 :] = 7.0  # the first of equals counts
    logits[0, 0] = torch.nan
    normalizer, best = normalizers(logits)
    torch.testing.assert_close(normalizer, logits.logsumexp(-1), equal_nan=True)
    assert normalizer[0].isnan() and best[1:].tolist() == logits.argmax(-1)[1:].tolist()
    assert best[-1] == shape[1] // 2 or shape[0] == 1


@pytest.mark.parametrize("mask", MASKS)
def test_the_compiled_model_obeys_its_mask(fast, mask):
    assert leak_audit(fast, mask).leaks == MASK[mask].leaks


def test_loss_and_gradients_are_those_of_dense_masks_and_all_logits(fast, plain):
    samples, gradients, losses = make_samples(SIZE, 12), [], []
    for model in (fast, plain):
        model.train().zero_grad()
        total = 0.0
        for rows in forwards(samples, 1024, fixed=model is fast):
            rows = rows.to("cuda")
            if model is fast:
                loss, _ = summed_loss(model, rows, "prefill_bidir")
            else:
                logits = target_logits(model, rows, "prefill_bidir")
                loss = cross_entropy(logits, rows.target_id, reduction="sum")
            (loss / 1000).backward()
            total += loss.item()
        gradients.append([p.grad.clone() for p in model.parameters()])
        losses.append(total)
        model.eval().zero_grad()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()


def test_scoring_a_row_never_waits_for_the_gpu(fast):
    rows = pack(make_items(SIZE, 3), 1024, keep_last=False, width=1024)
    score_rows(fast, rows, "prefill_bidir")
    torch.cuda.set_sync_debug_mode("error")
    try:
        score_rows(fast, rows, "prefill_bidir")
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Watch(TrainerCallback):
    """No host synchronization from the beginning of step `first` to the end of the last."""

    def __init__(self, first: int):
        self.first, self.watched = first, 0

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 >= self.first:
            torch.cuda.set_sync_debug_mode("error")
            self.watched += 1

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == args.max_steps:
            torch.cuda.set_sync_debug_mode("default")


def test_a_training_step_never_waits_for_the_gpu(tmp_path):
    size = replace(SIZE, hardware=SIZE.hardware.model_copy(update={"dtype": "bfloat16"}))
    model, watch, recipe = make_model(size), Watch(4), timed_recipe(7, 8)
    arguments = training_arguments(recipe, 0, size.hardware, tmp_path, 8)
    arguments.save_strategy = arguments.eval_strategy = "no"
    trainer = MaskedTrainer(
        model=model,
        args=arguments,
        train_dataset=make_samples(SIZE, 64, length=100),
        optimizer_cls_and_kwargs=custom_optimizer(recipe),
        recipe=recipe,
        row_tokens=1024,
        probe=[],
        stops=Stops(),
        callbacks=[watch],
    )
    embeddings = model.get_input_embeddings().weight
    before = embeddings.detach().clone()
    try:
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert watch.watched == 4
    assert (embeddings != before).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("made", [torch.float32, torch.bfloat16])  # gradients
def test_the_optimizer_is_the_plain_one(dtype, made):
    shapes = [
        (40_000, 96),
        (96, 96),
        (33, 257),
        (130, 9216),
        (4, 33, 65),
        (1, 5),
        (3072,),
        (7,),
        (),
    ]
    weights, averages, norms = {}, {}, {}
    for device in ("cuda", "cpu"):
        random = torch.Generator().manual_seed(0)
        start = [torch.randn(shape, generator=random).to(dtype) for shape in shapes]
        weights[device] = [torch.nn.Parameter(weight.to(device, copy=True)) for weight in start]
        for weight in weights[device]:
            weight.grad_dtype = None
        optimizer = StochasticAdafactor(weights[device], lr=1e-2, weight_decay=0.1)
        norms[device] = []
        for step in range(4):  # ever larger gradients, so that updates are clipped
            for weight in weights[device]:
                gradient = torch.randn(weight.shape, generator=random) * 10.0**step
                weight.grad = gradient.to(made).to(device)
            if step > 1:
                norms[device].append(float(optimizer.clip_grad_norm_(10.0)))
            optimizer.step()
        states = optimizer.state.values()
        averages[device] = [a for state in states for a in state.values() if torch.is_tensor(a)]
    assert norms["cuda"] == pytest.approx(norms["cpu"], rel=1e-5)
    for ours, plain in zip(averages["cuda"], averages["cpu"], strict=True):
        torch.testing.assert_close(ours.cpu(), plain, rtol=1e-5, atol=0)
    for ours, plain, first in zip(weights["cuda"], weights["cpu"], start, strict=True):
        ours, plain = ours.detach().cpu(), plain.detach()
        assert (plain != first).any()
        if dtype == torch.float32:
            torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)
        else:  # a sum right at the cut may be cut on the other side: one spacing, and seldom
            torch.testing.assert_close(ours, plain, rtol=2**-7, atol=1e-3)
            assert (ours != plain).float().mean() < 1e-3


def test_the_optimizer_repeats_to_the_bit():
    found = []
    for _ in range(2):
        random = torch.Generator().manual_seed(0)
        shapes = [(20_000, 96), (300, 4000), (3072,)]
        weights = [
            torch.nn.Parameter(torch.randn(shape, generator=random).bfloat16().cuda())
            for shape in shapes
        ]
        optimizer = StochasticAdafactor(weights, lr=1e-2)
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=random).bfloat16().cuda()
            optimizer.clip_grad_norm_(1.0)
            optimizer.step()
        found.append(weights + [a for s in optimizer.state.values() for a in s.values()])
    for once, again in zip(*found, strict=True):
        assert torch.equal(torch.as_tensor(once), torch.as_tensor(again))


def test_gradients_of_a_compiled_model_add_up_in_float32():
    size = replace(SIZE, hardware=SIZE.hardware.model_copy(update={"dtype": "bfloat16"}))
    model = make_model(size).train()
    gradients = GradientSums(model.parameters())
    samples, total = make_samples(size, 12), {}
    kept = list(forwards(samples, 896, fixed=True))
    assert len({rows.input_ids.shape[1] for rows in kept}) > 1  # one is compiled beside gradients
    counters.clear()
    for rows in kept:
        with gradients.aside():
            (summed_loss(model, rows.to("cuda"), "prefill_bidir")[0] / 1000).backward()
    assert not counters["graph_break"]
    sums = {weight: weight.grad for weight in model.parameters()}
    for rows in kept:
        model.zero_grad()
        (summed_loss(model, rows.to("cuda"), "prefill_bidir")[0] / 1000).backward()
        for weight in model.parameters():
            assert weight.grad.dtype == torch.bfloat16
            total[weight] = total.get(weight, 0) + weight.grad.float()
    for weight, found in sums.items():
        assert found.dtype == torch.float32
        assert (found - total[weight]).norm() < 1e-2 * total[weight].norm()
