"""Promises of public data sets: read whole, kept apart, scored by their own rules."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablation.bridge.data import readers
from ablation.bridge.data.answers import MARK
from ablation.bridge.data.prompts import Question
from ablation.bridge.evaluation.scores import Score, hotpotqa_f1, hotpotqa_form, score_answer
from ablation.config.bridge_blocks import DataSet
from ablation.config.checks import unpinned
from ablation.config.load import load_study
from ablation.config.merging import ConfigError
from ablation.data.synthetic import question_documents
from ablation.vocabulary.bridge import DATA_SETS, HOTPOTQA
from tests.support.bridge_tiny import CONFIG

GSM8K = {
    "question": "Ann has 48 keys and gives half of them away. How many did she give?",
    "answer": "She gave 48/2 = <<48/2=24>>24 keys.\n#### 24",
}
HOTPOT = {
    "id": "5a8b57f25542995d1e6f1371",
    "question": "Were both rivers in the same country?",
    "answer": "yes",
    "supporting_facts": {"title": ["River A"], "sent_id": [0]},
    "context": {
        "title": ["River A", "River B"],
        "sentences": [["River A is long.", " It is cold."], ["River B is short."]],
    },
}
COUNTS = {"data": "none", "seed": 1, "train": 100, "dev": 3, "test": 4}


def written(folder, regime, train, test):
    own = readers.FORMATS[regime]
    for split, documents in ((own.train, train), (own.test, test)):
        file = folder / own.configuration / f"{split}-00000-of-00001.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return COUNTS | {"data": str(folder)}


def read(regime, config):
    return readers.read_data_set(regime, DataSet.model_validate(config))


def numbered(count, first=0):
    return [
        GSM8K | {"question": f"What is {n} + {n}?", "answer": f"Add.\n#### {2 * n}"}
        for n in range(first, first + count)
    ]


def test_gsm8k_gives_the_number_and_the_steps_without_the_calculator_s_notes():
    record = readers.read_gsm8k(GSM8K)
    assert record["answer"] == "24" and record["solution"] == "She gave 48/2 = 24 keys."
    assert readers.read_gsm8k(GSM8K | {"answer": "So.\n#### 1,234"})["answer"] == "1234"
    for broken in ("no mark 24", "x #### many", "x ####"):
        with pytest.raises(ValueError, match="no number after"):
            readers.read_gsm8k(GSM8K | {"answer": broken})


def test_hotpotqa_holds_every_paragraph_and_no_supporting_fact():
    record = readers.read_hotpotqa(HOTPOT)
    assert record["question"] == (
        "River A: River A is long. It is cold.\nRiver B: River B is short.\n"
        "Question: Were both rivers in the same country?"
    )
    assert record["answer"] == "yes" and record["match"] == HOTPOTQA
    pairs = list(zip(*HOTPOT["context"].values(), strict=True))  # as the authors' own file has it
    assert readers.read_hotpotqa(HOTPOT | {"context": pairs}) == record
    unsupported = {n: v for n, v in HOTPOT.items() if n != "supporting_facts"}
    assert readers.read_hotpotqa(unsupported) == record


def test_no_question_stands_in_two_splits_nor_twice(tmp_path):
    repeated = [GSM8K | {"question": "what is 103 + 103"}]  # other case and marks, asked in test
    train = numbered(20) + numbered(2) + repeated
    config = written(tmp_path, "gsm8k", train, numbered(6, first=100))
    splits, facts = read("gsm8k", config)
    asked = [readers.question_key(r["question"]) for split in splits.values() for r in split]
    assert len(set(asked)) == len(asked)
    assert {s: len(splits[s]) for s in splits} == {"train": 17, "dev": 3, "test": 4}
    assert facts["train"] == {"read": 23, "left_out_repeated": 3, "chosen": 17}
    assert facts["test"] == {"read": 6, "left_out_repeated": 0, "chosen": 4}


def test_what_test_could_ask_is_learned_by_nobody_even_if_it_is_not_asked(tmp_path):
    test = numbered(6, first=100)
    config = written(tmp_path, "gsm8k", numbered(8) + test, test) | {"test": 2}
    splits, _ = read("gsm8k", config)
    learned = {r["question"] for s in ("train", "dev") for r in splits[s]}
    assert not learned & {document["question"] for document in test}


def test_the_seed_decides_which_questions_are_dev(tmp_path):
    config = written(tmp_path, "gsm8k", numbered(30), numbered(6, first=100))
    dev = [read("gsm8k", config | {"seed": s})[0]["dev"] for s in (1, 1, 2)]
    assert dev[0] == dev[1] != dev[2]


def test_a_folder_without_a_split_says_what_is_there(tmp_path):
    (tmp_path / "notes.jsonl").write_text("{}\n")
    with pytest.raises(FileNotFoundError, match=r"train split; there are notes.jsonl"):
        read("gsm8k", COUNTS | {"data": str(tmp_path)})


@pytest.mark.parametrize("regime", DATA_SETS)
def test_made_up_questions_are_read_as_real_ones_and_have_their_lengths(regime):
    config = COUNTS | {"data": "generated", "train": 40, "test": 20}
    splits, _ = read(regime, config)
    assert splits == read(regime, config)[0]
    words = [len(Question.of(r).whole.split()) for r in splits["train"]]
    low, high = (15, 195) if regime == "gsm8k" else (800, 1800)
    assert low <= min(words) and max(words) <= high
    first = next(iter(question_documents(regime, "train", 1, 1)))
    assert first != next(iter(question_documents(regime, "train", 1, 2)))


# ---- scoring -------------------------------------------------------------------------------------


def hotpot(answer):
    return {"answer": answer, "match": HOTPOTQA}


@pytest.mark.parametrize(
    ("said", "gold", "correct", "f1"),
    [
        ("#### The Chief of Protocol.", "Chief of Protocol", True, 1.0),
        ("#### Chief", "Chief of Protocol", False, 0.5),
        ("#### yes", "yes", True, 1.0),
        ("#### yes, it is", "yes", False, 0.0),  # yes and no are all or nothing
        ("#### no", "no place", False, 0.0),
        ("so it is yes", "yes", False, 0.0),  # nothing was marked
        ("#### ", "a", False, 0.0),  # nothing said, though gold normalises to nothing too
        ("#### .", "The", False, 0.0),  # the official rules leave nothing of either
        ("#### The", "the", True, 0.0),
        ("#### 1,969\n#### 7", "1969", True, 1.0),
    ],
)
def test_hotpotqa_is_scored_by_its_official_rules(said, gold, correct, f1):
    found = score_answer(said, hotpot(gold))
    assert (found.correct, found.f1) == (correct, pytest.approx(f1))


def test_gsm8k_compares_numbers_that_were_generated_after_the_mark():
    record = {"answer": "1234", "solution": "Add them.\n"}
    assert score_answer("Steps: 7\n#### $1,234.00", record).correct
    assert not score_answer("the answer is 1234", record).correct
    assert not score_answer("#### 12345", record).correct


WORDS = st.lists(st.sampled_from(["The", "river", "a", "Rhine,", "no", "yes", "12"]), max_size=6)


@given(WORDS, WORDS)
def test_f1_is_symmetric_bounded_and_one_exactly_for_equal_bags(one, other):
    one, other = " ".join(one), " ".join(other)
    value = hotpotqa_f1(one, other)
    assert value == hotpotqa_f1(other, one) and 0 <= value <= 1
    if hotpotqa_form(one) and hotpotqa_form(one) == hotpotqa_form(other):
        assert value == pytest.approx(1)


@given(st.text(max_size=30))
def test_the_official_normalisation_is_idempotent(text):
    assert hotpotqa_form(hotpotqa_form(text)) == hotpotqa_form(text)


@given(st.text(max_size=40), st.text(min_size=1, max_size=20))
def test_a_generation_without_mark_is_never_right(said, gold):
    if MARK in said:
        return
    assert score_answer(said, hotpot(gold)) == Score(None, False, 0.0)


# ---- configuration -------------------------------------------------------------------------------


def test_the_real_study_names_four_repositories_and_is_refused_without_their_commits():
    study = load_study({"extends": "bridge7b.yaml"}, CONFIG, pinned=False)
    assert len(unpinned(study, CONFIG)) == 4
    with pytest.raises(ConfigError, match="openai/gsm8k.*ablation pin"):
        load_study({"extends": "bridge7b.yaml"}, CONFIG)
    assert study.bridge.data["gsm8k"].test == 1319 and not study.bridge.rehearsal


@pytest.mark.parametrize(
    ("over", "parts"),
    [
        ({"source": "randon"}, ("bridge.source", "did you mean `random`")),
        ({"data": {"gsm8k": {"data": "openai/gsm9k"}}}, ("bridge.data.gsm8k.data", "pins")),
        ({"training": {"regimes": ["compression"]}}, ("compression", "world and questions")),
        ({"source": "random"}, ("bridge.random", "no shape of the source")),
    ],
)
def test_a_study_that_lacks_a_model_or_questions_dies_at_load(over, parts):
    with pytest.raises(ConfigError) as error:
        load_study({"extends": "bridge7b.yaml", "bridge": over}, CONFIG, pinned=False)
    assert all(part in str(error.value) for part in parts), error.value


def test_the_rehearsal_is_the_study_but_for_models_questions_and_steps():
    real = load_study({"extends": "bridge7b.yaml"}, CONFIG, pinned=False)
    own = load_study({"extends": "rehearsal_bridge7b.yaml"}, CONFIG)
    assert own.bridge.rehearsal and own.hardware == real.hardware
    kept = ("translator", "batch_examples", "micro_batch_examples", "optimizer", "eval_batch")
    for name in kept:
        assert getattr(own.bridge.training, name) == getattr(real.bridge.training, name)
