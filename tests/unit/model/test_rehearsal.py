"""Promises of a rehearsal: random weights and made-up texts that everything else takes as real."""

import statistics
from pathlib import Path

import pytest
import torch

from ablation.config.load import load_study
from ablation.data.benchmarks import DOCUMENT_COUNTS, read_documents
from ablation.data.synthetic import (
    LENGTHS,
    alpaca_records,
    benchmark_documents,
    write_synthetic_data,
)
from ablation.data.task_data import data_sets
from ablation.model.bpe_tokenizer import random_tokenizer
from ablation.model.checkpoints import load
from ablation.model.leak_audit import leak_audit
from ablation.model.random_base import write_random_base
from ablation.provenance.files import file_table
from ablation.vocabulary.masks import MASKS

CONFIG = Path(__file__).resolve().parents[3] / "config"
SIZE = load_study({}).random
TASKS = ["hellaswag", "piqa", "arc_easy", "arc_challenge", "winogrande"]
TASKS += [f"published_{task}" for task in TASKS]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "base"
    torch.set_num_threads(1)
    return folder, write_random_base(SIZE, folder, max_shard_size=100_000)


def test_a_random_base_is_a_checkpoint_of_the_size_asked_for(base):
    folder, made = base
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    model, tokenizer = load(folder, "bfloat16")
    assert type(model).__name__ == "Ministral3ForCausalLM" and model.config.tie_word_embeddings
    shape = (SIZE.vocabulary, SIZE.width)
    assert model.get_input_embeddings().weight.shape == shape
    assert len(model.model.layers) == SIZE.layers
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert made["parameters"] == sum(p.numel() for p in model.parameters())
    assert made["tokens"] == len(tokenizer) <= SIZE.vocabulary
    assert tokenizer("Ka vo.")["input_ids"][0] == tokenizer.bos_token_id
    for mask in MASKS:
        assert leak_audit(model, mask).leaks == (mask == "full_bidir")


def test_equal_seeds_give_equal_bytes_and_others_do_not(base, tmp_path):
    def bytes_of(folder):
        table = file_table([folder])
        return {path.removeprefix(folder.as_posix()): entry for path, entry in table.items()}

    write_random_base(SIZE, tmp_path / "again", max_shard_size=100_000)
    assert bytes_of(tmp_path / "again") == bytes_of(base[0])
    write_random_base(
        SIZE.model_copy(update={"seed": 2}), tmp_path / "other", max_shard_size=100_000
    )
    changed = {n for n, e in bytes_of(tmp_path / "other").items() if bytes_of(base[0]).get(n) != e}
    assert "/tokenizer.json" in changed and any("safetensors" in name for name in changed)


def test_the_size_of_the_rehearsal_is_that_of_the_real_model():
    """Without writing 7 GB: parameters counted from the shapes."""
    size = load_study({"extends": "rehearsal3b.yaml"}).random
    attention = (2 * size.heads + 2 * size.key_value_heads) * size.head_dim * size.width
    layer = attention + 3 * size.width * size.feed_forward + 2 * size.width
    total = size.vocabulary * size.width + size.layers * layer + size.width
    assert total == 3_429_006_336


# ---- texts ---------------------------------------------------------------------------------------


def words(text):
    return len(text.split())


def test_lengths_are_those_asked_for():
    records = list(alpaca_records(4000, seed=1))
    for field in ("instruction", "output"):
        counted = [words(record[field]) for record in records]
        mean, _, most = LENGTHS[field]
        assert statistics.mean(counted) == pytest.approx(mean, rel=0.1)
        assert min(counted) >= 1 and max(counted) <= most
    assert statistics.mean(bool(r["input"]) for r in records) == pytest.approx(0.38, abs=0.03)
    characters = statistics.mean(len("".join(record.values())) for record in records)
    assert characters == pytest.approx(760, rel=0.1)  # as yahma/alpaca-cleaned


def test_a_made_up_word_costs_as_many_tokens_as_an_english_one():
    tokenizer = random_tokenizer(seed=1, vocabulary=131072)
    fresh = ["\n".join(record.values()) for record in alpaca_records(200, seed=2)]
    tokens = sum(len(ids) for ids in tokenizer(fresh)["input_ids"])
    assert tokens / sum(map(words, fresh)) == pytest.approx(1.3, abs=0.1)


def test_copies_have_every_split_that_the_tasks_read_and_repeat(tmp_path):
    wanted = data_sets(CONFIG, TASKS)
    files = write_synthetic_data(tmp_path, wanted, seed=1)
    counts = {tuple(f.relative_to(tmp_path).parts[1:]): len(read_documents(f)) for f in files}
    assert counts["ai2_arc", "ARC-Easy", "test.jsonl"] == DOCUMENT_COUNTS["arc_easy", "test"]
    assert len(files) == len(counts) == sum(map(len, wanted.values())) == len(DOCUMENT_COUNTS)
    first = list(benchmark_documents("piqa", "validation", seed=1))
    assert first == list(benchmark_documents("piqa", "validation", seed=1))
    assert first != list(benchmark_documents("piqa", "validation", seed=2))


def test_right_answers_are_drawn_by_lot():
    for name, split in DOCUMENT_COUNTS:
        made = list(benchmark_documents(name, split, seed=1))
        answers = [d.get("label", d.get("answerKey", d.get("answer"))) for d in made]
        kinds = sorted(set(answers), key=str)
        chance = 1 / len(kinds)
        assert len(kinds) == (2 if name in ("piqa", "winogrande") else 4)
        for kind in kinds:
            assert answers.count(kind) / len(made) == pytest.approx(chance, abs=0.09)


def test_every_task_of_both_protocols_reads_its_copy(tmp_path):
    from lm_eval.tasks import TaskManager

    from ablation.scoring.local_copies import local_copies

    write_synthetic_data(tmp_path, data_sets(CONFIG, TASKS), seed=1)
    folder = CONFIG / "tasks"
    metadata = {"data_folder": str(tmp_path)}
    manager = TaskManager(include_path=str(folder), include_defaults=False, metadata=metadata)
    with local_copies(tmp_path):
        tasks = manager.load(TASKS)["tasks"]
    for name, task in tasks.items():
        split = "test" if name in ("arc_easy", "arc_challenge") else "validation"
        docs = task.eval_docs
        assert len(docs) == DOCUMENT_COUNTS[name.removeprefix("published_"), split]
        choices = {len(task.doc_to_choice(docs[i])) for i in range(20)}
        assert choices == {2 if name.endswith(("piqa", "winogrande")) else 4}
