"""Promises of `ablation sample`: real generation under each mask, side by side, repeatable."""

import csv
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from ablation.cli.main import main
from ablation.data.alpaca import alpaca_prompt
from ablation.data.continuations import CannotSample, Continuation
from ablation.model.checkpoints import load, save
from ablation.provenance.files import write_json_lines
from ablation.provenance.fingerprints import make_fingerprint
from ablation.provenance.job import Job
from ablation.provenance.manifests import write_manifest
from ablation.report.continuations import print_continuations, write_continuations
from ablation.scoring.generate import Prompt, models_of, prompts_of, sample
from tests.support.small_training import HARDWARE
from tests.support.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[3]
GREEDY = {"max_new_tokens": 6, "temperature": 0.0, "seed": 0, "device": "cpu", "dtype": "float32"}
PROMPTS = [Prompt("The hawk chose Eve and the fox"), Prompt("Question: who has the key?\nAnswer:")]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """results/micro with a base, two recipes and items of two tasks."""
    home = tmp_path_factory.mktemp("study")
    results, tokenizer = home / "results/micro", tiny_tokenizer()
    fingerprint = dict.fromkeys(("stage", "code", "hash"), "h")
    fingerprint |= dict.fromkeys(("config", "packages", "upstream"), {})

    def made(folder, architecture, **facts):
        model = tiny_model(architecture, vocabulary=len(tokenizer))
        save(model, tokenizer, folder / "model")
        manifest = folder / "manifest.json"
        write_manifest(manifest, fingerprint, [folder / "model"], model="model", **facts)

    made(results / "base", "llama")
    made(results / "stage3_finetune/3B/seed7", "qwen3", recipe="3B", seed=7)
    made(results / "stage3_finetune/3B/seed8", "qwen3", recipe="3B", seed=8)
    made(results / "stage5_longrun/5A/seed7", "ministral3", recipe="5A", seed=7)
    asked = {"query": "Who?\nAnswer:", "choices": ["Tom.", "Eve."], "gold": 1}
    told = {"contexts": ["Ann", "Tom"], "continuation": "because she asked.", "gold": 0}
    write_json_lines(results / "base/items/one.jsonl", [asked, asked])
    write_json_lines(results / "base/items/two.jsonl", [told])
    return results


def test_models_are_found_by_their_manifests(study):
    labels = [m.label for m in models_of(study, [], [])]
    assert labels == ["base", "3B seed 7", "5A seed 7"]
    assert [m.label for m in models_of(study, ["3B"], [8, 7])] == ["base", "3B seed 7", "3B seed 8"]


@pytest.mark.parametrize("recipes, seeds", [(["3A"], []), (["5A"], [8])])
def test_a_model_that_is_not_there_is_named_with_those_that_are(study, recipes, seeds):
    with pytest.raises(CannotSample, match=f"has no {recipes[0]} seed .*3B seed 7, 3B seed 8, 5A"):
        models_of(study, recipes, seeds)


def test_a_study_that_is_not_there_says_how_to_make_it(tmp_path):
    with pytest.raises(CannotSample, match="was not found.*make demo"):
        models_of(tmp_path / "results/none", [], [])


def test_default_prompts_are_items_of_the_study_with_their_answers(study):
    assert prompts_of(study, [], None, False) == [
        Prompt("Who?\nAnswer:", "Eve."),
        Prompt("Ann", "because she asked."),
    ]


def test_prompts_come_from_lines_records_and_instructions(study, tmp_path):
    (tmp_path / "p.txt").write_text("one\n\n  two\n")
    record = {"instruction": "Say red.", "input": "", "output": "red"}
    known = {"prompt": "Who?", "answer": "Eve."}
    (tmp_path / "p.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(known) + "\n")
    texts = prompts_of(study, ["zero"], tmp_path / "p.txt", False)
    assert texts == [Prompt("zero"), Prompt("one"), Prompt("  two")]
    records = prompts_of(study, [], tmp_path / "p.jsonl", False)
    assert records == [Prompt(alpaca_prompt(record), "red"), Prompt("Who?", "Eve.")]
    (wrapped,) = prompts_of(study, ["Say red."], None, True)
    assert wrapped.text == alpaca_prompt({"instruction": "Say red."})


@pytest.mark.parametrize("text", ['{"prompt": " "}', '{"text": "x"}', '{"prompt": 3}'])
def test_an_empty_or_unknown_prompt_is_refused_by_number(study, tmp_path, text):
    (tmp_path / "p.jsonl").write_text('{"prompt": "fine"}\n' + text + "\n")
    with pytest.raises(CannotSample, match="prompt 2"):
        prompts_of(study, [], tmp_path / "p.jsonl", False)


def test_causal_is_stock_generation_and_a_masked_prefill_is_not(study):
    found = list(sample(models_of(study, [], []), PROMPTS, ["causal", "prefill_bidir"], **GREEDY))
    assert len(found) == 3 * len(PROMPTS) * 2
    causal = [c for c in found if c.mask == "causal"]
    for c in causal:
        folder = next(m for m in models_of(study, [], []) if m.name == c.model).folder()
        model, tokenizer = load(folder)
        ids = torch.tensor([tokenizer(c.prompt)["input_ids"]])
        made = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
        assert c.text == tokenizer.decode(made, skip_special_tokens=True)
    masked = [c for c in found if c.mask == "prefill_bidir"]
    assert [c.text for c in masked] != [c.text for c in causal]


@pytest.mark.parametrize("recipes", [[], ["3B"]])
def test_the_table_has_the_recipes_among_the_inputs_of_its_job_alone(recipes, study, tmp_path):
    script = ROOT / "workflow/scripts/samples.py"
    upstream = {str(study / "base/manifest.json"): "h"}
    upstream |= {
        str(study / f"stage3_finetune/{name}/seed7/manifest.json"): "h" for name in recipes
    }
    block = {"prompts": ["Who?"], "max_new_tokens": 2, "masks": ["causal"]}
    config = {"samples": block, "seed": 7, "hardware": HARDWARE.model_dump()}
    fingerprint = make_fingerprint("samples", script, config, ()) | {"upstream": upstream}
    spec = importlib.util.spec_from_file_location("samples_script", script)
    samples = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(samples)
    # The job finds models beside its manifest; this one is of a table that is never read.
    made = {
        "table": str(tmp_path / "samples.csv"),
        "manifest": str(study / "samples.manifest.json"),
    }
    job = Job(
        SimpleNamespace(
            input=[],
            output=SimpleNamespace(**made),
            params={"fingerprint": json.dumps(fingerprint)},
            wildcards={},
            rule="samples",
            config={},
            resources={},
        )
    )
    samples.main(job)
    table = pd.read_csv(made["table"])
    assert sorted(set(table.model)) == sorted(["base", *recipes])


def test_sampling_repeats_by_seed_and_no_continuation_depends_on_another(study):
    base = models_of(study, [], [])[:1]
    hot = GREEDY | {"temperature": 1.5, "max_new_tokens": 12}

    def texts(prompts, **changes):
        return [c.text for c in sample(base, prompts, ["prefill_bidir"], **(hot | changes))]

    both = texts(PROMPTS)
    assert texts(PROMPTS) == both and texts(PROMPTS[1:]) == both[1:]
    assert texts(PROMPTS, seed=1) != both


def test_a_prompt_that_does_not_fit_is_refused_rather_than_cut(study):
    long = [Prompt("Eve " * 300)]
    with pytest.raises(CannotSample, match="more than the 256 that base can read: 'Eve Eve"):
        list(sample(models_of(study, [], [])[:1], long, ["causal"], **GREEDY))


ROWS = [
    Continuation("Who has\n[red] it?", "Eve.", "base", None, "causal", " Tom | Ann\nEve"),
    Continuation("Who has\n[red] it?", "Eve.", "3B", 7, "causal", " [bold]Eve[/bold]"),
]


def test_files_hold_every_row(tmp_path):
    for name in ("a.jsonl", "a.csv", "a.md"):
        write_continuations(ROWS, tmp_path / name)
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").open()] == [vars(r) for r in ROWS]
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [row.text for row in ROWS]
    table = (tmp_path / "a.md").read_text().splitlines()
    assert len(table) == 2 + len(ROWS) and "Tom \\| Ann<br>Eve" in table[2]


def test_the_terminal_shows_texts_as_they_are(capsys):
    print_continuations(ROWS)
    shown = capsys.readouterr().out
    assert "[red] it?" in shown and "[bold]Eve[/bold]" in shown and "expected: Eve." in shown
    assert "3B seed 7" in shown


HOSTILE = [
    Continuation(
        "\x1b[2JWho?", "=Eve", "base", None, "causal", "=1+1 </script><b>\x1b]0;owned\x07"
    ),
    Continuation("\x1b[2JWho?", "=Eve", "3B", 7, "causal", "-x"),
]


def test_a_continuation_cannot_control_the_terminal(capsys):
    print_continuations(HOSTILE)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown
    assert r"\x1b[2JWho?" in shown and r"</script><b>\x1b]0;owned\x07" in shown


def test_a_continuation_is_neither_a_formula_nor_markup_of_a_file(tmp_path):
    for name in ("a.csv", "a.md"):
        write_continuations(HOSTILE, tmp_path / name)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"][:3] for row in rows] == ["'=1", "'-x"]
    assert [row["seed"] for row in rows] == ["", "7"]
    assert "<b>" not in (tmp_path / "a.md").read_text()


def test_no_text_of_a_continuation_is_markdown(tmp_path):
    """A viewer would load an image of a text, and a line end would end the table."""
    text = "![x](http://x)\r# `a` *b* _c_ \x1b[2J"
    write_continuations(
        [Continuation("Who?", "Eve", "base", None, "causal", text)], tmp_path / "a.md"
    )
    *_, row = (tmp_path / "a.md").read_text("utf-8").splitlines()
    assert row.endswith(r"| !\[x\](http://x)<br># \`a\` \*b\* \_c\_ \\x1b\[2J |")


def test_the_command_prints_and_writes(study, monkeypatch, capsys):
    monkeypatch.chdir(study.parents[1])
    assert main(["sample", "--prompt", "Eve", "--max-new-tokens", "2", "--out", "s.csv"]) == 0
    assert "5A seed 7" in capsys.readouterr().out
    with open("s.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 6


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--study", "other"], "results/other was not found"),
        (["--recipe", "3A"], "has no 3A seed 7"),
        (["--out", "s.xlsx"], "expected .jsonl, .csv, .md"),
        (["--file", "none.txt"], "none.txt was not found"),
        (["--max-new-tokens", "0"], "starts at 1"),
        (["--temperature", "nan"], "--temperature at 0"),
        (["--device", "foo"], "cpu, cuda or mps was expected"),
        (["--device", "cuda"], "torch sees no GPU here"),
    ],
)
def test_the_command_says_why_it_cannot(study, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(study.parents[1])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["sample", *arguments]) == 1
    assert told in capsys.readouterr().err


def test_a_folder_is_no_file_to_write_to(study, monkeypatch, capsys):
    monkeypatch.chdir(study.parents[1])
    with pytest.raises(SystemExit):
        main(["sample", "--out", "results"])
    assert "results is a folder; a file was expected" in capsys.readouterr().err
    assert (study / "base/manifest.json").is_file()


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("empty.txt", b"\n \n", "holds no prompt"),
        ("broken.jsonl", b"{", "cannot be read"),
        ("binary.txt", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_file_of_prompts_that_cannot_be_read_is_named(study, tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CannotSample, match=f"{name}.*{told}|{name} {told}"):
        prompts_of(study, [], tmp_path / name, False)


def test_a_changed_weight_is_refused_by_name(study, monkeypatch, capsys):
    monkeypatch.chdir(study.parents[1])
    weights = study / "stage5_longrun/5A/seed7/model/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        assert main(["sample", "--prompt", "Eve", "--max-new-tokens", "1"]) == 1
    finally:
        weights.write_bytes(whole)
    assert "5A/seed7/model/model.safetensors has changed" in capsys.readouterr().err


def test_an_edited_record_is_refused_by_name(study, monkeypatch, capsys):
    monkeypatch.chdir(study.parents[1])
    manifest = study / "stage3_finetune/3B/seed7/manifest.json"
    whole = manifest.read_text()
    manifest.write_text(whole.replace('"seed": 7', '"seed": 9'))
    try:
        assert main(["sample", "--seed", "9", "--prompt", "Eve", "--max-new-tokens", "1"]) == 1
    finally:
        manifest.write_text(whole)
    assert "3B/seed7/manifest.json has been edited" in capsys.readouterr().err
