"""What the ledger of the vast executor promises to this project."""

import pytest
from snakemake_executor_plugin_vast.money import ledger

from ablation.lineage.ledger import ledger_attempts
from ablation.provenance.manifests import StaleInput
from ablation.workflow.hooks.runcrate import spent


@pytest.fixture
def book(tmp_path):
    return ledger.Ledger(tmp_path / "ledger.jsonl", "r", lambda: 5.0)


@pytest.mark.parametrize("damage", [b'{"what": "end", "lab\n', b"\xff\n", b"3\n"])
def test_trace_and_crate_refuse_a_damaged_ledger(book, damage):
    book.write("rent", label="a", instance=1)
    with open(book.path, "ab") as file:
        file.write(damage)
    book.write("end", label="a", seconds=1.0, dollars=2.0)
    for read in (spent, lambda path: ledger_attempts([path])):
        with pytest.raises((ValueError, StaleInput), match=r"ledger\.jsonl, line 2"):
            read(book.path)


def test_trace_and_crate_leave_out_a_line_that_was_cut_off(book):
    attempt = {"attempt": "r-1", "job": "j", "label": "a", "dph": 1.0, "seconds": 1.0}
    book.write("attempt", **attempt, wasted=0.0, why="done")
    book.write("end", label="a", seconds=1.0, dollars=2.0)
    with open(book.path, "a") as file:
        file.write('{"what": "end", "dollars": 9')
    with pytest.warns(UserWarning, match="cut off"):
        assert spent(book.path) == 2.0
    with pytest.warns(UserWarning, match="cut off"):
        assert list(ledger_attempts([book.path])) == ["r-1"]
