"""Promises of the masks as a registry: a new mask is one entry in each of two tables."""

import pytest
import torch

from ablation.model import masks
from ablation.model.leak_audit import leak_audit
from ablation.model.masks import MASK_RULES, MaskRule, UnknownMask, mask_rule, rule
from ablation.model.packing import Example, pack
from ablation.scoring.masked_lm import MaskedLM
from ablation.vocabulary.masks import MASK, MASKS, Mask
from tests.support.tiny import ids, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
NEW = "first_response_open"  # a prompt in both directions that the first response belongs to


@pytest.fixture
def new_mask(monkeypatch):
    """A mask that neither module has: the prompt and its first continuation see each other."""
    entry = MaskRule(
        branch_path=lambda branch: torch.where(branch == 1, 0, branch),
        sees_ahead=lambda branch: branch <= 1,
    )
    monkeypatch.setitem(MASK_RULES, NEW, entry)
    properties = Mask(NEW, bidirectional_prompt=True, prompt_sees_response=True, leaks=True)
    monkeypatch.setitem(MASK, NEW, properties)


def allowed(mask, rows):
    """[tokens, tokens] bool of the first row."""
    index = torch.arange(rows.doc.shape[1])
    zero = torch.tensor(0)
    function = rule(mask, rows.doc, rows.branch, rows.position_ids)
    return function(zero, zero, index[:, None], index[None, :])


def test_both_tables_have_the_same_masks():
    assert tuple(MASK_RULES) == MASKS == tuple(MASK)


@pytest.mark.parametrize("mask", MASKS)
def test_the_properties_of_a_mask_are_those_of_its_rule(mask):
    rows = pack([Example(ids(4, 1), [ids(3, 2)])], 64)
    seen, prompt = allowed(mask, rows), rows.branch[0] == 0
    later = torch.ones_like(seen).triu(1)
    properties = MASK[mask]
    assert bool((seen & later)[prompt][:, prompt].any()) == properties.bidirectional_prompt
    assert bool(seen[prompt][:, ~prompt].any()) == properties.prompt_sees_response
    own_target = rows.target_position, rows.target_position + 1
    inside = own_target[1] < seen.shape[0]  # the last prediction has its target in no column
    assert bool(seen[own_target[0][inside], own_target[1][inside]].any()) == properties.leaks


def test_an_unknown_mask_is_refused_with_the_known_ones():
    with pytest.raises(UnknownMask, match="unknown mask 'prefix': expected one of causal, prefill"):
        mask_rule("prefix")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_new_mask_is_computed_audited_and_scored_by_its_entries_alone(
    new_mask, tokenizer, attention
):
    model = tiny_model("llama", vocabulary=len(tokenizer), attention=attention)
    rows = pack([Example(ids(4, 1), [ids(3, 2), ids(2, 3)])], 64)
    seen, branch = allowed(NEW, rows), rows.branch[0]
    assert seen[branch <= 1][:, branch <= 1].all() and not seen[branch <= 1][:, branch == 2].any()
    assert leak_audit(model, NEW).leaks
    lm = MaskedLM(model, tokenizer, mask=NEW)
    pairs = [lm._encode_pair("Who has the key?", f" {name}") for name in ("Eve", "Tom")]
    examples, _, _ = lm._examples([(None, *pair) for pair in pairs])
    assert [len(example.continuations) for example in examples] == [1, 1]  # none is shared


def test_flex_attention_takes_a_new_mask_too(new_mask):
    rows = pack([Example(ids(4, 1), [ids(3, 2), ids(2, 3)])], 64)
    model = tiny_model("llama", attention="flex_attention")
    blocks = masks.attention_mask(model, NEW, rows)
    index = torch.arange(rows.doc.shape[1])
    zero = torch.tensor(0)
    seen = blocks.mask_mod(zero, zero, index[:, None], index[None, :])
    assert torch.equal(seen, allowed(NEW, rows))
