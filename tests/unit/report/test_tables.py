"""Promises of the printed table: what was lost stands first, and no warning stays in the file."""

import pandas as pd
import pytest

from ablation.provenance.tables import InvalidTable
from ablation.report.text_tables import FORMS, claims_tables, print_tables, recovery_tables

ROW = {
    "study": "t",
    "recipe": "3B",
    "seed": "all",
    "mask": "prefill_bidir",
    "task": "macro",
    "train_leaks": False,
    "eval_leaks": False,
    "comparable": "true",
    "baseline": 0.99,
    "ablated": 0.65,
    "after": 0.95,
    **{"damage": -0.34, "damage_low": -0.361, "damage_high": -0.319, "damage_p": 1e-200},
    **{"gain": 0.3, "gain_low": 0.28, "gain_high": 0.32, "gain_p": 0.0213},
    **dict.fromkeys(("side_effect", "side_effect_low", "side_effect_high", "side_effect_p")),
    "retention": 0.9596,
    **{"recovered": 0.88, "recovered_low": 0.81, "recovered_high": 0.97},
    "recovered_status": "estimable",
    "exposure": "held_out",
    **{"net_recovered": 0.44, "net_recovered_low": 0.25, "net_recovered_high": 0.6},
    "net_recovered_status": "estimable",
    "seeds_disagree": False,
    "criteria_met": True,
}
CAUSAL = ROW | {"mask": "causal", "ablated": None, "damage": None, "recovered_status": None}
CAUSAL |= {"side_effect": -0.04, "side_effect_low": -0.05, "side_effect_high": -0.03}


@pytest.fixture
def printed(tmp_path, capsys):
    def run(*rows, seed="all", task="macro"):
        file = tmp_path / "recovery.csv"
        pd.DataFrame([ROW | row for row in rows] + [CAUSAL]).to_csv(file, index=False)
        print_tables(recovery_tables(file, seed, task))
        return capsys.readouterr().out

    return run


def line(text, *words):
    found = [x for x in text.splitlines() if all(w in x for w in words)]
    assert len(found) == 1, text
    return found[0]


def test_damage_is_printed_once_a_mask_with_interval_and_p(printed):
    out = printed({}, {"recipe": "3A"})
    assert "< .001" in line(out, "-0.340 [-0.361, -0.319]")
    assert out.index("what was lost") < out.index("what came back") < out.index("side effect")


def test_the_titles_name_the_seed_of_a_study_with_one(printed):
    assert "what came back (seed 31)" in printed({}, {"seed": "31"})
    assert "what came back (all seeds)" in printed({}, {"seed": "31"}, {"seed": "32"})
    assert "what came back (seed 32)" in printed({}, {"seed": "31"}, {"seed": "32"}, seed="32")


def test_every_recipe_says_whether_it_meets_the_criteria(printed):
    out = printed({}, {"recipe": "3A", "criteria_met": False})
    assert line(out, "3B", "+0.88 [+0.81, +0.97]", ".021").split()[-1] == "yes"
    assert line(out, "3A", "+0.88 [+0.81, +0.97]").split()[-1] == "no"


def test_rows_that_must_not_be_compared_are_told_with_the_reason(printed):
    out = printed({"comparable": "false: different dtype, gpu"}, {"recipe": "3A"})
    told = line(out, "NOT COMPARABLE")
    assert "different dtype, gpu" in told and "3B under prefill_bidir" in told and "3A" not in told
    assert "NOT COMPARABLE" not in printed({})


def test_leaks_name_where_they_were(printed):
    leaky = {"recipe": "3B-leaky", "train_leaks": True}
    out = printed(leaky, leaky | {"mask": "full_bidir", "eval_leaks": True}, {})
    assert "train eval" in line(out, "3B-leaky", "full_bidir")
    assert line(out, "3B-leaky", "prefill_bidir").split()[2] == "train"
    assert line(out, "3B ", "prefill_bidir", "+0.88").split()[2] == "-"
    # what was lost concerns the base: no training mask is named there
    assert "train" not in out[: out.index("what came back")]


def test_rows_whose_seeds_disagree_are_marked(printed):
    apart = {"recipe": "3B-leaky", "seeds_disagree": True}
    out = printed({}, apart)
    assert line(out, "3B ", "prefill_bidir", "+0.88").split()[3] == "-"
    assert line(out, "3B-leaky", "prefill_bidir").split()[3] == "disagree"
    assert "seeds: disagree: P differs between the seeds" in out
    out = printed({"seed": "9", "seeds_disagree": None}, apart, seed="9")
    assert "disagree" not in line(out, "3B ", "prefill_bidir", "+0.88")


def test_what_cannot_be_estimated_is_said_in_words(printed):
    none = dict.fromkeys(("recovered", "recovered_low", "recovered_high"))
    out = printed(none | {"recovered_status": "not_estimable"})
    assert "not estimable" in line(out, "3B", "prefill_bidir")


def test_unknown_rows_are_refused_with_what_there_is(printed):
    with pytest.raises(InvalidTable, match="seeds all; tasks macro"):
        printed({}, seed="99")


def test_claims_are_printed_with_their_decisions(tmp_path, capsys):
    file = tmp_path / "claims.csv"
    file.write_text(
        "study,claim,regime,rule,rows,value,low,high,p,design_effect,verdict\n"
        'micro,beats the source,enrichment,"a, b",K=8,0.8224,0.57,1.0,1e-9,3.1416,supported\n'
        "micro,same words,enrichment,all,K=8,1.0,,,,,open\n"
    )
    print_tables(claims_tables(file))
    first, second = (line for line in capsys.readouterr().out.splitlines() if "enrichment" in line)
    assert "0.822" in first and "1e-09" in first and "supported" in first and "a, b" not in first
    assert "3.14" in first
    assert "nan" not in second and second.split()[-1] == "open"


def test_a_table_cannot_control_the_terminal(tmp_path, capsys):
    file = tmp_path / "claims.csv"
    file.write_text(
        "study,claim,regime,value,low,high,p,design_effect,verdict\n"
        "micro,\x1b]0;owned\x07,[/b],1.0,,,,,:smile:\n"
    )
    print_tables(claims_tables(file))
    told = capsys.readouterr().out
    assert r"\x1b]0;owned\x07" in told and "\x1b" not in told and "\x07" not in told
    assert "[/b]" in told and ":smile:" in told


def test_rows_that_are_missing_cannot_control_the_terminal(printed):
    with pytest.raises(InvalidTable) as raised:
        printed({"task": "\x1b[2J"}, seed="99")
    assert r"\x1b[2J" in str(raised.value) and "\x1b" not in str(raised.value)


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_every_form_has_the_cells_of_the_terminal(tmp_path, form):
    file = tmp_path / "recovery.csv"
    pd.DataFrame([ROW | {"study": "a|b_c"}, CAUSAL]).to_csv(file, index=False)
    found = recovery_tables(file, "all", "macro")
    text = FORMS[form](found)
    for cells in found.tables.values():
        for cell in cells.to_numpy().flatten():
            assert cell.replace("_", r"\_" if form == "latex" else "_") in text
    assert "recovered: (P - A) / (B - A)" in text


def test_latex_is_of_booktabs_and_markdown_has_one_row_a_line(tmp_path):
    file = tmp_path / "recovery.csv"
    pd.DataFrame([ROW | {"recipe": "3B|x"}, CAUSAL]).to_csv(file, index=False)
    found = recovery_tables(file, "all", "macro")
    paper = FORMS["latex"](found)
    assert paper.count(r"\toprule") == paper.count(r"\bottomrule") == len(found.tables)
    rows = [row for row in FORMS["markdown"](found).splitlines() if row.startswith("|")]
    assert len(rows) == sum(len(cells) + 2 for cells in found.tables.values())
    assert any(r"3B\|x" in row for row in rows)


def test_as_csv_the_chosen_rows_have_all_their_digits(tmp_path):
    file = tmp_path / "recovery.csv"
    pd.DataFrame([ROW, ROW | {"seed": "9"}, CAUSAL]).to_csv(file, index=False)
    (tmp_path / "chosen.csv").write_text(FORMS["csv"](recovery_tables(file, "9", "macro")))
    (chosen,) = pd.read_csv(tmp_path / "chosen.csv").to_dict("records")
    assert chosen["damage_p"] == 1e-200 and chosen["seed"] == 9
