"""Promises of translators and their training: every term moves them, every toggle is real."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from ablation.bridge.data.prompts import Question
from ablation.bridge.evaluation.bridged_answers import answer_quality, translate
from ablation.bridge.evaluation.generate import Generated
from ablation.bridge.model.activations import target_logits
from ablation.bridge.model.answer_logits import answer_logits
from ablation.bridge.model.batches import make_batch
from ablation.bridge.model.translator import KINDS, new_translator
from ablation.bridge.model.translator_layers import Scale, embedding_rms
from ablation.bridge.training.early_stopping import DevStops
from ablation.bridge.training.losses import (
    TERMS,
    info_nce,
    kl,
    prompt_alignment,
    question_parts,
    total,
)
from ablation.bridge.training.losses import ramp as ramp_
from ablation.bridge.training.train import train_cell
from ablation.bridge.training.trainer import BridgeTrainer
from ablation.training.callbacks import Watch
from ablation.training.trainer_arguments import training_arguments
from tests.support.bridge_tiny import HARDWARE, RECORDS, pair, recipe, split

K = 3
SAMPLE = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
CLOSE = {"atol": 1e-3, "rtol": 0}
log_rms = st.floats(math.log(1e-4), math.log(1e4))  # root mean squares, far beyond real models'


@pytest.fixture(scope="module")
def both():
    return pair()


@pytest.fixture(scope="module")
def own(both):
    return split(both)


def trainer(both, own, over=None, state="unused", seed=1, **options):
    made = recipe(**(over or {}))
    translator = new_translator(made, K, 48, both.target.model, seed)
    return BridgeTrainer(
        model=translator,
        args=training_arguments(made, seed, HARDWARE, state, 4),
        train_dataset=list(range(len(RECORDS))),
        eval_dataset=[0],
        target=both.target,
        split=own,
        dev=own,
        recipe=made,
        stops=DevStops.of(made),
        **options,
    )


def trained(both, own, tmp_path, name="cell", seed=1, **over):
    made = recipe(**over)
    splits = {"train": own, "dev": own}
    arguments = (both.target, splits, made, K, seed, HARDWARE)
    return train_cell(*arguments, name, tmp_path / name)


def first_part(one):
    return one._prepare_inputs(one.collate([0, 1, 2, 3]))["parts"][0]


@pytest.mark.parametrize("kind", ["resampler", "diffusion"])
@pytest.mark.parametrize("term", TERMS)
def test_every_enabled_term_moves_the_translator(both, own, kind, term, tmp_path):
    if term == "flow" and kind == "resampler":
        pytest.skip("the resampler has no flow")
    one = trainer(both, own, {"translator": {"kind": kind}}, state=tmp_path)
    one.model.train()
    terms = one.loss_terms(first_part(one))
    terms[term].backward()
    moved = [n for n, p in one.model.named_parameters() if p.grad is not None and p.grad.any()]
    assert any(n.startswith(("blocks", "source")) for n in moved), moved
    assert all(p.grad is None for p in both.target.model.parameters())


def test_a_detached_term_is_refused():
    with pytest.raises(ValueError, match="flow gives no gradient"):
        total({"flow": torch.tensor(1.0)}, {"flow": 0.1})


def test_weights_are_applied_once():
    value = torch.tensor(2.0, requires_grad=True)
    assert total({"kl": value}, {"kl": 0.1}).item() == pytest.approx(0.2)


OFF = {
    "kl": {"weights": {"kl": 0.0}},
    "info_nce": {"weights": {"info_nce": 0.0}},
    "prompt_alignment": {"weights": {"prompt_alignment": 0.0}},
    "hygiene": {"eos": False},
    "mode": {"mode": "soft_plus_text"},
}


@pytest.mark.parametrize("toggle", OFF)
def test_every_toggle_changes_the_training(both, own, tmp_path, toggle):
    with_it = trained(both, own, tmp_path, "with").last
    without = trained(both, own, tmp_path, "without", **OFF[toggle]).last
    assert any(not torch.equal(with_it[n], without[n]) for n in with_it)


def test_early_stopping_ends_a_training_that_gains_nothing(both, own, tmp_path):
    never = {"plateau": {"patience": 1, "min_delta": 99.0, "min_steps": 0}}
    assert trained(both, own, tmp_path, "a", stops=never).summary["stop_reason"] == "plateau"
    without = trained(both, own, tmp_path, "b", stops={"plateau": None}).summary
    assert without["stop_reason"] == "max_steps" and without["steps"] == 4


def test_a_term_that_is_switched_off_is_not_there(both, own, tmp_path):
    one = trainer(both, own, {"weights": {"kl": 0.0, "info_nce": 0.0}}, state=tmp_path)
    assert set(one.loss_terms(first_part(one))) == {"cross_entropy", "prompt_alignment"}


def test_raw_and_weighted_values_stand_in_the_curve(both, own, tmp_path):
    curve = trained(both, own, tmp_path).curve
    logged = [point for point in curve if "loss" in point]
    assert len(logged) == 4 and {"raw_kl", "weight_kl"} <= set(logged[0])
    assert logged[0]["weight_kl"] < logged[-1]["weight_kl"] < 0.1  # it comes in by and by
    made = recipe()  # one micro-batch a step: the loss is that of what stands beside it
    for point in logged:
        weighted = [point[f"raw_{n}"] * point[f"weight_{n}"] for n in TERMS[:4]]
        assert point["loss"] == pytest.approx(sum(weighted), rel=1e-5)
        ramp = ramp_(point["step"], made.warmup_steps, made.weights.kl_ramp)
        assert point["weight_kl"] == max(ramp, 1e-6) * made.weights.kl


def test_kl_is_taken_answer_token_by_answer_token_from_the_teacher_that_read_the_question(
    both, own
):
    """A student that reads the question as text is its own teacher: nothing is left."""
    words, records = both.target.encoder, RECORDS[:4]
    rows = [
        words.text_row(Question.of(r), words.encode_answer(r["answer"], eos=True)) for r in records
    ]
    made = make_batch(rows, words.pad)
    logits = target_logits(both.target.model, made, None, "soft_only")
    logits, targets = answer_logits(logits, made.labels)
    teacher, ids = (torch.cat(part[:4]) for part in own.teacher)
    assert len(teacher) == len(targets)
    assert kl(logits, teacher, ids).item() == pytest.approx(0, abs=1e-5)
    assert kl(logits.roll(1, 0), teacher, ids).item() > 1e-4
    doubled = kl(*(torch.cat([x, x]) for x in (logits.roll(1, 0), teacher, ids)))
    assert doubled.item() == pytest.approx(kl(logits.roll(1, 0), teacher, ids).item())


def test_kl_of_some_tokens_is_no_more_than_kl_of_all():
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 12), torch.randn(5, 12).log_softmax(-1)
    whole = teacher.topk(12)
    some = teacher.topk(4)
    exact = kl(student, whole.values, whole.indices).item()
    wanted = (teacher.exp() * (teacher - student.log_softmax(-1))).sum(1).mean().item()
    assert exact == pytest.approx(wanted, rel=1e-4)
    assert 0 <= kl(student, some.values, some.indices).item() <= exact + 1e-6


def test_contrast_wants_questions_that_differ():
    soft, same = torch.randn(4, 2, 8), torch.ones(4, 8)
    with pytest.raises(ValueError, match="all the same"):
        info_nce(soft, same, 0.1)
    with pytest.raises(ValueError, match="larger batch"):
        info_nce(soft[:1], torch.randn(1, 8), 0.1)
    questions = torch.randn(4, 8)
    near = questions[:, None].expand(-1, 2, -1)
    assert info_nce(near, questions, 0.1) < info_nce(near.flip(0), questions, 0.1)


def test_alignment_is_zero_on_the_question_s_own_question_parts():
    embedded, span = torch.randn(2, 6, 4), torch.ones(2, 6, dtype=torch.bool)
    span[0, 0] = False
    parts, present = question_parts(embedded, span, 3)
    torch.testing.assert_close(parts[1], embedded[1].view(3, 2, 4).mean(1))
    assert prompt_alignment(parts, parts, present, 1.0) == 0
    many, there = question_parts(embedded, span, 9)
    assert there[1].sum() == 6 and many[~there].abs().sum() == 0


# ---- translators ---------------------------------------------------------------------------------


def made(kind, k=K, rms=0.01):
    torch.manual_seed(0)
    return KINDS[kind](k, 48, 32, rms, recipe(translator={"kind": kind}).translator).eval()


def fed(translator, states, mask=None):
    mask = torch.ones(states.shape[:2], dtype=torch.bool) if mask is None else mask
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():
        return translator(states, mask, generator=noise).tokens


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rms", [0.0027, 0.0107, 0.5])
def test_soft_tokens_have_the_scale_of_the_target_s_embeddings(kind, rms):
    tokens = fed(made(kind, rms=rms), torch.randn(2, 7, 48))
    size = tokens.pow(2).mean(-1).sqrt()
    assert (size / rms).log().abs().max() < 0.1


@settings(max_examples=50)
@given(log_rms, log_rms, st.floats(-7, 7))
def test_the_scale_can_be_learned_and_is_never_clamped(log_size, log_target, learned):
    """Whatever comes in, the size is the learned one; where it were clamped, its gradient would be
    zero."""
    scale = Scale(math.exp(log_target))
    with torch.no_grad():
        scale.log_scale.fill_(learned)
    scaled = scale(math.exp(log_size) * SAMPLE).pow(2).mean(-1).sqrt()
    torch.testing.assert_close(scaled.log(), torch.full_like(scaled, log_target + learned), **CLOSE)
    scaled.log().mean().backward()
    assert scale.log_scale.grad.item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("learned", [-7.0, 7.0])
def test_no_translator_limits_its_learned_scale(kind, learned):
    states, translator = torch.randn(2, 7, 48), made(kind)
    plain = fed(translator, states)
    with torch.no_grad():
        translator.scale.log_scale.fill_(learned)
    torch.testing.assert_close(fed(translator, states), plain * math.exp(learned))


@settings(max_examples=50)
@given(log_rms)
def test_the_size_of_an_embedding_table_follows_its_units(log_size):
    size = math.exp(log_size)
    rows = SAMPLE[0] / SAMPLE[0].pow(2).mean(-1, keepdim=True).sqrt()
    table = rows * size * torch.tensor([[0.1], [1.0], [70.0]])  # one row is the median
    assert math.log(embedding_rms(table)) == pytest.approx(log_size, abs=1e-3)


@pytest.mark.parametrize("kind", ["resampler", "diffusion"])
def test_order_and_content_of_the_source_reach_the_soft_tokens(kind):
    states = torch.randn(1, 7, 48, generator=torch.Generator().manual_seed(1))
    translator = made(kind)
    tokens = fed(translator, states)
    assert not torch.allclose(tokens, fed(translator, states.flip(1)), atol=1e-5)
    assert not torch.allclose(tokens, fed(translator, states.roll(1, 2)), atol=1e-5)
    assert not torch.allclose(tokens[0, 0], tokens[0, 1], atol=1e-5)


@pytest.mark.parametrize("kind", ["resampler", "diffusion"])
def test_padding_of_the_source_says_nothing(kind):
    states, translator = torch.randn(1, 7, 48), made(kind)
    wide = torch.cat([states, torch.full((1, 3, 48), 9.0)], 1)
    mask = torch.arange(10)[None] < 7
    torch.testing.assert_close(fed(translator, states), fed(translator, wide, mask))


def test_the_flow_leads_to_the_question_and_not_to_places_beyond_its_end(monkeypatch):
    translator, states = made("diffusion"), torch.randn(2, 7, 48)
    monkeypatch.setattr(translator, "velocity", lambda x, *_: torch.zeros_like(x))
    present = torch.arange(K)[None] < torch.tensor([[1], [2]])
    teacher = torch.zeros(2, K, 32).masked_fill(~present[..., None], 9.0)
    flow = translator(states, torch.ones(2, 7, dtype=torch.bool), teacher=(teacher, present)).flow
    assert 0.5 < flow.item() < 2  # the noise alone


def test_the_source_free_prompt_reads_no_source():
    translator = made("source_free")
    assert torch.equal(
        fed(translator, torch.randn(2, 7, 48)), fed(translator, torch.zeros(2, 7, 48))
    )


def test_a_diffusion_s_noise_is_fixed_by_its_seed(both, own):
    made_of = recipe(translator={"kind": "diffusion"})
    translator = new_translator(made_of, K, 48, both.target.model, 1)
    first = translate(translator, own.activations)
    torch.randn(7)  # whatever else draws numbers
    assert torch.equal(first, translate(translator, own.activations))
    assert not torch.equal(first, translate(translator, own.activations, noise_seed=1))


def test_translators_are_float32_whatever_the_target_is(both):
    target = pair().target.model.bfloat16()
    translator = new_translator(recipe(), K, 48, target, 1)
    assert {p.dtype for p in translator.parameters()} == {torch.float32}
    made_rows = make_batch(
        [both.target.encoder.bridged_row(K, "soft_only", Question("q"))], both.target.encoder.pad
    )
    soft = fed(translator, torch.randn(1, 5, 48))
    assert target_logits(target, made_rows, soft, "soft_only").dtype == torch.bfloat16


# ---- training ------------------------------------------------------------------------------------


def test_evaluation_is_undone_and_drops_out_nothing(both, own, tmp_path):
    one = trainer(both, own, {"translator": {"dropout": 0.5}}, state=tmp_path)
    one.model.train()
    first = one.losses()
    assert one.model.training and one.losses() == first
    one.model.eval()
    translate(one.model, own.activations)
    assert not one.model.training
    assert {"unique", "empty", "invalid"} <= set(first)  # what shows a collapse


def test_the_best_weights_are_a_copy(both, own, tmp_path):
    result = trained(both, own, tmp_path)
    looks = {e["step"]: e for e in result.curve if "eval_loss" in e}
    best = result.summary["best_step"]
    kept = load_file(tmp_path / "cell" / f"best-{best}.safetensors")
    assert all(torch.equal(result.best[n], kept[n]) for n in kept)
    one = trainer(both, own, state=tmp_path / "again")
    one.model.load_state_dict(result.best)
    assert one.losses()["eval_loss"] == pytest.approx(looks[best]["eval_loss"], abs=1e-6)


def test_a_killed_training_ends_with_the_bits_of_one_that_was_not(both, own, tmp_path, monkeypatch):
    whole = trained(both, own, tmp_path, "whole")

    class Killed(RuntimeError):
        pass

    watch = Watch.on_step_end

    def kill(self, args, state, control, **kwargs):
        watch(self, args, state, control, **kwargs)
        if state.global_step == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_step_end", kill)
        with pytest.raises(Killed):
            trained(both, own, tmp_path, "cut")
    again = trained(both, own, tmp_path, "cut")
    assert again.record["resumes"] == [2]
    assert all(torch.equal(whole.last[n], again.last[n]) for n in whole.last)
    assert all(torch.equal(whole.best[n], again.best[n]) for n in whole.best)
    assert whole.curve == again.curve


def test_the_seed_decides_and_nothing_else(both, own, tmp_path):
    one, same = (trained(both, own, tmp_path, name) for name in ("a", "b"))
    other = trained(both, own, tmp_path, "c", seed=2)
    assert all(torch.equal(one.last[n], same.last[n]) for n in one.last)
    assert any(not torch.equal(one.last[n], other.last[n]) for n in one.last)


def test_quality_counts_what_shows_a_collapse():
    records = [{"answer": "1"}, {"answer": "2"}, {"answer": "3"}]
    said = Generated(["#### 1", "#### 1", ""], [3, 3, 5], [True, True, False], None)
    found = answer_quality(said, records)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert (found["unique"], found["empty"], found["invalid"]) == (2, 1, 1)
    assert found["unended"] == 1


def test_ramps_do_not_jump():
    values = [ramp_(step, 10, 5) for step in range(20)]
    assert values[10] == 0 and values[15] == 1 and math.isclose(values[12], 0.4)
    assert max(b - a for a, b in zip(values, values[1:], strict=False)) <= 0.2 + 1e-9


def test_a_training_that_is_no_longer_finite_keeps_its_last_whole_state(both, own, tmp_path):
    good = trained(both, own, tmp_path, "good")
    bad, calls = BridgeTrainer.compute_loss, []

    def breaks(self, *arguments, **named):
        calls.append(None)
        return bad(self, *arguments, **named) * (1 if len(calls) < 4 else float("nan"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BridgeTrainer, "compute_loss", breaks)
        cut = trained(both, own, tmp_path, "bad")
    assert (cut.summary["stop_reason"], cut.summary["steps"]) == ("non_finite", 2)
    looked = {e["step"]: e["eval_loss"] for e in good.curve if "eval_loss" in e}
    assert {e["step"]: e["eval_loss"] for e in cut.curve if "eval_loss" in e} == {2: looked[2]}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(FloatingPointError, match="Lower"):
        calls.extend([None] * 4)
        patch.setattr(BridgeTrainer, "compute_loss", breaks)
        trained(both, own, tmp_path, "at once")


def test_the_benchmark_reports_what_cached_activations_save_and_that_they_change_no_loss(
    monkeypatch, capsys
):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[3] / "benchmarks")
    from bridge_step import main

    assert main(["--steps", "2"]) == 0
    told = json.loads(capsys.readouterr().out)  # `make bench` keeps it: nothing else is printed
    assert told["steps"] == 2 and told["largest_difference_of_losses"] < 1e-3
    assert min(told["seconds_cached"], told["seconds_uncached"]) > 0
