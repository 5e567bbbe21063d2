"""Promises of training in bfloat16: no update and no gradient is rounded away."""

import pytest
import torch

from ablation.training import trainer
from ablation.training.callbacks import Watch
from ablation.training.finetune import finetune
from ablation.training.optimizers.master_weights import MasterWeights
from ablation.training.trainer import summed_loss
from ablation.vocabulary.optimizers import OPTIMIZERS
from tests.support.small_training import HARDWARE, recipe, run
from tests.support.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_resumes_in_bfloat16_where_it_left(tokenizer, data, tmp_path, optimizer):
    def train(state, steps):
        def load():
            return tiny_model("ministral3", vocabulary=len(tokenizer)).bfloat16(), tokenizer

        chosen = {"optimizer": optimizer, "schedule": "constant_with_warmup"}
        chosen |= {"save_steps": 3, "max_steps": steps, "learning_rate": 1e-3}
        return finetune(load, data, recipe(**chosen), 1, HARDWARE, "test", tmp_path / state)

    train("resumed", 3)
    resumed, straight = train("resumed", 8), train("straight", 8)
    assert resumed.record["resumes"] == [3]
    losses = [[p for p in tuned.curve if "loss" in p] for tuned in (resumed, straight)]
    assert losses[0] == losses[1]
    weights = straight.model.state_dict()
    assert all(torch.equal(w, weights[name]) for name, w in resumed.model.state_dict().items())


def test_a_constant_gradient_moves_a_bfloat16_weight_by_the_right_amount():
    rounded = torch.nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    kept = torch.nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    plain = torch.optim.SGD([rounded], lr=2e-5)
    exact = MasterWeights(torch.optim.SGD([kept], lr=2e-5))
    for _ in range(2000):
        for weight, optimizer in ((rounded, plain), (kept, exact)):
            weight.sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert (rounded == 1).all()  # every single update was rounded away
    assert torch.allclose(kept.float(), torch.tensor(1 - 2000 * 2e-5), atol=2**-9)


def test_micro_gradients_of_bfloat16_weights_add_up_in_float32():
    # In bfloat16 the sum would stay at a half: 1/512 is half of the spacing there.
    weight = torch.nn.Parameter(torch.zeros(8, dtype=torch.bfloat16))
    optimizer = MasterWeights(torch.optim.SGD([weight], lr=1.0))
    for _ in range(512):
        (weight / 512).sum().backward()
    optimizer.step()
    assert (weight == -1).all()


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "adafactor_bf16"])
@pytest.mark.parametrize("size", [8, 1])
def test_a_bfloat16_step_is_the_float32_sum_of_its_micro_batches(
    tokenizer, data, tmp_path, monkeypatch, size, optimizer
):
    stepped, batches = {}, []

    def stepping(self, args, state, control, model=None, **kwargs):
        stepped.update({weight: weight.grad.clone() for weight in model.parameters()})

    def seen(model, rows, mask):
        if torch.is_grad_enabled():
            batches.append(rows)
            assert all(weight.grad is None for weight in model.parameters())  # else not compiled
        return summed_loss(model, rows, mask)

    monkeypatch.setattr(Watch, "on_pre_optimizer_step", stepping)
    monkeypatch.setattr(trainer, "summed_loss", seen)
    model = tiny_model("ministral3", vocabulary=len(tokenizer)).bfloat16()
    changes = {"batch_examples": 48, "micro_batch_examples": size, "max_grad_norm": 0.0}
    changes |= {"max_steps": 1, "optimizer": optimizer}  # of warm-up: no weight moves
    run(model, tokenizer, data, tmp_path, **changes)

    expected = {weight: torch.zeros(weight.shape) for weight in model.parameters()}
    tokens = sum(len(rows.target_id) for rows in batches)
    for rows in batches:
        model.zero_grad()
        (summed_loss(model, rows, "prefill_bidir")[0] / tokens).backward()
        for weight, total in expected.items():
            total += weight.grad
    assert len(batches) == 48 // size
    for weight, total in expected.items():
        assert stepped[weight].dtype == torch.float32
        torch.testing.assert_close(stepped[weight], total, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "adafactor_bf16"])
@pytest.mark.parametrize("size", [8, 4])  # one forward a step, two
def test_bfloat16_gradients_are_clipped_in_float32(
    tokenizer, data, tmp_path, monkeypatch, size, optimizer
):
    norms = []

    def stepping(self, args, state, control, model=None, **kwargs):
        gradients = [weight.grad.double() for weight in model.parameters()]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())

    monkeypatch.setattr(Watch, "on_pre_optimizer_step", stepping)
    model = tiny_model("ministral3", vocabulary=len(tokenizer)).bfloat16()
    changes = {"optimizer": optimizer, "micro_batch_examples": size, "max_grad_norm": 0.01}
    _, curve, _ = run(model, tokenizer, data, tmp_path, **changes)
    found = [point["grad_norm"] for point in curve if "loss" in point]
    if optimizer == "adafactor_bf16":  # which clips as it steps: here gradients are whole
        assert norms == pytest.approx(found, rel=1e-5)
    else:
        assert norms == pytest.approx([0.01] * 4, rel=1e-4)
    assert min(found) > 0.1


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "adafactor_bf16"])
def test_a_bfloat16_training_follows_the_float32_one(tokenizer, data, tmp_path, optimizer):
    # 40 steps of 1e-4: far below the spacing of bfloat16 weights of this size.
    start = tiny_model("ministral3", vocabulary=len(tokenizer)).bfloat16()
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model("ministral3", vocabulary=len(tokenizer)).bfloat16().to(dtype)
        changes = {"max_steps": 40, "learning_rate": 1e-4, "schedule": "constant_with_warmup"}
        changes |= {"optimizer": optimizer, "eval_steps": 40}
        weights = run(model, tokenizer, data, tmp_path, **changes)[2]
        deltas = [weights[name].float() - w.float() for name, w in start.state_dict().items()]
        moved[dtype] = torch.cat([delta.flatten() for delta in deltas])
    exact, kept = moved[torch.float32], moved[torch.bfloat16]
    assert torch.dot(exact, kept) / torch.dot(exact, exact) == pytest.approx(1, abs=0.1)
