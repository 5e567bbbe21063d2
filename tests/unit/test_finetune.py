"""Promises of finetuning: only responses count, a step is the same however it is packed."""

import json

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

import ablation.finetune as module
from ablation.alpaca import alpaca_prompt
from ablation.examples import read_examples, tokenize
from ablation.finetune import _smaller, finetune, mean_loss, summed_loss
from ablation.packing import pack
from ablation.precision import MasterWeights

HARDWARE = {"gpu": 0, "threads": 1, "dtype": "float32", "attention": "sdpa"}
RECIPE = {
    "train_mask": "prefill_bidir",
    "max_steps": 4,
    "batch_examples": 8,
    "micro_batch_examples": 8,
    "max_seq_len": 64,
    "row_tokens": None,
    "learning_rate": 1e-2,
    "weight_decay": 0.0,
    "warmup_steps": 1,
    "schedule": "linear",
    "optimizer": "adamw_torch",
    "adam_beta2": 0.98,
    "max_grad_norm": 1.0,
    "log_steps": 1,
    "save_steps": 100,
    "eval_steps": 2,
    "eval_samples": 8,
    "heldout_fraction": 0.1,
    "stops": {"no_learning": None, "plateau": None, "leak": None},
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def model(tokenizer):
    return tiny_model("ministral3", vocabulary=len(tokenizer))


def write_records(file):
    words = "red green blue cat dog sun moon tree".split()
    records = [
        {
            "instruction": f"Say {words[i % 8]}.",
            "input": words[i % 5] if i % 2 else "",
            "output": " ".join([words[i % 8]] * (1 + i % 4)),
        }
        for i in range(60)
    ]
    file.write_text("".join(json.dumps(r) + "\n" for r in records))


@pytest.fixture
def data(tmp_path):
    write_records(tmp_path / "data.jsonl")
    return tmp_path / "data.jsonl"


def run(model, tokenizer, data, tmp_path, seed=1, **changes):
    """(summary, curve, weights) of a training from a clean state."""
    state = tmp_path / f"state{len(list(tmp_path.iterdir()))}"
    tuned = finetune(
        lambda: (model, tokenizer), data, RECIPE | changes, seed, HARDWARE, "test", state
    )
    weights = {k: v.clone() for k, v in tuned.model.state_dict().items()}
    return tuned.summary, tuned.curve, weights


def test_prompt_starts_with_bos_and_response_ends_with_eos(tokenizer):
    record = {"instruction": "Say red.", "input": "", "output": "red"}
    example = tokenize(record, tokenizer, 64)
    assert example.prompt[0] == tokenizer.bos_token_id
    assert tokenizer.decode(example.prompt[1:]) == alpaca_prompt(record)
    (response,) = example.continuations
    assert response[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(response[:-1]) == " red"


def test_only_the_response_is_supervised(tokenizer):
    example = tokenize({"instruction": "Say.", "input": "", "output": "red red"}, tokenizer, 64)
    rows = pack([example], 64)
    supervised = rows.labels[rows.labels != -100].tolist()
    assert supervised == list(example.continuations[0])


def test_a_response_is_cut_and_an_example_without_any_is_dropped(tokenizer, data):
    record = {"instruction": "Say.", "input": "", "output": "red " * 50}
    length = len(tokenize(record, tokenizer, 10_000).prompt)
    assert len(tokenize(record, tokenizer, length + 3).continuations[0]) == 3
    assert tokenize(record, tokenizer, length) is None
    lengths = [len(tokenize(json.loads(line), tokenizer, 999).prompt) for line in data.open()]
    cut = sorted(lengths)[20]
    examples = read_examples(data, tokenizer, cut, 0.1, seed=1)
    assert examples.dropped == sum(n >= cut for n in lengths) > 0


def test_data_that_leave_nothing_to_train_on_are_refused(tokenizer, tmp_path):
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"instruction": "Say.", "input": "", "output": "red"}) + "\n")
    with pytest.raises(ValueError, match="one.jsonl: 1 records leave 1 examples"):
        read_examples(file, tokenizer, 64, 0.1, seed=1)


def test_the_seed_decides_what_is_held_out_and_nothing_is_lost(tokenizer, data):
    first, again, other = (read_examples(data, tokenizer, 64, 0.1, s) for s in (1, 1, 2))
    assert first == again and first.heldout != other.heldout

    def bag(e):
        return sorted((tuple(x.prompt), tuple(x.continuations[0])) for x in e.train + e.heldout)

    assert bag(first) == bag(other)


@pytest.mark.parametrize("mask", ["causal", "prefill_bidir", "full_bidir"])
def test_a_packed_step_equals_its_examples_one_by_one(model, tokenizer, data, mask):
    examples = read_examples(data, tokenizer, 64, 0.1, 1).train[:12]
    gradients = []
    for rows in ([pack(examples, 192)], [pack([e], 64) for e in examples]):
        model.zero_grad()
        losses = [summed_loss(model, r, mask) for r in rows]
        tokens = sum(n for _, n in losses)
        (sum(loss for loss, _ in losses) / tokens).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for packed, single in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, single, atol=2e-6, rtol=1e-4)


def test_the_micro_batch_does_not_change_the_step(tokenizer, data, tmp_path):
    # Responses differ in length: a mean over micro-batches instead of tokens would show.
    weights = []
    # Ten steps of 8 of 54 examples: an epoch ends on a step of 6 on the way.
    changes = {"max_steps": 10, "learning_rate": 1e-3}
    for size in (8, 2):
        model = tiny_model("ministral3", vocabulary=len(tokenizer))
        changes["micro_batch_examples"] = size
        weights.append(run(model, tokenizer, data, tmp_path, **changes)[2])
    for name, whole in weights[0].items():
        torch.testing.assert_close(weights[1][name], whole, atol=2e-5, rtol=1e-4)


def test_training_repeats_bit_for_bit_and_the_seed_moves_it(tokenizer, data, tmp_path):
    results = []
    for seed in (1, 1, 2):
        model = tiny_model("ministral3", vocabulary=len(tokenizer))
        results.append(run(model, tokenizer, data, tmp_path, seed=seed))
    (first, curve, weights), (again, curve2, weights2), (other, _, _) = results
    assert first == again and curve == curve2
    assert all(torch.equal(weights[k], weights2[k]) for k in weights)
    assert other["train_loss"] != first["train_loss"]


def test_training_learns_and_says_what_it_did(model, tokenizer, data, tmp_path):
    before = mean_loss(
        model, read_examples(data, tokenizer, 64, 0.1, 1).heldout, "prefill_bidir", 64, 8
    )
    summary, curve, _ = run(model, tokenizer, data, tmp_path, max_steps=30, eval_steps=10)
    assert summary["eval_loss"] < 0.7 * before
    assert summary["steps"] == 30 and summary["stop_reason"] == "max_steps"
    assert summary["train_leaks"] is False
    assert [p["step"] for p in curve if "eval_loss" in p] == [10, 20, 30]
    assert all("learning_rate" in p and "grad_norm" in p for p in curve if "loss" in p)


def test_the_leaky_recipe_is_labelled(model, tokenizer, data, tmp_path):
    summary, _, _ = run(model, tokenizer, data, tmp_path, train_mask="full_bidir", max_steps=1)
    assert summary["train_leaks"] is True


def failing(monkeypatch, fault, when):
    """`target_logits` meets `fault` in those training forwards that `when(count, rows)` names."""
    real, forwards = module.target_logits, []

    def faulty(model, rows, mask):
        logits = real(model, rows, mask)
        if torch.is_grad_enabled():
            forwards.append(rows)
            if when(len(forwards), rows):
                return fault(logits)
        return logits

    monkeypatch.setattr(module, "target_logits", faulty)


def out_of_memory(logits):
    raise torch.OutOfMemoryError


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_step(
    tokenizer, data, tmp_path, monkeypatch
):
    def train(name):
        return finetune(
            lambda: (tiny_model("ministral3", vocabulary=len(tokenizer)), tokenizer),
            data,
            RECIPE | {"max_steps": 6, "save_steps": 2, "learning_rate": 1e-3},
            1,
            HARDWARE,
            "test",
            tmp_path / name,
        )

    free = train("free")
    # From step 5 on four examples fit: steps 1 to 4 are as they were, the others in two halves.
    failing(monkeypatch, out_of_memory, lambda n, rows: n > 4 and int(rows.doc.max()) >= 4)
    short = train("short")
    assert free.record["micro_batch_examples"] == 8 and short.record["micro_batch_examples"] == 4
    assert short.record["resumes"] == [4]
    assert short.summary["recipe"] == free.summary["recipe"]
    for name, whole in free.model.state_dict().items():
        torch.testing.assert_close(short.model.state_dict()[name], whole, atol=2e-5, rtol=1e-4)


def test_out_of_memory_with_one_example_a_forward_is_an_error(
    model, tokenizer, data, tmp_path, monkeypatch
):
    failing(monkeypatch, out_of_memory, lambda n, rows: True)
    with pytest.raises(torch.OutOfMemoryError):
        run(model, tokenizer, data, tmp_path, micro_batch_examples=2)


@pytest.mark.parametrize("largest, smaller", [(24, 12), (8, 4), (6, 3), (3, 1), (2, 1)])
def test_smaller_micro_batches_fill_the_batch(largest, smaller):
    assert _smaller(largest, 24) == smaller


def test_a_loss_that_is_not_finite_ends_with_the_last_whole_state(
    tokenizer, data, tmp_path, monkeypatch
):
    recipe = {"schedule": "constant_with_warmup", "save_steps": 2}
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    good, _, weights = run(model, tokenizer, data, tmp_path, **recipe, max_steps=2)
    failing(monkeypatch, lambda logits: logits * float("nan"), lambda n, rows: n > 2)
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    summary, curve, saved = run(model, tokenizer, data, tmp_path, **recipe, max_steps=6)
    assert summary["stop_reason"] == "non_finite" and summary["steps"] == 2
    assert all(torch.equal(saved[name], whole) for name, whole in weights.items())
    told = ("eval_loss", "train_loss", "tokens", "epochs")
    assert {k: summary[k] for k in told} == {k: good[k] for k in told}
    assert [point["step"] for point in curve if point.get("loss", 0) is None] == [3]
    assert "NaN" not in json.dumps(curve)


def test_a_loss_that_is_never_finite_is_an_error(model, tokenizer, data, tmp_path, monkeypatch):
    failing(monkeypatch, lambda logits: logits * float("nan"), lambda n, rows: True)
    with pytest.raises(FloatingPointError, match="Lower learning_rate or save_steps"):
        run(model, tokenizer, data, tmp_path)


STOPPED = {  # what ends the training, at which step
    "no_learning": ({"no_learning": {"after_steps": 5, "min_improvement": 0.08}}, 1e-9, 5),
    "plateau": ({"plateau": {"patience": 2, "min_delta": 0.01, "min_steps": 4}}, 1e-9, 6),
}


@pytest.mark.parametrize("reason", STOPPED)
def test_a_training_that_gets_nowhere_stops_and_says_why(model, tokenizer, data, tmp_path, reason):
    rules, rate, step = STOPPED[reason]
    changes = {"learning_rate": rate, "max_steps": 30, "stops": RECIPE["stops"] | rules}
    summary, curve, _ = run(model, tokenizer, data, tmp_path, **changes)
    assert (summary["stop_reason"], summary["steps"]) == (reason, step)
    assert curve[-1]["step"] == step


@pytest.mark.parametrize("on_leak, steps", [("stop", 20), ("record", 40)])
def test_a_leaking_mask_raises_the_alarm(model, tokenizer, data, tmp_path, on_leak, steps):
    leak = {"ratio": 0.9, "min_gap": 0.05, "on_leak": on_leak}
    changes = {"max_steps": 40, "eval_steps": 20, "train_mask": "full_bidir"}
    changes["stops"] = RECIPE["stops"] | {"leak": leak}
    summary, _, _ = run(model, tokenizer, data, tmp_path, **changes)
    assert summary["steps"] == steps and summary["leak_alarms"][0] == 20
    assert summary["stop_reason"] == ("leak_alarm" if on_leak == "stop" else "max_steps")
    assert summary["probe_loss_train_mask"] < summary["probe_loss_causal"]


def test_a_class_that_cannot_save_itself_is_trained_and_resumed(tokenizer, data, tmp_path):
    def unable(*args, **kwargs):
        raise NotImplementedError

    def train(steps):
        model = tiny_model("ministral3", vocabulary=len(tokenizer))
        model.save_pretrained = unable
        recipe = RECIPE | {"schedule": "constant_with_warmup", "save_steps": 2, "max_steps": steps}
        state = tmp_path / "state"
        return finetune(lambda: (model, tokenizer), data, recipe, 1, HARDWARE, "test", state)

    assert train(2).record["resumes"] == []
    assert train(4).record["resumes"] == [2]


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "adafactor", "sgd", "adafactor_bf16"])
def test_every_optimizer_resumes_in_bfloat16_where_it_left(tokenizer, data, tmp_path, optimizer):
    def train(state, steps):
        def load():
            return tiny_model("ministral3", vocabulary=len(tokenizer)).bfloat16(), tokenizer

        recipe = RECIPE | {"optimizer": optimizer, "schedule": "constant_with_warmup"}
        recipe |= {"save_steps": 3, "max_steps": steps, "learning_rate": 1e-3}
        return finetune(load, data, recipe, 1, HARDWARE, "test", tmp_path / state)

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

    monkeypatch.setattr(module.Watch, "on_pre_optimizer_step", stepping)
    monkeypatch.setattr(module, "summed_loss", seen)
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

    monkeypatch.setattr(module.Watch, "on_pre_optimizer_step", stepping)
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
        changes |= {"optimizer": optimizer}
        weights = run(model, tokenizer, data, tmp_path, **changes)[2]
        deltas = [weights[name].float() - w.float() for name, w in start.state_dict().items()]
        moved[dtype] = torch.cat([delta.flatten() for delta in deltas])
    exact, kept = moved[torch.float32], moved[torch.bfloat16]
    assert torch.dot(exact, kept) / torch.dot(exact, exact) == pytest.approx(1, abs=0.1)
