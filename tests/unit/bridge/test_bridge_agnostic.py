"""Promises of query-agnostic regimes: the source reads a text before the question is known."""

import pytest
import torch

from ablation.bridge.data.prompts import Question
from ablation.bridge.data.questions import NumberWorld
from ablation.bridge.evaluation.bridged_answers import generate_answers, translate
from ablation.bridge.evaluation.unbridged_arms import identity_rows
from ablation.bridge.evaluation.write_activations import ReadOptions, read_activations
from ablation.bridge.model.batches import SOFT
from ablation.bridge.model.splits import SOURCE
from ablation.bridge.model.translator import new_translator
from ablation.vocabulary.bridge import MODES, QUERY_AGNOSTIC
from tests.support.bridge_tiny import RECORDS, bridge_study, pair, recipe

ASKED = [
    {"context": r["question"], "question": f"How many keys has {name}?", "answer": r["answer"]}
    for r, name in zip(RECORDS, ("Tom", "Eve", "Ann", "Bob", "Sue") * 2, strict=True)
]
TURNED = [
    record | {"question": other["question"]}
    for record, other in zip(ASKED, ASKED[1:] + ASKED[:1], strict=True)
]


@pytest.fixture(scope="module")
def both():
    return pair()


@pytest.fixture(scope="module")
def words(both):
    return both.target.encoder


def soft_tokens(both, records):
    states = read_activations(both, records, ReadOptions(-1, 8), teacher=False)[SOURCE]
    translator = new_translator(recipe(), 3, 48, both.target.model, 1)
    return translate(translator, states.rows())


def test_soft_tokens_do_not_depend_on_the_question_to_the_bit(both):
    assert [r["question"] for r in TURNED] != [r["question"] for r in ASKED]
    assert torch.equal(soft_tokens(both, ASKED), soft_tokens(both, TURNED))
    plain = [{"question": Question.of(r).whole, "answer": "1"} for r in ASKED]
    turned = [{"question": Question.of(r).whole, "answer": "1"} for r in TURNED]
    assert not torch.equal(soft_tokens(both, plain), soft_tokens(both, turned))


def test_the_target_s_answer_does_depend_on_the_question(both):
    soft, made = soft_tokens(both, ASKED), recipe()
    told = [generate_answers(both.target, records, soft, made).texts for records in (ASKED, TURNED)]
    assert told[0] != told[1]


@pytest.mark.parametrize("mode", MODES)
def test_the_target_reads_the_question_behind_the_soft_tokens_and_of_the_text_nothing(words, mode):
    question = Question.of(ASKED[0])
    row = words.bridged_row(4, mode, question)
    asked = words.encode(f" {question.query}")
    assert list(row.ids[-len(asked) - len(words.suffix) :]) == [*asked, *words.suffix]
    if mode == "soft_only":
        assert list(row.ids) == [*words.head, *4 * [SOFT], *asked, *words.suffix]
    else:
        own = words.encode(f"Problem: {question.text}")
        assert list(row.ids[slice(*row.span)]) == own


def test_every_arm_of_the_target_reads_the_same_question(words):
    question = Question.of(ASKED[0])
    end = [*words.encode(f" {question.query}"), *words.suffix]
    rows = [words.text_row(question), words.budget_row(2, question)]
    assert all(list(row.ids[-len(end) :]) == end for row in rows)
    assert len(rows[1].ids) == len(words.head) + 2 + len(end)


def test_identity_has_a_soft_token_for_each_token_of_the_text_alone(both, words):
    rows, soft = identity_rows(both.target, [Question.of(r) for r in ASKED])
    for row, own, record in zip(rows, soft, ASKED, strict=True):
        assert list(row.ids).count(SOFT) == len(own)
        assert len(own) == len(words.encode(f"Problem: {record['context']}"))


WORLD = NumberWorld(bridge_study().bridge.world)


def test_the_context_of_the_micro_world_does_not_say_what_is_asked():
    for record in WORLD.make_questions(QUERY_AGNOSTIC, "test", 100):
        assert "Code of" not in record["context"] and record["question"].startswith("Code of")
        listed = record["context"].rstrip(".").replace(",", "").split()
        numbers = dict(zip(listed[::2], listed[1::2], strict=True))
        asked = record["question"].split()[2:]
        assert [numbers[name] for name in asked] == record["answer"].split()
