"""Promises of trace: a cell leads to everything behind it, and nothing tampered with passes."""

import json
from pathlib import Path

import pandas as pd
import pytest

from ablation.cli.main import main
from ablation.lineage.accept import unchecked_behind
from ablation.lineage.trace import CannotTrace, trace
from ablation.lineage.trace_tree import print_trace
from ablation.provenance.files import sha256_file, write_json, write_json_lines
from ablation.provenance.manifests import StaleInput, load_manifest, write_manifest
from ablation.provenance.tables import read_csv, write_table
from tests.support.small_results import HOME, ITEMS, RECIPES, SEEDS, TASKS, make, manifest
from tests.unit.lineage.test_seal import run_script

TABLE = "results/recovery.csv"
ROW = {"recipe": "3B", "seed": "1", "mask": "prefill_bidir", "task": "macro"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(Path("."))
    return tmp_path


def stages(found):
    return sorted(node["stage"] for node in found["manifests"].values())


def test_a_cell_leads_to_conditions_runs_samples_weights_and_data(here):
    found = trace(TABLE, ROW, "recovered")
    assert {role: len(paths) for role, paths in found["conditions"].items()} == {
        "baseline": 1,
        "ablated": 1,
        "after": 1,
    }
    assert stages(found) == sorted(
        ["base", "base_items", "stage1_baseline", "stage2_ablation"]
        + ["stage3_finetune", "stage4_posteval"]
    )
    (after,) = found["conditions"]["after"]
    node = found["manifests"][after]
    assert node["samples"]["rows"] == dict.fromkeys(TASKS, 2 * ITEMS)
    assert node["seed"] == 1 and node["run"]["host"] == "h"
    (checkpoint,) = (path for path in node["inputs"] if "stage3" in path)
    weights = found["manifests"][checkpoint]["outputs"]["model/model.safetensors"]
    assert weights["here"] and len(weights["sha256"]) == 64
    assert found["totals"]["energy_joules"] == 500 and found["totals"]["machines"] == ["h (p)"]


@pytest.mark.parametrize(
    "column, roles",
    [
        ("baseline", {"baseline"}),
        ("damage_p", {"baseline", "ablated"}),
        ("gain_low", {"ablated", "after"}),
        ("recovery_ratio", {"baseline", "after"}),
        ("recovered_status", {"baseline", "ablated", "after"}),
        ("comparable", {"baseline", "ablated", "after"}),
    ],
)
def test_a_column_leads_only_to_what_it_is_computed_from(here, column, roles):
    assert set(trace(TABLE, ROW, column)["conditions"]) == roles


def test_what_made_the_table_counts_and_a_p_value_is_no_difference(here, capsys):
    record = {"host": "t", "processor": "q", "seconds": 2.5, "started": "then"}
    write_json(f"{HOME}/recovery.run.json", record)
    found = trace(TABLE, ROW, "damage_p")
    below = sum(n["run"]["seconds"] for n in found["manifests"].values() if n["run"])
    assert found["totals"]["seconds"] == pytest.approx(below + 2.5)
    assert found["totals"]["machines"] == ["h (p)", "t (q)"]
    print_trace(found)
    told = capsys.readouterr().out
    assert "damage_p (of A - B) = " in told and "ran then for 2.5 s on t (q)" in told


def test_accuracies_are_computed_again_from_the_sample_rows(here):
    frame = pd.read_csv(TABLE, dtype={"seed": str})
    for _, row in frame[frame["mask"] != "causal"].iterrows():
        found = trace(TABLE, {k: row[k] for k in ROW}, "recovered")
        for role, value in found["accuracies"].items():
            assert value == pytest.approx(row[role], abs=1e-8)


def test_all_seeds_lead_to_every_seed(here):
    found = trace(TABLE, ROW | {"seed": "all"}, "gain")
    assert len(found["conditions"]["after"]) == len(SEEDS)


def test_the_same_cell_by_the_studys_own_table(here):
    ours, named = (trace(t, ROW, "gain") for t in (f"{HOME}/recovery.csv", TABLE))
    assert ours["manifests"] == named["manifests"]


def test_a_table_without_inputs_is_named_from_the_root_as_well(here):
    Path(f"{HOME}/cells.csv").write_text("query,key\n1,2\n")
    manifest("cells.manifest.json", "mask_cells", {}, ["cells.csv"])
    found = trace(f"{HOME}/cells.csv", {"query": "1"}, "key")
    assert found["made_by"]["manifest"] == f"{HOME}/cells.manifest.json"


def test_other_tables_lead_back_as_well(here):
    both = {"recipe": "3B", "against": "3A", "seed": "1", "mask": "full_bidir", "task": "a"}
    found = trace(f"{HOME}/contrasts.csv", both, "recovered_difference")
    assert set(found["conditions"]) == {"baseline", "ablated", "after", "after_against"}
    base = {"stage": "stage1_baseline", "task": "a"}
    found = trace(f"{HOME}/per_task.csv", base, "accuracy")
    assert list(found["conditions"]) == ["stage1_baseline"]


@pytest.fixture
def said(here):
    """What models say: a table without recipes, and with rows that only long texts tell apart."""
    columns = ["prompt", "answer", "model", "seed", "mask", "text"]
    rows = [
        [f"Question {n}\n{'?' * 99}", "", model, seed, mask, f"text {n}"]
        for n in (1, 2)
        for model, seed in [("base", ""), *((recipe, SEEDS[0]) for recipe in RECIPES)]
        for mask in ("causal", "prefill_bidir")
    ]
    pd.DataFrame(rows, columns=columns).to_csv(f"{HOME}/samples.csv", index=False)
    checkpoints = [f"stage3_finetune/{recipe}/seed{SEEDS[0]}" for recipe in RECIPES]
    upstream = [f"{folder}/manifest.json" for folder in ("base", *checkpoints)]
    manifest("samples.manifest.json", "samples", {}, ["samples.csv"], upstream)
    return f"{HOME}/samples.csv"


@pytest.mark.parametrize("model, seed", [("base", ""), *((recipe, "1") for recipe in RECIPES)])
def test_a_sample_leads_to_the_model_that_said_it(said, model, seed):
    where = {"model": model, "seed": seed, "mask": "causal", "text": "text 2"}
    found = trace(said, where, "text")
    assert found["cell"]["value"] == "text 2" and found["cell"]["row"]["model"] == model
    trained = {n["recipe"] for n in found["manifests"].values() if n["stage"] == "stage3_finetune"}
    assert trained == ({model} - {"base"})
    assert "base" in stages(found)


def test_rows_are_told_apart_by_any_column(said):
    where = {"model": "base", "mask": "causal"}
    with pytest.raises(
        CannotTrace, match="2 rows .* choose one more of prompt: .*; text: text 1, te"
    ):
        trace(said, where, "text")
    with pytest.raises(CannotTrace) as fault:
        trace(said, where, "text")
    assert len(str(fault.value)) < 300 and "\n" not in str(fault.value)


@pytest.mark.parametrize(
    "where, column, said",
    [
        (ROW, "recvery", "it has study, recipe"),
        (ROW | {"recipes": "3B"}, "gain", "no column 'recipes'"),
        (ROW | {"recipe": "3C"}, "gain", "no recipe '3C'; it has 3A, 3B"),
        ({"recipe": "3B"}, "gain", "choose one more of seed: 1, 2, all; mask: "),
    ],
)
def test_rows_and_columns_that_are_not_there_are_refused_with_what_there_is(
    here, where, column, said
):
    with pytest.raises(CannotTrace, match=said):
        trace(TABLE, where, column)


BEHIND = {
    "a manifest": f"{HOME}/stage4_posteval/3B/seed1/prefill_bidir/manifest.json",
    "samples": f"{HOME}/stage4_posteval/3B/seed1/prefill_bidir/samples.parquet",
    "weights": f"{HOME}/stage3_finetune/3B/seed1/model/model.safetensors",
    "the checkpoint's manifest": f"{HOME}/stage3_finetune/3B/seed1/manifest.json",
    "items": f"{HOME}/base/items/a.jsonl",
    "the baseline": f"{HOME}/stage1_baseline/samples.parquet",
    "the table": f"{HOME}/recovery.csv",
    "the table's manifest": f"{HOME}/recovery.manifest.json",
}


@pytest.mark.parametrize("file", BEHIND.values(), ids=BEHIND)
def test_whatever_was_tampered_with_is_named(here, file):
    content = Path(file).read_bytes()
    middle = len(content) // 2
    Path(file).write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(StaleInput, match=Path(file).name):
        trace(TABLE, ROW, "recovered")


def test_a_manifest_replaced_by_a_whole_one_is_named(here):
    manifest = Path(BEHIND["a manifest"])
    for name in ("manifest.json", "samples.parquet", "evaluation.json"):
        other = manifest.parents[2] / "seed2/prefill_bidir" / name
        (manifest.parent / name).write_bytes(other.read_bytes())
    with pytest.raises(StaleInput, match="seed1/prefill_bidir/manifest.json is not the one that"):
        trace(TABLE, ROW, "recovered")


def test_weights_may_be_gone_and_are_told(here, capsys):
    Path(BEHIND["weights"]).unlink()
    options = ["--where", *(f"{k}={v}" for k, v in ROW.items()), "--column", "gain"]
    assert main(["trace", TABLE, *options]) == 0
    assert "not here: model/model.safetensors" in capsys.readouterr().out


def test_dollars_and_failed_attempts_come_from_the_ledger(here):
    """Attempts count once, with those before them that failed, and only those of the cell."""
    lines = [
        {"what": "rent", "label": "m"},
        {"what": "attempt", "attempt": "run-0", "job": "t", "why": "offline", "dollars": 0.25},
        {"what": "attempt", "attempt": "other", "job": "o", "why": "done", "dollars": 9.0},
        {"what": "attempt", "attempt": "run-1", "job": "t", "why": "done", "dollars": 0.5},
        {"what": "attempt", "attempt": "run-2", "job": "t", "why": "done", "dollars": 7.0},
    ]
    write_json_lines("ledger/study.jsonl", lines)
    totals = trace(TABLE, ROW | {"seed": "all"}, "after")["totals"]
    assert (totals["attempts"], totals["failed_attempts"], totals["dollars"]) == (2, 1, 0.75)
    assert trace(TABLE, ROW, "baseline")["totals"]["dollars"] is None


def test_the_tree_and_the_json_say_the_same(here, capsys):
    options = ["--where", *(f"{k}={v}" for k, v in ROW.items()), "--column", "recovered"]
    assert main(["trace", TABLE, *options, "--json", "found.json"]) == 0
    tree, found = capsys.readouterr().out, json.loads(Path("found.json").read_text())
    assert found == json.loads(json.dumps(trace(TABLE, ROW, "recovered")))
    assert all(path in tree for path in found["manifests"])
    assert found["cell"]["value"] in tree and "(P - A) / (B - A)" in tree
    assert main(["trace", TABLE, *options, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_the_command_says_what_is_wrong_and_fails(here, capsys):
    assert main(["trace", TABLE, "--where", "recipe=3C", "--column", "gain"]) == 2
    assert "it has 3A, 3B" in capsys.readouterr().err
    assert main(["trace", "absent.csv", "--column", "gain"]) == 2
    assert "was not found" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"recipe\n", b"a\n1\n1,2,3\n"])
def test_what_is_no_table_is_refused_by_its_name(tmp_path, capsys, content):
    file = tmp_path / "bad.csv"
    file.write_bytes(content)
    for command in (["table", str(file)], ["trace", str(file), "--column", "gain"]):
        assert main(command) > 0
        told = capsys.readouterr().err
        assert str(file) in told and "Give a table of a study. Tables there: none" in told, told


def test_the_command_table_believes_no_edited_table(here, capsys):
    assert main(["table", TABLE]) == 0
    assert "In brackets: 95 % intervals" in capsys.readouterr().out
    for table in (Path(TABLE), Path(HOME) / "recovery.csv"):
        whole = table.read_text()
        table.write_text(whole.replace("0.", "1.", 1))
        assert main(["table", str(table)]) == 1
        assert "recovery.csv" in capsys.readouterr().err
        table.write_text(whole)
    assert main(["table", "results"]) == 1
    assert "results is a folder" in capsys.readouterr().err


def make_marked_tables():
    """Make the tables again, marked as accepted.json says, by the script of the workflow."""
    path = Path(f"{HOME}/recovery.manifest.json")
    manifest = load_manifest(path)
    unchecked = set().union(*(unchecked_behind(Path(p), Path(".")) for p in manifest["inputs"]))
    fingerprint = manifest["fingerprint"] | {"unchecked": sorted(unchecked)}
    output = {name.removesuffix(".csv"): f"{HOME}/{name}" for name in manifest["outputs"]}
    output |= {"manifest": str(path)}
    params = {"fingerprint": json.dumps(fingerprint)}
    run_script("recovery", Path("."), output=output, params=params)
    Path(TABLE).write_bytes(Path(f"{HOME}/recovery.csv").read_bytes())


def accept_by_a_reason(stage, root=Path("."), **checked):
    """Write accepted.json: newer code of a stage counts as the code that made its results."""
    made = next(
        manifest["fingerprint"]["code"]
        for manifest in map(load_manifest, Path(HOME).rglob("*manifest.json"))
        if manifest["fingerprint"]["stage"] == stage
    )
    entry = {"stage": stage, "old": made, "new": "1" * 64, "why": "renamed"}
    write_json(root / "accepted.json", [entry | checked])


def test_tables_of_unchecked_code_have_a_column_that_says_so_and_others_have_not(here):
    names = ("recovery.csv", "per_task.csv", "contrasts.csv")
    make_marked_tables()
    before = {name: Path(f"{HOME}/{name}").read_bytes() for name in names}
    assert not [name for name in names if b"unchecked" in before[name]]
    accept_by_a_reason("stage3_finetune")
    make_marked_tables()
    for name in names:
        frame = read_csv(f"{HOME}/{name}")
        assert set(frame.unchecked) == {"stage3_finetune"} and frame.columns[-1] == "unchecked"
    checked = {p.as_posix(): sha256_file(p) for p in Path(HOME).rglob("seed*/manifest.json")}
    accept_by_a_reason("stage3_finetune", checked=checked)
    make_marked_tables()
    assert {name: Path(f"{HOME}/{name}").read_bytes() for name in names} == before


def test_trace_refuses_a_table_without_the_mark_that_accepted_json_demands(here):
    assert trace(TABLE, ROW, "gain")["unchecked"] == []
    accept_by_a_reason("stage3_finetune")
    with pytest.raises(StaleInput, match="no mark `unchecked` of stage3_finetune(.|\n)*snakemake"):
        trace(TABLE, ROW, "gain")
    make_marked_tables()
    assert trace(TABLE, ROW, "gain")["unchecked"] == ["stage3_finetune"]
    frame = read_csv(TABLE, dtype=str, keep_default_na=False).assign(unchecked="")
    made = load_manifest(f"{HOME}/recovery.manifest.json")
    for file in (TABLE, f"{HOME}/recovery.csv"):
        write_table(file, frame)
    outputs = [f"{HOME}/{output}" for output in made["outputs"]]
    write_manifest(f"{HOME}/recovery.manifest.json", made["fingerprint"], outputs)
    with pytest.raises(StaleInput, match="no mark `unchecked` of stage3_finetune"):
        trace(TABLE, ROW, "gain")


def test_a_table_whose_own_code_was_accepted_is_not_marked_since_the_mark_would_make_it_again(here):
    accept_by_a_reason("recovery")
    make_marked_tables()
    assert "unchecked" not in read_csv(TABLE)
    assert trace(TABLE, ROW, "gain")["unchecked"] == ["recovery"]  # but commands print it


def test_the_tables_of_several_worlds_are_marked_too(here, capsys):
    accept_by_a_reason("stage3_finetune")
    assert main(["worlds", TABLE, "--write", "pooled"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "unchecked: today's code of stage3_finetune" in told
    assert set(read_csv("pooled/worlds.csv").unchecked) == {"stage3_finetune"}


@pytest.mark.parametrize("command", ["table", "trace", "verify"])
def test_what_rests_on_code_that_was_accepted_by_a_reason_alone_is_marked(here, capsys, command):
    row = ["--where", *(f"{k}={v}" for k, v in ROW.items()), "--column", "gain"]
    arguments = {"table": ["table", TABLE], "trace": ["trace", TABLE, *row], "verify": ["verify"]}
    checkpoint = f"{HOME}/stage3_finetune/3B/seed1/manifest.json"
    stage, code = "stage3_finetune", json.loads(Path(checkpoint).read_text())["fingerprint"]["code"]
    entry = {"stage": stage, "old": code, "new": "1" * 64, "why": "renamed"}
    others = [entry | {"stage": "stage1_metrics"}, entry | {"old": "2" * 64}]
    checked = {p.as_posix(): sha256_file(p) for p in Path(HOME).rglob("seed*/manifest.json")}
    for entries, marked in (
        ([entry], True),
        (others, False),
        ([entry | {"checked": checked}], False),
        ([entry, entry | {"new": "3" * 64, "checked": checked}], False),
    ):
        write_json("accepted.json", entries)
        make_marked_tables()
        assert main(arguments[command]) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert ("unchecked: today's code of stage3_finetune" in told) == marked


@pytest.mark.parametrize("name", ["recovery.csv", "contrasts.csv"])
@pytest.mark.parametrize("column", ["seeds_p", "seeds_disagree"])
def test_the_marks_of_seeds_that_disagree_are_computed_again(here, name, column):
    file, made = Path(f"{HOME}/{name}"), load_manifest(f"{HOME}/recovery.manifest.json")
    where = ROW | {"seed": "all", "recipe": "3B"}
    assert trace(file, where, column)["cell"]["value"]
    frame = read_csv(file, dtype=str, keep_default_na=False)
    frame.loc[frame.seed == "all", column] = {"seeds_p": "0.5", "seeds_disagree": "maybe"}[column]
    write_table(file, frame)
    outputs = [f"{HOME}/{output}" for output in made["outputs"]]
    write_manifest(f"{HOME}/recovery.manifest.json", made["fingerprint"], outputs)
    with pytest.raises(StaleInput, match=f"{name} is not what its sample rows give: {column} is"):
        trace(file, where, column)


@pytest.mark.parametrize("line", ["no json", '{"what": "attempt"}', None])
def test_a_damaged_ledger_is_told_by_its_line(here, capsys, line):
    if line:
        Path("mine.jsonl").write_text(f"{line}\n\n")
    options = ["--where", *(f"{k}={v}" for k, v in ROW.items()), "--column", "recovered"]
    assert main(["trace", TABLE, *options, "--ledger", "mine.jsonl"]) == 2
    told = capsys.readouterr().err
    assert "mine.jsonl" in told and "restore it" in told and (not line or "line 1" in told)


def test_a_text_that_looks_like_markup_is_shown_as_it_is(here, capsys):
    """As models write it: [/INST] would be a closing tag."""
    found = trace(TABLE, ROW, "recovered")
    found["cell"] |= {"value": "[/INST] yes", "row": {"prompt": "[b]who?"}}
    print_trace(found)
    told = capsys.readouterr().out
    assert "[/INST] yes" in told and "[b]who?" in told


def test_a_text_cannot_control_the_terminal(here, capsys):
    found = trace(TABLE, ROW, "recovered")
    found["cell"] |= {"value": "\x1b]0;owned\x07", "row": {"prompt": "\x1b[2J"}}
    found["made_by"]["run"] = {"host": "\x1b[8m", "processor": "q", "started": "[b]then"}
    print_trace(found)
    told = capsys.readouterr().out
    assert "\x1b" not in told and "\x07" not in told
    assert r"\x1b]0;owned\x07" in told and r"prompt=\x1b[2J" in told and "ran [b]then" in told


def test_a_text_that_begins_like_a_formula_is_found(said):
    write_table(said, pd.read_csv(said).replace({"text 2": "=1+1"}))
    manifest("samples.manifest.json", "samples", {}, ["samples.csv"], ["base/manifest.json"])
    found = trace(said, {"model": "base", "mask": "causal", "text": "=1+1"}, "text")
    assert found["cell"]["value"] == "=1+1"
