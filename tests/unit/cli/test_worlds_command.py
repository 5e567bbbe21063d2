"""Promises of `ablation worlds`: worlds are printed and drawn; tables that are none are refused."""

from collections import Counter
from xml.etree import ElementTree

import pandas as pd
import pytest

from ablation.analysis.worlds import pooled_rows, world_rows
from ablation.cli.main import main
from ablation.provenance.tables import read_csv, write_table
from ablation.report.charts import render
from ablation.report.pooled_figures import worlds
from ablation.report.text_tables import RECOVERY

R = {"a": 0.7, "b": 0.9, "c": 0.8}


def recovery(world, value, recipes=("3B",)):
    """A recovery.csv with R of each recipe over all seeds; net R is 0.05 less."""
    row = dict.fromkeys(RECOVERY, 0.5) | {"study": world, "mask": "prefill_bidir", "seed": "all"}
    for measure, r in (("recovered", value), ("net_recovered", value - 0.05)):
        row |= {measure: r, f"{measure}_low": r - 0.1, f"{measure}_high": r + 0.1}
    return pd.DataFrame([row | {"task": "macro", "recipe": recipe} for recipe in recipes])


@pytest.fixture
def files(tmp_path):
    """The recovery tables of three worlds."""
    for world, value in R.items():
        write_table(tmp_path / f"{world}.csv", recovery(world, value))
    return [str(tmp_path / f"{world}.csv") for world in R]


def test_worlds_are_printed_with_their_mean_and_the_interval_for_a_new_one(files, capsys):
    assert main(["worlds", *files]) == 0
    printed = capsys.readouterr().out
    (pooled,) = pooled_rows(world_rows({w: recovery(w, v) for w, v in R.items()}), 0.95)[
        lambda rows: rows.measure == "recovered"
    ].itertuples()
    assert "0.70 0.90 0.80" in printed
    assert f"+0.80 [{pooled.low:+.2f}, {pooled.high:+.2f}]" in printed
    assert f"[{pooled.new_world_low:+.2f}, {pooled.new_world_high:+.2f}]" in printed


def test_worlds_are_written_as_tables_and_as_a_figure(files, tmp_path):
    out = tmp_path / "new" / "folder"
    assert main(["worlds", *files, "--write", str(out)]) == 0
    written = {file.name for file in out.iterdir()}
    assert written == {"worlds.csv", "worlds_pooled.csv", "worlds.svg"}
    rows, pooled = read_csv(out / "worlds.csv"), read_csv(out / "worlds_pooled.csv")
    assert rows[rows.measure == "recovered"].value.tolist() == list(R.values())
    assert pooled.worlds.tolist() == [3, 3]
    assert (out / "worlds.svg").read_text().startswith("<svg")


def test_a_table_of_another_kind_is_refused(files, tmp_path, capsys):
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    odd = str(tmp_path / "odd.csv")
    assert main(["worlds", *files, odd, "--write", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "odd.csv" in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_two_tables_of_one_world_are_refused(files, tmp_path, capsys):
    write_table(tmp_path / "again.csv", recovery("b", 0.2))
    again = str(tmp_path / "again.csv")
    assert main(["worlds", *files, again, "--write", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "again.csv" in error and "b.csv" in error and "world b" in error
    assert not (tmp_path / "out").exists()


def test_the_figure_draws_each_world_and_both_intervals_of_each_recipe():
    rows = world_rows({world: recovery(world, r, ("3A", "3B")) for world, r in R.items()})
    pooled = pooled_rows(rows, 0.95)
    drawn = ElementTree.fromstring(render(worlds(rows, pooled), ".svg"))
    kinds = Counter(mark.get("aria-roledescription") for mark in drawn.iter())
    labels = " ".join(mark.get("aria-label", "") for mark in drawn.iter())
    assert kinds["point"] == len(rows) + len(pooled)
    assert kinds["rule mark"] == len(rows) + 2 * len(pooled)
    for row in rows.itertuples():
        assert f"value: {row.value:.10g}" in labels and f"world: {row.world}" in labels
