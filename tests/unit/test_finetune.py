"""Promises of finetuning: only responses count, a step is the same however it is packed."""

import json

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from ablation.alpaca import alpaca_prompt
from ablation.finetune import (
    finetune,
    mean_loss,
    read_examples,
    summed_loss,
    tokenize,
    training_arguments,
)
from ablation.packing import pack

HARDWARE = {"gpu": 0, "threads": 1, "dtype": "float32", "attention": "sdpa"}
RECIPE = {
    "train_mask": "prefill_bidir",
    "max_steps": 4,
    "batch_examples": 8,
    "micro_batch_examples": 8,
    "max_seq_len": 64,
    "learning_rate": 1e-2,
    "weight_decay": 0.0,
    "warmup_steps": 1,
    "schedule": "linear",
    "optimizer": "adamw_torch",
    "adam_beta2": 0.98,
    "max_grad_norm": 1.0,
    "eval_steps": 2,
    "eval_samples": 8,
    "heldout_fraction": 0.1,
}


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def model(tokenizer):
    return tiny_model("ministral3", vocabulary=len(tokenizer))


@pytest.fixture
def data(tmp_path):
    words = ["red", "green", "blue", "cat", "dog", "sun", "moon", "tree"]
    records = [
        {
            "instruction": f"Say {words[i % 8]}.",
            "input": words[i % 5] if i % 2 else "",
            "output": " ".join([words[i % 8]] * (1 + i % 4)),
        }
        for i in range(60)
    ]
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in records))
    return file


def run(model, tokenizer, data, tmp_path, seed=1, **changes):
    recipe = RECIPE | changes
    summary, curve = finetune(
        model, tokenizer, data, recipe, seed, HARDWARE, "test", tmp_path / "scratch"
    )
    return summary, curve, {k: v.clone() for k, v in model.state_dict().items()}


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
    for size in (8, 2):
        model = tiny_model("ministral3", vocabulary=len(tokenizer))
        weights.append(run(model, tokenizer, data, tmp_path, micro_batch_examples=size)[2])
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


def test_a_batch_that_micro_batches_do_not_fill_is_refused():
    with pytest.raises(ValueError, match="no multiple"):
        training_arguments(RECIPE | {"micro_batch_examples": 3}, 1, HARDWARE, "x")
