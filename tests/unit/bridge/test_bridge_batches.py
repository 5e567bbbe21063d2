"""Promises of what the two models read: nothing cut, nothing leaked, every token in its place."""

import inspect

import pytest
import torch

from ablation.bridge.data.prompts import Question, problem_text, problem_with_draft
from ablation.bridge.evaluation.bridged_answers import generate_answers, translate
from ablation.bridge.evaluation.generate import generate
from ablation.bridge.evaluation.unbridged_arms import identity_rows
from ablation.bridge.model.activations import source_activations, target_logits
from ablation.bridge.model.batches import SOFT, make_batch
from ablation.bridge.model.embeddings import embed
from ablation.bridge.model.prompt_encoder import PromptEncoder, TooLong
from ablation.model.packing import IGNORED_LABEL
from ablation.vocabulary.bridge import MODES
from tests.support.bridge_tiny import RECORDS, pair, recipe


@pytest.fixture(scope="module")
def both():
    return pair()


@pytest.fixture(scope="module")
def words(both):
    return both.target.encoder


def test_soft_only_holds_no_word_of_the_question_and_one_bos(words):
    row = words.bridged_row(4, "soft_only", Question.of(RECORDS[0]))
    assert list(row.ids) == [*words.bos, *4 * [SOFT], *words.suffix]
    for mode in MODES:
        ids = words.bridged_row(4, mode, Question.of(RECORDS[0])).ids
        assert [i for i in ids if i == words.bos[0]] == words.bos


def test_the_source_reads_the_question_and_nothing_else_for_the_translator(words):
    row, question = words.source_row(RECORDS[0]["question"]), RECORDS[0]["question"]
    assert list(row.ids) == [*words.bos, *words.encode(problem_text(question))]
    assert row.span == (len(words.bos), len(row.ids)) and not row.answer


def test_every_arm_ends_with_the_same_suffix(words):
    question = Question.of(RECORDS[0])
    rows = [words.bridged_row(4, mode, question) for mode in MODES]
    rows += [words.text_row(question), words.budget_row(3, question)]
    rows += [words.problem_row(problem_with_draft(question.whole, "7"))]
    assert all(list(row.ids[-len(words.suffix) :]) == words.suffix for row in rows)


def test_a_label_is_the_id_that_stands_there_and_eos_is_supervised(words):
    rows = [
        words.bridged_row(
            3, "soft_plus_text", Question.of(r), words.encode_answer(r["answer"], eos=True)
        )
        for r in RECORDS
    ]
    made = make_batch(rows, words.pad)
    chosen = made.labels != IGNORED_LABEL
    assert (made.labels[chosen] == made.ids[chosen]).all()
    assert (chosen & ~made.mask).sum() == 0 and (chosen & made.soft).sum() == 0
    last = [labels[labels != IGNORED_LABEL][-1] for labels in made.labels]
    assert all(token == words.eos for token in last)
    assert words.encode_answer("7", eos=False) == words.encode_answer("7", eos=True)[:-1]


def test_nothing_is_padded_between_soft_tokens_and_answer(words):
    rows = [
        words.bridged_row(
            2, "soft_only", Question.of(r), words.encode_answer(r["answer"] * n, eos=True)
        )
        for n, r in enumerate(RECORDS[:4], 1)
    ]
    made = make_batch(rows, words.pad)
    for mask, positions in zip(made.mask, made.positions, strict=True):
        n = int(mask.sum())
        assert mask[:n].all() and positions[:n].tolist() == list(range(n))


def test_a_question_that_is_too_long_is_an_error_not_a_cut(words):
    with pytest.raises(TooLong, match="allowed"):
        PromptEncoder(words.tokenizer, 5).text_row(
            Question("a question of far more than five tokens")
        )


def test_rows_to_generate_from_take_no_answer(words):
    row = words.bridged_row(2, "soft_only", Question("q"), words.encode_answer("7", eos=True))
    with pytest.raises(ValueError, match="shown to the model"):
        make_batch([row], words.pad, left=True)
    for asked in (generate, translate, identity_rows):
        names = set(inspect.signature(asked).parameters)
        assert not names & {"answer", "answers", "gold", "records"}


@pytest.mark.parametrize("mode", MODES)
def test_permuting_gold_answers_changes_no_generation(both, words, mode):
    soft = torch.randn(len(RECORDS), 3, 32, generator=torch.Generator().manual_seed(1))
    made = recipe(mode=mode, eval_batch=4)
    said = generate_answers(both.target, RECORDS, soft, made).texts
    turned = [
        r | {"answer": other["answer"]}
        for r, other in zip(RECORDS, RECORDS[1:] + RECORDS[:1], strict=True)
    ]
    assert generate_answers(both.target, turned, soft, made).texts == said


def test_logits_do_not_depend_on_the_other_rows_of_a_batch(both, words):
    soft = torch.randn(len(RECORDS), 3, 32, generator=torch.Generator().manual_seed(1))
    rows = [words.bridged_row(3, "soft_plus_text", Question.of(r)) for r in RECORDS]
    for left in (False, True):
        together = make_batch(rows, words.pad, left=left)
        logits = target_logits(both.target.model, together, soft, "soft_plus_text")
        for at, row in enumerate(rows):
            alone = target_logits(
                both.target.model, make_batch([row], words.pad), soft[at : at + 1], "soft_plus_text"
            )
            torch.testing.assert_close(logits[at][together.mask[at]], alone[0], atol=1e-4, rtol=0)


def test_the_adapter_adds_to_the_question_and_to_nothing_else(both, words):
    rows = [words.bridged_row(3, "adapter", Question.of(r)) for r in RECORDS[:3]]
    for left in (False, True):
        made = make_batch(rows, words.pad, left=left)
        table = both.target.model.get_input_embeddings()
        soft = torch.ones(3, 3, table.weight.shape[1])
        change = embed(made, soft, table, "adapter") - table(made.ids)
        touched = change.abs().sum(-1) > 0
        assert (touched <= made.span).all() and (touched.sum(1) == 3).all()
        assert not touched[~made.mask].any()


def test_source_and_target_reading_is_one_forward_s_reading(both, words):
    """Cached source activations are what the model gives to each question alone."""
    asked = [r["question"] for r in RECORDS]
    together = source_activations(both.source, asked, -1, 4).rows()
    for question, states in zip(asked, together, strict=True):
        ids = torch.tensor([words.source_row(question).ids])
        with torch.no_grad():
            alone = both.source.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        torch.testing.assert_close(states, alone, atol=1e-4, rtol=0)
