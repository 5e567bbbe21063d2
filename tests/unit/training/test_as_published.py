"""Promises of the arms as published: the examples, the split and the optimizer of the public code.

What the published code does is written here a second time, as that code does it: one record at a
time, one example in a forward, and the optimizer of transformers on bfloat16 weights.
"""

import json

import pytest
import torch
from datasets import Dataset
from transformers import Adafactor

from ablation.training import trainer
from ablation.training.examples import read_examples, tokenize
from ablation.training.trainer import summed_loss
from ablation.training.trainer_arguments import PlainAdafactor
from ablation.vocabulary.formats import FORMATS
from tests.support.small_training import run
from tests.support.tiny import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

RECORDS = [
    {"instruction": " Say red. ", "input": "", "output": " red\n"},
    {"instruction": "Say\nblue.", "input": " the cat \n", "output": "blue  blue"},
    {"instruction": "Say.", "input": " \n", "output": "red " * 40},
    {"instruction": "Say nothing but red and blue and green. " * 4, "input": "", "output": "red"},
]


def published(record, tokenizer, max_seq_len):
    """(input_ids, labels) of the published code, or None where it leaves the record out."""
    instruction, context, output = (
        str(record[key]).strip() for key in ("instruction", "input", "output")
    )
    text = f"### Instruction:\n{instruction}\n\n"
    if context:
        text += f"### Input:\n{context}\n\n"
    prompt = tokenizer(text + "### Response:\n", add_special_tokens=False).input_ids
    response = tokenizer(output + tokenizer.eos_token, add_special_tokens=False).input_ids
    labels = ([-100] * len(prompt) + response)[:max_seq_len]
    return None if set(labels) == {-100} else ((prompt + response)[:max_seq_len], labels)


def ours(example):
    """An example in the form of `published`."""
    if example is None:
        return None
    prompt, (response,) = list(example.prompt), map(list, example.continuations)
    return prompt + response, [-100] * len(prompt) + response


@pytest.mark.parametrize("max_seq_len", [999, 64])
def test_an_example_as_published_has_the_tokens_of_the_published_code(tokenizer, max_seq_len):
    made = tokenize(RECORDS, tokenizer, max_seq_len, FORMATS["published"])
    expected = [published(record, tokenizer, max_seq_len) for record in RECORDS]
    assert [ours(example) for example in made] == expected
    assert (None in expected) == (max_seq_len == 64)


def test_a_record_that_the_published_code_refuses_is_dropped(tokenizer):
    blank = {"instruction": "Say.", "input": "", "output": " \n"}
    assert list(tokenize([blank], tokenizer, 64, FORMATS["published"])) == [None]
    assert list(tokenize([blank], tokenizer, 64)) != [None]


@pytest.mark.parametrize("seed", [42, 43])
def test_the_examples_as_published_are_drawn_as_the_published_code_draws_them(
    tokenizer, data, seed
):
    rows = Dataset.from_list([json.loads(line) for line in data.open()])
    split = rows.train_test_split(test_size=0.11, seed=seed)
    train = split["train"].shuffle(seed=seed).select(range(40))
    heldout = split["test"].shuffle(seed=seed)
    assert len(heldout) == 7  # 6.6 of 60, rounded up
    examples = read_examples(data, tokenizer, 64, 0.11, seed, 40, FORMATS["published"])
    for made, drawn in ((examples.train, train), (examples.heldout, heldout)):
        assert [ours(e) for e in made] == [published(r, tokenizer, 64) for r in drawn]


def test_no_more_examples_are_taken_than_the_recipe_says(tokenizer, data):
    every, some = (read_examples(data, tokenizer, 64, 0.1, 1, n) for n in (None, 7))
    assert some.train == every.train[:7] and some.heldout == every.heldout


def test_a_step_of_adafactor_plain_is_that_of_transformers_on_bfloat16_weights(
    tokenizer, data, tmp_path, monkeypatch
):
    batches = []

    def seen(model, rows, mask):
        batches.extend([rows] * torch.is_grad_enabled())
        return summed_loss(model, rows, mask)

    def bfloat16_model():
        return tiny_model("ministral3", vocabulary=len(tokenizer)).bfloat16()

    changes = {"optimizer": "adafactor_plain", "format": "published", "micro_batch_examples": 1}
    changes |= {"batch_examples": 12, "max_steps": 1, "warmup_steps": 0, "weight_decay": 0.1}
    changes |= {"schedule": "constant_with_warmup", "max_grad_norm": 0.1}
    monkeypatch.setattr(trainer, "summed_loss", seen)
    found = run(bfloat16_model(), tokenizer, data, tmp_path, **changes)[2]
    assert len(batches) == 12

    model = bfloat16_model()
    tokens = sum(len(rows.target_id) for rows in batches)
    for rows in batches:  # autograd adds up in the dtype of the weights
        (summed_loss(model, rows, "prefill_bidir")[0] / tokens).backward()
    assert {weight.grad.dtype for weight in model.parameters()} == {torch.bfloat16}
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    groups = [
        {"params": [w for n, w in model.named_parameters() if ("norm" in n) == norms]} | decay
        for norms, decay in ((False, {"weight_decay": 0.1}), (True, {"weight_decay": 0.0}))
    ]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    Adafactor(groups, lr=1e-2, scale_parameter=False, relative_step=False).step()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, found[name]), name
        assert not torch.equal(weight, before[name]), name


def test_adafactor_plain_rounds_small_updates_away():
    """The published runs lost most updates so; the corrected optimizers keep them."""
    weight = torch.nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    optimizer = PlainAdafactor([weight], lr=2e-5)
    for _ in range(50):
        weight.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (weight == 1).all()
