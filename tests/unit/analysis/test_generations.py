"""Promises of generated texts in tables: each judgement is what the stored text gives."""

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablation.analysis.conditions import read_conditions
from ablation.analysis.flips import flips_table
from ablation.analysis.generations import TextsDisagree, read_generations
from ablation.cli.main import main
from ablation.data.generation.exact_match import answers, is_match, normalized, reference
from ablation.data.generation.rows import ROWS, TEXTS
from ablation.lineage.recomputed import check_tables
from ablation.lineage.trace import trace
from ablation.provenance.manifests import StaleInput, load_manifest
from ablation.provenance.tables import read_csv
from ablation.remote.push import pull, push
from tests.support.small_results import HOME, ITEMS, STUDY, make

NAME = "gsm:number"
UNDER = f"{HOME}/stage4_posteval/3B/seed1/prefill_bidir/generated"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(Path("."), generation=True)
    return tmp_path


def edit(file, **values):
    """Give the first row of a file of rows other values."""
    rows = pd.read_parquet(file)
    for column, value in values.items():
        rows.loc[0, column] = value
    rows.to_parquet(file, index=False)


# ---- tables ------------------------------------------------------------------------------------


def test_tables_have_a_row_for_each_filter_with_exact_match_and_in_no_macro(here, tmp_path_factory):
    rows = read_csv(f"{HOME}/recovery.csv")
    texts = rows[rows.task == NAME]
    shown = texts[["recipe", "seed", "mask"]].itertuples(index=False, name=None)
    assert sorted(shown) == sorted(
        (recipe, seed, mask)
        for recipe in ("3A", "3B")
        for seed in ("1", "2", "all")
        for mask in ("causal", "prefill_bidir")
    )
    row = texts[(texts.recipe == "3B") & (texts.seed == "1") & (texts["mask"] == "prefill_bidir")]
    right = pd.read_parquet(f"{UNDER}/{ROWS}").exact_match.mean()
    assert row.after.item() == pytest.approx(right) and row.n.item() == ITEMS
    under_causal = pd.read_parquet(f"{HOME}/stage1_baseline/generated/{ROWS}").exact_match.mean()
    assert row.baseline.item() == pytest.approx(under_causal)
    per_task = read_csv(f"{HOME}/per_task.csv")
    own = per_task[per_task.task == NAME]
    assert set(own.metric) == {"exact_match"} and (own.accuracy == own.exact_match).all()
    # Everything else is as it is without texts.
    others = tmp_path_factory.mktemp("others")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(others)
        make(Path("."))
        expected = read_csv(f"{HOME}/recovery.csv", dtype=str)
    rest = read_csv(f"{HOME}/recovery.csv", dtype=str)
    rest = rest[rest.task != NAME].reset_index(drop=True)
    assert rest.equals(expected)


def test_flips_are_counted_for_texts_too(here):
    paths = Path(HOME).rglob("generated/manifest.json")
    conditions = read_conditions({str(path): load_manifest(path) for path in paths})
    found = flips_table(STUDY, conditions, "acc")
    assert set(found.task) == {NAME}
    counts = found[(found.recipe == "3B") & (found.seed == 1)].set_index("pattern")["items"]
    assert counts.sum() == ITEMS
    right = pd.read_parquet(f"{UNDER}/{ROWS}").exact_match.sum()
    assert counts[[name for name in counts.index if name.endswith("R")]].sum() == right


# ---- judgements ----------------------------------------------------------------------------------


def test_a_verdict_that_its_text_does_not_give_is_found(here):
    before = read_generations(Path(UNDER))
    (right,) = before.correct["exact_match"].values()
    edit(f"{UNDER}/{ROWS}", exact_match=not right.iloc[0])
    with pytest.raises(TextsDisagree, match="doc_id 0: the text gives the answer"):
        read_generations(Path(UNDER))


@pytest.mark.parametrize("values", [{"text": "I say 3."}, {"answer": "3"}], ids=str)
def test_a_text_or_answer_that_was_edited_is_found(here, values):
    edit(f"{UNDER}/{TEXTS}", **values)
    with pytest.raises(TextsDisagree, match="doc_id 0"):
        read_generations(Path(UNDER))


def test_a_share_that_lm_eval_does_not_give_is_found(here):
    facts = json.loads(Path(f"{UNDER}/evaluation.json").read_text())
    facts["lm_eval"]["gsm"]["exact_match,number"] += 0.1
    Path(f"{UNDER}/evaluation.json").write_text(json.dumps(facts))
    with pytest.raises(TextsDisagree, match="from lm_eval"):
        read_generations(Path(UNDER))


texts = st.text("aB1, $.#\n", max_size=12)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "regexes_to_ignore": st.lists(st.sampled_from([",", r"\$", "(?s).*#### ", r"\.$"])),
        "ignore_case": st.booleans(),
        "ignore_punctuation": st.booleans(),
        "ignore_numbers": st.booleans(),
    },
)


@settings(max_examples=60)
@given(texts, texts, OPTIONS)
def test_exact_match_is_lm_evals(answer, gold, options):
    from lm_eval.api.metrics import exact_match_fn

    theirs = exact_match_fn(predictions=[answer], references=[gold], **options)["exact_match"]
    assert is_match(answer, reference(gold, options), options) == bool(theirs)
    assert is_match(gold, f"{reference('x y z', {})} {reference(gold, options)}", options)
    assert normalized(normalized(answer, {}), {}) == answer


def test_filters_are_lm_evals():
    steps = [{"function": "regex", "regex_pattern": "([0-9]+)", "group_select": -1}]
    steps += [{"function": "take_first"}]
    assert answers(["1 and 22", "none"], steps) == ["22", "[invalid]"]
    assert answers(["a text"], [{"function": "take_first"}]) == ["a text"]


# ---- trace, verify and archives ----------------------------------------------------------------


def test_a_cell_is_traced_to_texts_and_computed_from_them_again(here):
    row = {"recipe": "3B", "seed": "1", "mask": "prefill_bidir", "task": NAME}
    found = trace("results/recovery.csv", row, "recovered")
    assert {role: len(paths) for role, paths in found["conditions"].items()} == {
        "baseline": 1,
        "ablated": 1,
        "after": 1,
    }
    (after,) = found["conditions"]["after"]
    assert after == f"{UNDER}/manifest.json"
    assert found["manifests"][after]["samples"]["rows"] == {NAME: ITEMS}
    assert found["accuracies"]["after"] == pytest.approx(
        pd.read_parquet(f"{UNDER}/{ROWS}").exact_match.mean()
    )
    choices = trace("results/recovery.csv", row | {"task": "a"}, "recovered")
    assert f"{UNDER}/manifest.json" not in choices["manifests"]


def test_verify_computes_the_tables_from_the_texts_again(here, capsys):
    again = check_tables(Path(HOME), Path("."))
    assert again.rows == again.equal and not again.problems
    assert main(["verify", HOME, "--recompute"]) == 0
    edit(f"{UNDER}/{TEXTS}", text="I say 3.")
    with pytest.raises(StaleInput, match="doc_id 0"):
        check_tables(Path(HOME), Path("."))


def test_an_archive_has_the_verdicts_and_no_text(here, tmp_path_factory, capsys):
    report = push("study.zip", STUDY, weights=False)
    assert "texts" in report
    clone, archive = tmp_path_factory.mktemp("clone"), (here / "study.zip").as_posix()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(clone)
        pull(archive, STUDY)
        assert not list(Path(HOME).rglob(TEXTS)) and len(list(Path(HOME).rglob(ROWS))) == 10
        assert not any(b"I say" in file.read_bytes() for file in Path(HOME).rglob("*.*"))
        again = check_tables(Path(HOME), Path("."))
        assert again.rows == again.equal > 0 and not again.problems
        assert main(["verify", HOME]) == 0
