"""Promises of packing: every token where it should be, every prediction once, nothing too long."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from ablation.model.packing import NARROWEST, Example, fixed_rows, forwards, pack, token_count

PADDING_DOC = -1  # as `Rows` promises
IGNORED_LABEL = -100  # what torch's cross_entropy leaves out

tokens = st.lists(st.integers(3, 90), min_size=0, max_size=6)
continuations = st.lists(st.lists(st.integers(3, 90), max_size=5), max_size=3)


def one_response(prompt, response):
    return Example(prompt, [response])


examples_of_any_shape = st.lists(st.builds(Example, tokens, continuations), max_size=12)


def read_back(rows):
    """The examples that `rows` hold, by doc: (prompt, {branch: continuation}), from its tensors."""
    found = {}
    for row in range(len(rows.input_ids)):
        for column in range(rows.input_ids.shape[1]):
            doc, branch = int(rows.doc[row, column]), int(rows.branch[row, column])
            if doc != PADDING_DOC:
                place = found.setdefault(doc, {}).setdefault(branch, [])
                place.append(
                    (int(rows.input_ids[row, column]), int(rows.position_ids[row, column]))
                )
    return found


@settings(max_examples=150, deadline=None)
@given(examples_of_any_shape, st.booleans())
def test_every_token_stands_once_with_its_branch_and_position(examples, keep_last):
    rows = pack(examples, capacity=30, keep_last=keep_last)
    found = read_back(rows)
    for doc, example in enumerate(examples):
        branches = found.pop(doc, {})
        assert [token for token, _ in branches.pop(0, [])] == list(example.prompt)
        for number, continuation in enumerate(example.continuations):
            kept = continuation if keep_last else continuation[:-1]
            start = len(example.prompt)
            expected = [(token, start + i) for i, token in enumerate(kept)]
            assert branches.pop(number + 1, []) == expected
        assert not branches
    assert not found


@settings(max_examples=150, deadline=None)
@given(examples_of_any_shape, st.booleans())
def test_each_target_is_predicted_from_the_token_before_it(examples, keep_last):
    rows = pack(examples, capacity=30, keep_last=keep_last)
    expected = []
    owner = 0
    for doc, example in enumerate(examples):
        for number, continuation in enumerate(example.continuations):
            whole = [*example.prompt, *continuation]
            for position in range(max(len(example.prompt), 1), len(whole)):
                branch = 0 if position == len(example.prompt) else number + 1
                expected.append((owner, doc, branch, position - 1, whole[position]))
            owner += 1
    predictor = (rows.target_row, rows.target_position)
    found = zip(
        rows.target_owner.tolist(),
        rows.doc[predictor].tolist(),
        rows.branch[predictor].tolist(),
        rows.position_ids[predictor].tolist(),
        rows.target_id.tolist(),
        strict=True,
    )
    assert sorted(found) == sorted(expected)
    assert rows.continuations == owner


def by_first_fit(lengths, order, capacity):
    """Indices of `lengths` by row, found by trying every row in turn."""
    rows: list[list[int]] = []
    for index in order:
        for row in rows:
            if sum(lengths[other] for other in row) + lengths[index] <= capacity:
                row.append(index)
                break
        else:
            rows.append([index])
    return rows


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=30))
def test_each_example_goes_to_the_first_row_with_room(lengths):
    rows = pack([Example([5] * length, []) for length in lengths], capacity=12)
    expected = by_first_fit(lengths, range(len(lengths)), 12)
    found = [sorted(set(row.tolist()) - {PADDING_DOC}) for row in rows.doc]
    assert found == expected
    assert rows.input_ids.shape[1] == max([0] + [sum(lengths[d] for d in r) for r in expected])


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([256, 512, 1000]).flatmap(
        lambda most: st.tuples(st.lists(st.integers(0, most), max_size=20), st.just(most))
    ),
    st.sampled_from([1, 4, 8]),
)
def test_fixed_rows_take_the_longest_first_and_the_least_width_that_holds_them(drawn, widths):
    lengths, capacity = drawn
    rows = list(fixed_rows(lengths, capacity, widths))
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    assert [members for members, _ in rows] == by_first_fit(lengths, longest_first, capacity)
    known = [capacity * n // widths for n in range(1, widths + 1)]
    for members, width in rows:
        used = sum(lengths[i] for i in members)
        assert width == max(NARROWEST, min(w for w in known if w >= used))


@settings(max_examples=50, deadline=None)
@given(examples_of_any_shape.filter(len), st.booleans())
def test_forwards_hold_every_target_once_in_one_batch_or_one_row_each(examples, fixed):
    batches = forwards(examples, 256, fixed)
    if fixed:
        widths = [width for _, width in fixed_rows([token_count(e) for e in examples], 256)]
        assert [tuple(rows.input_ids.shape) for rows in batches] == [(1, w) for w in widths]
    else:
        (rows,) = batches
        assert torch.equal(rows.input_ids, pack(examples, 256).input_ids)
    found = sorted(t for rows in batches for t in rows.target_id.tolist())
    assert found == sorted(pack(examples, 256).target_id.tolist())


def test_labels_stand_at_the_predictor_of_their_token():
    rows = pack([Example([5, 6], [[7, 8]]), Example([9], [[10]])], capacity=20, width=8)
    none = IGNORED_LABEL
    assert rows.labels.tolist() == [[none, 7, 8, none, 10, none, none, none]]
    assert rows.input_ids.tolist() == [[5, 6, 7, 8, 9, 10, 0, 0]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.builds(one_response, tokens, tokens), min_size=1, max_size=8))
def test_cross_entropy_over_labels_is_that_over_targets(examples):
    rows = pack(examples, capacity=30)
    assume(len(rows.target_id))
    logits = torch.randn(*rows.input_ids.shape, 91, generator=torch.Generator().manual_seed(0))
    by_labels = cross_entropy(logits.flatten(0, 1), rows.labels.flatten())
    by_targets = cross_entropy(logits[rows.target_row, rows.target_position], rows.target_id)
    torch.testing.assert_close(by_labels, by_targets)


def test_labels_of_a_shared_prompt_are_refused():
    with pytest.raises(ValueError, match="one continuation"):
        _ = pack([Example([5, 6], [[7], [8]])], capacity=20).labels


def test_an_example_longer_than_a_row_is_named_with_its_length():
    with pytest.raises(ValueError, match="example 1 takes 5 tokens.* holds 4"):
        pack([Example([5], [[6]]), Example([5, 6, 7], [[8, 9]])], capacity=4)
    assert token_count(Example([5, 6, 7], [[8, 9]]), keep_last=False) == 4


def test_a_row_wider_than_asked_for_is_refused():
    with pytest.raises(ValueError, match="5 tokens does not fit the width of 4"):
        pack([Example([5, 6, 7], [[8, 9]])], capacity=8, width=4)


def test_rows_move_as_a_whole():
    rows = pack([Example([5, 6], [[7]])], capacity=8).to("meta")
    assert rows.target_owner.device == rows.doc.device == torch.device("meta")
    assert rows.continuations == 1
