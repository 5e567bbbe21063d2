"""Promises of real sizes: forwards by length and memory, one model, no weights on disk."""

from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ablation.bridge.data.prompts import Question
from ablation.bridge.evaluation import write_activations as writing
from ablation.bridge.evaluation.evaluate_cell import evaluate_cell
from ablation.bridge.evaluation.generate import generate
from ablation.bridge.evaluation.sample_rows import sample_rows
from ablation.bridge.evaluation.section_meter import SectionMeter
from ablation.bridge.evaluation.unbridged_arms import AnswerLimits, identity_rows, unbridged_rows
from ablation.bridge.model import forwards, random_model
from ablation.bridge.model import pair as pairs
from ablation.bridge.model.activations import source_activations
from ablation.bridge.model.batches import SOFT
from ablation.bridge.model.prompt_encoder import PromptEncoder, PromptFormat
from ablation.bridge.model.splits import read_splits
from ablation.bridge.model.translator import new_translator
from ablation.bridge.training import cells
from ablation.bridge.training.cells import run_cells
from ablation.bridge.training.early_stopping import DevStops
from ablation.bridge.training.train import train_cell
from ablation.bridge.training.trainer import BridgeTrainer
from ablation.config.bridge_blocks import RandomModel
from ablation.config.load import load_study
from ablation.provenance.files import write_json_lines
from ablation.training.trainer_arguments import training_arguments
from ablation.vocabulary.bridge import SPLITS
from tests.support.bridge_tiny import HARDWARE, RECORDS, pair, recipe, split

SIZE = {
    "family": "llama",
    "seed": 3,
    "vocabulary": 600,
    "width": 32,
    "feed_forward": 48,
    "layers": 2,
    "heads": 4,
    "key_value_heads": 2,
    "head_dim": 8,
}
FORMAT = PromptFormat(regime="gsm8k", max_tokens=400, chat=True)


@pytest.fixture(scope="module")
def both():
    return pair()


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 8), st.integers(1, 120))
def test_batches_hold_every_row_once_and_no_more_than_they_may(lengths, rows, tokens):
    batches = forwards.by_length(lengths, rows, tokens)
    assert sorted(at for part in batches for at in part) == list(range(len(lengths)))
    for part in batches:
        padded = len(part) * max(lengths[at] for at in part)
        assert len(part) <= rows and (padded <= tokens or len(part) == 1)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 6))
def test_out_of_memory_halves_and_keeps_the_order(lengths, fits):
    def run(part):
        if len(part) > fits:
            raise torch.OutOfMemoryError
        return [(at, lengths[at]) for at in part]

    with patch.object(forwards, "free_memory"):  # asks Python's collector each time
        assert forwards.run_in_batches(lengths, 16, run) == list(enumerate(lengths))


def test_out_of_memory_with_one_row_is_an_error():
    def run(part):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        forwards.run_in_batches([3, 2], 2, run)


def test_generated_texts_do_not_depend_on_the_batches(both):
    words = both.target.encoder
    rows = [words.text_row(Question(r["question"] * n)) for n, r in enumerate(RECORDS[:3], 1)]
    told = [
        generate(both.target, rows, max_new_tokens=4, batch_size=size).texts for size in (1, 2, 3)
    ]
    assert told[0] == told[1] == told[2]


def test_soft_tokens_of_several_lengths_stand_in_one_batch(both):
    """The identity control: each question has as many soft tokens as it has tokens."""
    questions = [Question(r["question"] * n) for n, r in enumerate(RECORDS[:3], 1)]
    words = both.target.encoder
    rows, soft = identity_rows(both.target, questions)
    assert len({list(row.ids).count(SOFT) for row in rows}) > 1
    options = {"max_new_tokens": 4, "batch_size": 2}
    said = generate(both.target, rows, soft, **options)
    text = generate(both.target, [words.text_row(q) for q in questions], **options)
    assert said.texts == text.texts and said.lengths == text.lengths


def test_a_text_that_was_cut_off_is_marked_as_not_ended(both):
    row = both.target.encoder.text_row(Question.of(RECORDS[0]))
    made = generate(both.target, [row], max_new_tokens=1, batch_size=1)
    banned = generate(both.target, [row], max_new_tokens=3, batch_size=1, ban_eos=3)
    assert made.lengths == [1] and banned.ended == [False] and banned.lengths == [3]
    found = sample_rows(banned, RECORDS[:1], arm="x")
    assert found[0]["ended"] == 0


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_activations_are_those_of_the_configured_layer(both, layer):
    question, words = RECORDS[0]["question"], both.source.encoder
    ids = torch.tensor([words.source_row(question).ids])
    with torch.no_grad():
        wanted = both.source.model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0]
    found = source_activations(both.source, [question], layer, 4).values
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer", [-9, 9])
def test_a_layer_that_the_source_does_not_have_is_an_error_with_its_key(both, layer):
    with pytest.raises(ValueError, match=rf"layer {layer} .*bridge.layer.*, but the last is 2"):
        source_activations(both.source, ["Who?"], layer, 4)


def test_activations_in_several_files_are_read_as_one(both, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "FILE_QUESTIONS", 4)
    home, options = tmp_path / "activations", writing.ReadOptions(layer=-1, teacher_top=8)
    for split_name in SPLITS:
        file = tmp_path / "questions" / "gsm8k" / f"{split_name}.jsonl"
        write_json_lines(file, RECORDS)
    home.mkdir()
    meter, limits = SectionMeter(), AnswerLimits(max_new_tokens=3, eval_batch=4)
    writing.write_activations(both, tmp_path / "questions", "gsm8k", options, home, meter)
    rows = unbridged_rows(both, RECORDS, [2], limits, meter)
    assert len(list((home / "train").iterdir())) == 3
    splits = read_splits(tmp_path / "questions", home, "gsm8k")
    own = split(both)
    for mine, whole in zip(splits["train"].activations, own.activations, strict=True):
        torch.testing.assert_close(mine, whole, atol=1e-5, rtol=0)
    assert len(splits["train"].teacher[1]) == len(RECORDS) and splits["test"].teacher is None
    assert {"read train", "target_alone", "token_budget-k2"} <= set(meter.sections)
    assert {row["arm"] for row in rows} >= {"source_alone", "cascade", "identity"}


def test_several_forwards_are_one_micro_batch(both, tmp_path):
    """Out of memory costs time, not the loss: cross entropy, KL, contrast and gradients."""
    own, made = split(both), recipe()
    found = []
    for parts in (1, 3):
        translator = new_translator(made, 3, 48, both.target.model, 1)
        one = BridgeTrainer(
            model=translator,
            args=training_arguments(made, 1, HARDWARE, tmp_path, 4),
            train_dataset=list(range(len(RECORDS))),
            eval_dataset=[0],
            target=both.target,
            split=own,
            dev=own,
            parts=parts,
            recipe=made,
            stops=DevStops.of(made),
        )
        part = one._prepare_inputs(one.collate([0, 1, 2, 3]))["parts"][0]
        terms = one.loss_terms(part)
        sum(terms.values()).backward()
        gradients = torch.cat([p.grad.flatten() for p in translator.parameters()])
        found.append((terms, gradients))
    for name, value in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], value)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-6, rtol=1e-4)


def test_a_training_without_memory_goes_on_in_more_forwards(both, tmp_path, monkeypatch):
    own, made = split(both), recipe()
    arguments = (both.target, {"train": own, "dev": own}, made, 3, 1, HARDWARE)
    read = BridgeTrainer._forward

    def tight(self, rows, soft):
        if len(soft) > 2 and soft.requires_grad:
            raise torch.OutOfMemoryError
        return read(self, rows, soft)

    whole = train_cell(*arguments, "whole", tmp_path / "whole")
    with monkeypatch.context() as changed:
        changed.setattr(BridgeTrainer, "_forward", tight)
        cut = train_cell(*arguments, "cut", tmp_path / "cut")
    assert (whole.record["forwards"], cut.record["forwards"]) == (1, 2)
    for name, tensor in whole.last.items():
        torch.testing.assert_close(cut.last[name], tensor, atol=1e-4, rtol=1e-3)


# ---- models --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("random")
    made = [
        random_model.write_random_model(
            RandomModel.model_validate(SIZE | {"family": f, "seed": seed}), home / f
        )
        for seed, f in enumerate(("mistral", "llama"))
    ]
    assert made[0]["parameters"] == made[1]["parameters"]
    return home / "mistral", home / "llama"


def test_a_random_model_is_a_small_folder_and_has_its_shape(folders):
    for folder, kind in zip(folders, ("MistralForCausalLM", "LlamaForCausalLM"), strict=True):
        assert not list(folder.glob("*.safetensors"))
        models = [random_model.random_model(folder, "bfloat16", "sdpa", "cpu") for _ in range(2)]
        assert type(models[0]).__name__ == kind and not models[0].training
        assert {p.dtype for p in models[0].parameters()} == {torch.bfloat16}
        for one, other in zip(*(m.parameters() for m in models), strict=True):
            assert torch.equal(one, other)
        table = models[0].get_input_embeddings().weight
        assert table.shape == (600, 32) and table.float().std() > 0.01
        assert models[0].get_output_embeddings().weight is not table


def test_the_rehearsal_has_the_sizes_of_the_real_models():
    """Mistral-7B-v0.3 and Llama-3.1-8B have so many weights: model cards on the hub."""
    sizes = load_study({"extends": "rehearsal_bridge7b.yaml"}).bridge.random
    for role, total in (("source", 7_248_023_552), ("target", 8_030_261_248)):
        own = sizes[role]
        attention = (2 * own.heads + 2 * own.key_value_heads) * own.head_dim * own.width
        layer = attention + 3 * own.width * own.feed_forward + 2 * own.width
        assert 2 * own.vocabulary * own.width + own.layers * layer + own.width == total


def test_only_the_answering_model_is_held(folders):
    answering = pairs.AnsweringModels(folders, HARDWARE, FORMAT)
    forward = answering("forward")
    assert type(forward.model).__name__ == "LlamaForCausalLM"
    assert answering("forward") is forward
    swapped = answering("swapped")
    assert type(swapped.model).__name__ == "MistralForCausalLM"
    assert answering.loaded == ("swapped", swapped)


def test_every_arm_is_the_same_turn_of_the_chat_template(folders):
    words = pairs.load_frozen(folders[1], HARDWARE, FORMAT).encoder
    rows = [
        words.text_row(Question("Why?")),
        words.bridged_row(4, "soft_only", Question("Why?")),
        words.budget_row(2, Question("Why?")),
    ]
    text = [words.tokenizer.decode([i for i in row.ids if i != SOFT]) for row in rows]
    for said in text:
        assert said.startswith("<s>[user]") and said.endswith("Answer: [model]")
        assert said.count("<s>") == 1 and "one number" in said
    assert "Why?" in text[0] and "Why?" not in text[1]
    assert words.source_row("Why?").ids[: len(words.bos)] == words.bos
    assert "[user]" not in words.tokenizer.decode(words.source_row("Why?").ids)
    with pytest.raises(ValueError, match="chat: false"):
        words.tokenizer.chat_template = None
        PromptEncoder(words.tokenizer, 400, chat=True)


# ---- cells ---------------------------------------------------------------------------------------


def test_a_cell_that_was_evaluated_is_not_evaluated_again(both, tmp_path, monkeypatch):
    own, recipes = split(both), {"all_fixes": recipe(soft_tokens=[2, 3])}
    splits = {"forward": {"train": own, "dev": own, "test": own}}

    def run(name):
        return run_in(tmp_path / "state", name)

    def run_in(home, name):
        job = (lambda direction: both.target, splits, recipes, "gsm8k", 1, HARDWARE)
        return run_cells(*job, home, tmp_path / name)

    calls = []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate_cell(*arguments)

    with monkeypatch.context() as changed:
        changed.setattr(cells, "evaluate_cell", killed)
        with pytest.raises(KeyboardInterrupt):
            run("killed")
    with monkeypatch.context() as changed:
        changed.setattr(cells, "evaluate_cell", lambda *a: calls.append(1) or evaluate_cell(*a))
        again = run("again")
    assert len(calls) == 3  # two cells, one of them killed
    whole = run_in(tmp_path / "other", "whole")
    assert again.samples == whole.samples and again.summary == whole.summary
    kept = tmp_path / "state" / "all_fixes-k2"
    assert len(list(kept.glob("best-*"))) == 1 and len(list(kept.glob("checkpoint-*"))) == 1
    record = again.record["all_fixes-k3"]
    assert record["seconds_a_step"] is None or record["seconds_a_step"] > 0
    assert {"bridged", "bridged_last"} <= set(record["sections"])
