"""Nothing is rented before the plan was shown and somebody, or a budget, said yes."""

import pytest

from ablation.layers import read_layer
from snakemake_executor_plugin_vast import permission
from snakemake_executor_plugin_vast.permission import NotAllowed, Permission
from snakemake_executor_plugin_vast.settings import ExecutorSettings

JOBS = [
    ("stage1_baseline", {}),
    ("stage3_finetune", {"recipe": "3B", "seed": "42"}),
    ("stage4_posteval", {"recipe": "3B", "seed": "42"}),
]
FILE = "config/ministral3b.yaml"
OURS = (read_layer(FILE).values, [FILE])
OTHER = ({"samples": "somebody else's"}, [])


@pytest.fixture
def terminal(monkeypatch):
    """What somebody at the terminal answers, and what was asked."""
    asked, answers = [], []

    def answer(question):
        asked.append(question)
        return answers.pop(0)

    monkeypatch.setattr(permission, "at_a_terminal", lambda: answer if answers or asked else None)
    return asked, answers


def test_the_plan_is_shown_and_asked_about_once(terminal, capsys):
    asked, answers = terminal
    answers.append("y")
    permitted = Permission(ExecutorSettings())
    permitted.get(JOBS, *OURS)
    permitted.get(JOBS, *OURS)
    shown = capsys.readouterr().out
    assert "ministral3b: 3 model jobs" in shown and "cheapest first" in shown
    assert len(asked) == 1 and asked[0].startswith("Rent for about $")
    assert 0 < float(asked[0].split("$")[1].split("?")[0]) < 20


def test_a_no_holds_for_every_job(terminal):
    asked, answers = terminal
    answers.append("")
    refused = Permission(ExecutorSettings(budget=50))
    for _ in JOBS:
        with pytest.raises(NotAllowed, match="the answer was not yes"):
            refused.get(JOBS, *OURS)
    assert len(asked) == 1


def test_without_a_terminal_a_yes_or_a_budget_is_needed(terminal):
    with pytest.raises(NotAllowed, match="nobody is at a terminal"):
        Permission(ExecutorSettings()).get(JOBS, *OURS)
    Permission(ExecutorSettings(yes=True)).get(JOBS, *OURS)
    Permission(ExecutorSettings(budget=50)).get(JOBS, *OURS)


def test_a_plan_over_the_budget_is_refused_whatever_is_said(terminal):
    for yes in (True, False):
        with pytest.raises(NotAllowed, match="over the budget of"):
            Permission(ExecutorSettings(budget=0.01, yes=yes)).get(JOBS, *OURS)


def test_machines_over_the_price_are_not_planned_with(terminal, capsys):
    Permission(ExecutorSettings(max_price=2.0, yes=True)).get(JOBS, *OURS)
    shown = capsys.readouterr().out
    assert "1x A100_SXM4" in shown and "1x H100_SXM" not in shown


def test_of_another_workflow_all_that_it_could_cost_is_asked_for(terminal):
    asked, answers = terminal
    answers.append("yes")
    Permission(ExecutorSettings(max_price=2.0, max_hours=3.0)).get(JOBS, *OTHER)
    assert asked == ["Rent for about $18.00? [y/N] "]
