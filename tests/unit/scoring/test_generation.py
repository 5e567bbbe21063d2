"""Promises of generation tasks: stock HFLM under `causal`, real inference everywhere."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate as lm_eval_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import MultiTokenEOSCriteria
from lm_eval.tasks import TaskManager

from ablation.config.interventions import read_settings
from ablation.data.generation.rows import ROW_COLUMNS, TEXT_COLUMNS
from ablation.interventions.registry import make
from ablation.model.checkpoints import load
from ablation.model.forward import target_logits
from ablation.model.packing import Example, pack
from ablation.scoring.generation import greedy
from ablation.scoring.generation.decoding_audit import CannotGenerate, decoding_audit
from ablation.scoring.generation.evaluate import evaluate_generation, generated
from ablation.scoring.generation.greedy import GreedyDecoder
from ablation.scoring.generation.items import GenerationItems
from ablation.scoring.generation.stops import StopStrings
from ablation.scoring.masked_lm import MaskedLM
from tests.support.gsm import TASK, write_gsm
from tests.support.tiny import ids, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[3]
CONTEXTS = [
    "Question: who has the key?\nAnswer:",
    "The hawk",
    "<s>The hawk chose",
    "Then Tom gave the red key to Eve, because",
    "naïve café — 12 + 34 =",
    "Question: " * 30,
    " ",
]
CASES = {  # {architecture: stop strings}
    "ministral3": ["e"],
    "mistral": ["key", "Eve", "a"],
    "qwen3_sliding": ["\n", "he", " "],
    "gemma2": [],
}
PROMPTS = [ids(n, n) for n in (3, 17, 9, 9, 30, 1, 12, 22, 5)]


def never(tokens):
    return False


def stock_texts(model, tokenizer, until, batch_size=1, contexts=CONTEXTS, **options):
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, **options)
    kwargs = {"max_gen_toks": 12, "do_sample": False}
    requests = [
        Instance("generate_until", {}, (text, {"until": [*until], **kwargs}), number)
        for number, text in enumerate(contexts)
    ]
    return lm.generate_until(requests, disable_tqdm=True)


def our_texts(model, tokenizer, until, slots, contexts=CONTEXTS, **options):
    lm = MaskedLM(model, tokenizer, label="test", **options)
    found = generated(lm, GreedyDecoder(model, "causal", slots), "task", contexts, until, 12)
    return [one.text for one in found]


# ---- stock lm_eval under causal ----------------------------------------------------------------


@pytest.mark.parametrize("architecture, until", CASES.items(), ids=CASES)
def test_texts_are_those_of_stock_hflm_one_at_a_time(architecture, until, tokenizer):
    attention = "eager" if architecture == "gemma2" else "sdpa"
    model = tiny_model(architecture, vocabulary=len(tokenizer), attention=attention)
    expected = stock_texts(model, tokenizer, until)
    assert len(set(expected)) > 3
    for slots in (1, 3, 8):
        assert our_texts(model, tokenizer, until, slots) == expected


@pytest.mark.parametrize("options", [{"max_length": 30}, {"add_bos_token": False}], ids=str)
def test_bos_and_truncation_are_those_of_stock_hflm(options, tokenizer):
    model = tiny_model("llama", vocabulary=len(tokenizer))
    expected = stock_texts(model, tokenizer, ["e"], **options)
    assert our_texts(model, tokenizer, ["e"], 4, **options) == expected
    assert expected != stock_texts(model, tokenizer, ["e"])


def test_texts_are_those_of_stock_hflm_in_batches(tokenizer):
    """But for a prompt that begins with BOS: in a batch, HFLM asks the first prompt alone."""
    model = tiny_model("ministral3", vocabulary=len(tokenizer))
    plain = [text for text in CONTEXTS if "<s>" not in text]
    expected = stock_texts(model, tokenizer, ["key", "a"], batch_size=3, contexts=plain)
    assert our_texts(model, tokenizer, ["key", "a"], 3, contexts=plain) == expected


def test_eos_of_the_generation_config_ends_a_text(tokenizer):
    model = tiny_model("llama", vocabulary=len(tokenizer))
    text = our_texts(model, tokenizer, [], 8)
    ends = tokenizer.encode(text[0], add_special_tokens=False)[3]
    model.generation_config.eos_token_id = [2, ends]
    expected = stock_texts(model, tokenizer, [])
    assert our_texts(model, tokenizer, [], 8) == expected != text


@pytest.mark.parametrize("base", ["tiny", "shipped"])
def test_items_in_the_format_of_gsm8k_are_judged_as_by_stock_lm_eval(base, tokenizer, tmp_path):
    """With examples in prompts and both filters, some answers of which are right."""
    if base == "shipped":
        model, tokenizer = load(ROOT / "resources/micro/base")
    else:
        model = tiny_model("ministral3", vocabulary=len(tokenizer))
    write_gsm(tmp_path, task=TASK.replace("[0-9]", "[0-9A-Za-z]"))
    _answer_as(model, tokenizer, tmp_path)
    options = {"task_folder": tmp_path, "data_folder": tmp_path, "fewshot_seed": 7}
    found = evaluate_generation(model, GenerationItems(tokenizer, ["gsm"], **options), "causal")
    theirs = _judged_by_lm_eval(model, tokenizer, tmp_path)
    rows = found.rows.merge(found.texts, on=["task", "doc_id", "filter", "mask"])
    assert list(found.rows) == list(ROW_COLUMNS) and list(found.texts) == list(TEXT_COLUMNS)
    samples = {(s["doc_id"], s["filter"]): s for s in theirs["samples"]["gsm"]}
    assert len(rows) == len(samples) == 24
    for row in rows.itertuples():
        sample = samples[row.doc_id, row.filter]
        assert [row.text] == sample["resps"][0] and [row.answer] == sample["filtered_resps"]
        assert row.exact_match == sample["exact_match"]
        hashes = (row.doc_hash, row.prompt_hash, row.target_hash)
        assert hashes == tuple(sample[f"{name}_hash"] for name in ("doc", "prompt", "target"))
    shares = {key: value for key, value in theirs["results"]["gsm"].items() if "," in key}
    expected = {k: v for k, v in shares.items() if k.startswith("exact_match,")}
    assert found.facts["lm_eval"]["gsm"] == expected
    assert 0 < expected["exact_match,flexible-extract"] < 1
    assert found.facts["n-shot"] == {"gsm": 2}
    json.dumps(found.facts)


def _answer_as(model, tokenizer, folder):
    """Make what the model says the right answer of every second item."""
    options = {"task_folder": folder, "data_folder": folder, "fewshot_seed": 7}
    texts = evaluate_generation(model, GenerationItems(tokenizer, ["gsm"], **options), "causal")
    said = texts.texts[texts.texts["filter"] == "flexible-extract"].answer.tolist()
    items = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    for item, answer in zip(items[::2], said[::2], strict=True):
        item["answer"] = f"#### {answer}"
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, items)))


def _judged_by_lm_eval(model, tokenizer, folder):
    metadata = {"data_folder": str(folder)}
    manager = TaskManager(include_path=str(folder), include_defaults=False, metadata=metadata)
    loaded = manager.load(["gsm"])
    loaded["tasks"]["gsm"].set_fewshot_seed(7)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    return lm_eval_evaluate(lm, loaded, bootstrap_iters=0, log_samples=True)


# ---- real inference under every mask and intervention -------------------------------------------

INTERVENTIONS = {
    "none": None,
    "window in the prefill": {"kind": "window", "tokens": 4, "when": "prefill"},
    "window everywhere": {"kind": "window", "tokens": 4, "when": "everywhere"},
    "positions": {"kind": "positions"},
    "heads": {"kind": "heads", "heads": [[0, 1], [1, 2]]},
    "layers": {"kind": "drop_layers", "layers": [1]},
}


@pytest.mark.parametrize("name", INTERVENTIONS)
@pytest.mark.parametrize("mask", ["causal", "prefill_bidir"])
def test_each_token_is_the_most_likely_one_of_a_forward_of_the_whole_text(mask, name):
    # An intervention's window must be far from a model's own.
    model = tiny_model("qwen3" if "window" in name else "qwen3_sliding", tie=False)
    if INTERVENTIONS[name]:
        values = read_settings(INTERVENTIONS[name]).model_dump()
        taken = make(name, values)
        taken.apply(model)
        taken.audit(model)
    decoding_audit(model, mask)
    texts = GreedyDecoder(model, mask, slots=4).run(PROMPTS, 8, never)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        rows = pack([Example(prompt, [text.tokens])], capacity=64)
        with torch.no_grad():
            logits = target_logits(model, rows, mask)
        assert logits.argmax(-1).tolist() == text.tokens


def test_masks_give_other_texts():
    model = tiny_model("ministral3")
    texts = [
        GreedyDecoder(model, mask).run(PROMPTS, 8, never) for mask in ("causal", "prefill_bidir")
    ]
    assert texts[0] != texts[1]
    assert texts[1] == GreedyDecoder(model, "full_bidir").run(PROMPTS, 8, never)


def test_a_model_that_uses_its_cache_in_another_way_is_refused_by_name(monkeypatch):
    model = tiny_model("qwen3_sliding")
    attention = model.model.layers[1].self_attn
    stock = attention.forward

    def forward(hidden_states, past_key_values=None, **options):
        if hidden_states.shape[1] == 1:  # decoding: forgets the values of the token before
            past_key_values._values[1][:, :, 3] = 0
        return stock(hidden_states=hidden_states, past_key_values=past_key_values, **options)

    monkeypatch.setattr(attention, "forward", forward)
    named = r"Qwen3ForCausalLM \(cache of DynamicLayer, DynamicSlidingWindowLayer\).*other logits"
    with pytest.raises(CannotGenerate, match=named):
        decoding_audit(model, "causal")
    monkeypatch.setattr(attention, "forward", lambda **options: options["past_key_values"].conv)
    with pytest.raises(CannotGenerate, match=r"Qwen3ForCausalLM.*no token can be decoded"):
        decoding_audit(model, "causal")


# ---- slots -------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(st.data())
def test_no_text_depends_on_the_slots_or_on_other_prompts(data):
    model = tiny_model("ministral3")
    lengths = data.draw(st.lists(st.integers(1, 24), min_size=1, max_size=9))
    stop = data.draw(st.integers(0, 95))
    prompts = [ids(length, number) for number, length in enumerate(lengths)]
    slots = data.draw(st.integers(1, 5))
    ends = lambda tokens: tokens[-1] % 7 == stop % 7  # noqa: E731
    finished = []
    found = GreedyDecoder(model, "prefill_bidir", slots).run(
        prompts, 9, ends, {stop}, finished.append
    )
    assert finished == list(range(1, len(prompts) + 1))
    for prompt, one in zip(prompts, found, strict=True):
        (alone,) = GreedyDecoder(model, "prefill_bidir", 1).run([prompt], 9, ends, {stop})
        assert one == alone
        assert one.ended or len(one.tokens) == 9


def test_a_slot_takes_the_next_prompt_when_its_text_ends(monkeypatch):
    """So few long texts need no more steps than the longest queue of a slot."""
    model, steps = tiny_model("llama"), []
    stock = greedy._Batch._step
    monkeypatch.setattr(
        greedy._Batch, "_step", lambda self: steps.append(len(self.slots)) or stock(self)
    )
    # The first prompt is written on and on, the others get one token more.
    first = GreedyDecoder(model, "causal").run(PROMPTS[:1], 24, never)[0].tokens
    ends = lambda tokens: len(tokens) == 2 and tokens != first[:2]  # noqa: E731
    steps.clear()
    found = GreedyDecoder(model, "causal", slots=2).run(PROMPTS[:1] + PROMPTS[5:], 24, ends)
    lengths = [len(one.tokens) for one in found]
    assert lengths[0] == 24 and max(lengths[1:]) == 2
    assert len(steps) == 24  # one before the long text, which is not the longest prompt
    assert steps[-1] == 1  # at the end nothing but the long text is computed


def test_running_out_of_memory_halves_the_slots_and_loses_no_text(monkeypatch, capsys):
    model = tiny_model("ministral3")
    expected = GreedyDecoder(model, "causal", slots=1).run(PROMPTS, 8, never)
    stock, most = model.forward, 2

    def forward(input_ids, **options):
        if len(input_ids) > most:
            raise torch.OutOfMemoryError
        return stock(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "forward", forward)
    decoder = GreedyDecoder(model, "causal", slots=9)
    assert decoder.run(PROMPTS, 8, never) == expected
    assert decoder.slots == 2 and "out of memory: now 4 texts" in capsys.readouterr().err
    most = 0
    with pytest.raises(torch.OutOfMemoryError):
        decoder.run(PROMPTS, 8, never)


# ---- stop strings ------------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data())
def test_stop_strings_are_found_at_the_token_where_lm_eval_finds_them(data, tokenizer):
    text = data.draw(st.text("keyEvhas \né", min_size=1, max_size=20))
    stops = data.draw(st.lists(st.text("keyE \né", min_size=1, max_size=4), max_size=3)) + ["</s>"]
    tokens = tokenizer.encode(text, add_special_tokens=False) + data.draw(
        st.lists(st.integers(0, len(tokenizer) - 1), max_size=4)
    )
    ours = StopStrings(tokenizer, stops)
    theirs = [MultiTokenEOSCriteria(stop, tokenizer, 0, 1) for stop in stops]
    for count in range(1, len(tokens) + 1):
        row = torch.tensor([tokens[:count]])
        expected = [criterion(row, None) for criterion in theirs]
        assert ours.reached(tokens[:count]) == any(expected)
        if any(expected):
            break


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "old, new, found",
    [
        ("do_sample: false", "do_sample: true", "generation_kwargs with do_sample: True"),
        ("do_sample: false\n  temperature: 0.0", "temperature: 0.7", "temperature: 0.7"),
        ("do_sample: false", "num_beams: 2", "num_beams: 2, where only greedy"),
        ("num_fewshot: 2", "repeats: 3", "3 texts an item"),
        ("metric: exact_match", "metric: bleu", "metrics (bleu) without lm-eval's own"),
        ("{function: take_first}", "{function: majority_vote}", "the filter majority_vote"),
    ],
)
def test_a_task_that_is_not_greedy_with_an_exact_match_is_refused_by_name(
    old, new, found, tokenizer, tmp_path
):
    assert old in TASK
    write_gsm(tmp_path, task=TASK.replace(old, new))
    with pytest.raises(ValueError) as refused:
        GenerationItems(tokenizer, ["gsm"], task_folder=tmp_path, data_folder=tmp_path)
    assert str(refused.value).startswith("task gsm") and found in str(refused.value)


@pytest.mark.parametrize(
    "contexts, new_tokens, found",
    [
        (["Eve", ""], 12, "task, item 1: its prompt has no token"),
        (["Eve"], 256, "256 tokens may be generated (max_gen_toks), and the model reads 256"),
    ],
)
def test_prompts_without_a_token_or_room_are_refused(contexts, new_tokens, found, tokenizer):
    model = tiny_model("llama", vocabulary=len(tokenizer))
    lm = MaskedLM(model, tokenizer, add_bos_token=False)
    with pytest.raises(CannotGenerate) as refused:
        generated(lm, GreedyDecoder(model, "causal"), "task", contexts, [], new_tokens)
    assert found in str(refused.value)


def test_what_greedy_decoding_leaves_out_is_said(tokenizer, tmp_path, capsys):
    model = tiny_model("llama", vocabulary=len(tokenizer))
    model.generation_config.repetition_penalty = 1.3
    write_gsm(tmp_path, items=2)
    items = GenerationItems(tokenizer, ["gsm"], task_folder=tmp_path, data_folder=tmp_path)
    found = evaluate_generation(model, items, "prefill_bidir")
    assert found.facts["ignored"] == {"repetition_penalty": 1.3}
    assert "repetition_penalty: 1.3 is left out" in capsys.readouterr().err
