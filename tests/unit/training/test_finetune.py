"""Promises of finetuning: only responses count, and packing does not change a step."""

import json

import pytest
import torch

from ablation.data.alpaca import alpaca_prompt
from ablation.model.packing import pack
from ablation.training import trainer
from ablation.training.examples import read_examples, tokenize
from ablation.training.finetune import _smaller, finetune
from ablation.training.trainer import mean_loss, summed_loss
from tests.support.small_training import HARDWARE, recipe, run
from tests.support.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model(tokenizer):
    return tiny_model("ministral3", vocabulary=len(tokenizer))


def test_prompt_starts_with_bos_and_response_ends_with_eos(tokenizer):
    record = {"instruction": "Say red.", "input": "", "output": "red"}
    (example,) = tokenize([record], tokenizer, 64)
    assert example.prompt[0] == tokenizer.bos_token_id
    assert tokenizer.decode(example.prompt[1:]) == alpaca_prompt(record)
    (response,) = example.continuations
    assert response[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(response[:-1]) == " red"


def test_only_the_response_is_supervised(tokenizer):
    record = {"instruction": "Say.", "input": "", "output": "red red"}
    (example,) = tokenize([record], tokenizer, 64)
    rows = pack([example], 64)
    supervised = rows.labels[rows.labels != -100].tolist()
    assert supervised == list(example.continuations[0])


def test_a_response_is_cut_and_an_example_without_any_is_dropped(tokenizer, data):
    record = {"instruction": "Say.", "input": "", "output": "red " * 50}
    (whole,) = tokenize([record], tokenizer, 10_000)
    length = len(whole.prompt)
    (cut,) = tokenize([record], tokenizer, length + 3)
    assert len(cut.continuations[0]) == 3
    assert list(tokenize([record], tokenizer, length)) == [None]
    records = [json.loads(line) for line in data.open()]
    lengths = [len(example.prompt) for example in tokenize(records, tokenizer, 999)]
    cut = sorted(lengths)[20]
    examples = read_examples(data, tokenizer, cut, 0.1, seed=1)
    assert examples.dropped == sum(n >= cut for n in lengths) > 0


def test_data_without_an_example_to_train_on_are_refused(tokenizer, tmp_path):
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"instruction": "Say.", "input": "", "output": "red"}) + "\n")
    with pytest.raises(ValueError, match="one.jsonl: 1 records leave 0 examples to train on"):
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
    real, forwards = trainer.target_logits, []

    def faulty(model, rows, mask):
        logits = real(model, rows, mask)
        if torch.is_grad_enabled():
            forwards.append(rows)
            if when(len(forwards), rows):
                return fault(logits)
        return logits

    monkeypatch.setattr(trainer, "target_logits", faulty)


def out_of_memory(logits):
    raise torch.OutOfMemoryError


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_step(
    tokenizer, data, tmp_path, monkeypatch
):
    def train(name):
        return finetune(
            lambda: (tiny_model("ministral3", vocabulary=len(tokenizer)), tokenizer),
            data,
            recipe(max_steps=6, save_steps=2, learning_rate=1e-3),
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
    constant = {"schedule": "constant_with_warmup", "save_steps": 2}
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    good, _, weights = run(model, tokenizer, data, tmp_path, **constant, max_steps=2)
    failing(monkeypatch, lambda logits: logits * float("nan"), lambda n, rows: n > 2)
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    summary, curve, saved = run(model, tokenizer, data, tmp_path, **constant, max_steps=6)
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
    changes = {"learning_rate": rate, "max_steps": 30, "stops": rules}
    summary, curve, _ = run(model, tokenizer, data, tmp_path, **changes)
    assert (summary["stop_reason"], summary["steps"]) == (reason, step)
    assert curve[-1]["step"] == step


@pytest.mark.parametrize("on_leak, steps", [("stop", 20), ("record", 40)])
def test_a_leaking_mask_raises_the_alarm(model, tokenizer, data, tmp_path, on_leak, steps):
    leak = {"ratio": 0.9, "min_gap": 0.05, "on_leak": on_leak}
    changes = {"max_steps": 40, "eval_steps": 20, "train_mask": "full_bidir"}
    changes["stops"] = {"leak": leak}
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
        chosen = recipe(schedule="constant_with_warmup", save_steps=2, max_steps=steps)
        state = tmp_path / "state"
        return finetune(lambda: (model, tokenizer), data, chosen, 1, HARDWARE, "test", state)

    assert train(2).record["resumes"] == []
    assert train(4).record["resumes"] == [2]
