"""Nothing is rented before the plan was shown and somebody, or a budget, said yes."""

import pytest

from ablation.layers import read_layer
from snakemake_executor_plugin_vast import permission
from snakemake_executor_plugin_vast.api import Offer, Unavailable
from snakemake_executor_plugin_vast.offers import Wish
from snakemake_executor_plugin_vast.permission import NotAllowed, Permission
from snakemake_executor_plugin_vast.settings import ExecutorSettings

JOBS = [
    ("stage1_baseline", {}),
    ("stage3_finetune", {"recipe": "3B", "seed": "42"}),
    ("stage4_posteval", {"recipe": "3B", "seed": "42"}),
]
FILE = "config/ministral3b.yaml"
WISH = Wish(gpus=1, gpu_mem_mb=40_000, disk_gb=100, max_price=5.0)


def silent(query):
    raise Unavailable("no answer")


OURS = (read_layer(FILE).values, [FILE], WISH, silent)
OTHER = ({"samples": "somebody else's"}, [], WISH, silent)


def offered(number, gpu, dollars, memory=80_000.0, gpus=1):
    return Offer(number, number, gpu, gpus, memory, 64_000.0, 900.0, dollars, 0.0, geolocation="SE")


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


def test_the_plan_is_made_of_todays_offers_that_would_do(terminal, capsys):
    asked, answers = terminal
    answers.append("y")
    queries = []

    def search(query):
        queries.append(query)
        return [
            offered(1, "H100 SXM", 2.22),
            offered(2, "H100 SXM", 2.11),
            offered(3, "A100 SXM4", 0.5, memory=20_000.0),
            offered(4, "some other GPU", 0.1),
        ]

    Permission(ExecutorSettings()).get(JOBS, *OURS[:2], WISH, search)
    shown = capsys.readouterr().out
    assert [query["num_gpus"] for query in queries] == [{"eq": 1}]
    assert "2.11" in shown and "2.22" not in shown and "A100" not in shown
    assert "today, SE" in shown and len(asked) == 1


@pytest.mark.parametrize(
    "search, told", [(silent, "no answer"), (lambda query: [], "no offer of the market")]
)
def test_a_market_without_an_answer_or_an_offer_is_told_and_the_table_taken(
    terminal, capsys, search, told
):
    said = []
    Permission(ExecutorSettings(yes=True), said.append).get(JOBS, *OURS[:3], search)
    assert len(said) == 1 and told in said[0] and "price table" in said[0]
    assert "1x H100_SXM" in capsys.readouterr().out


def test_jobs_that_no_plan_counts_are_asked_for_at_their_most(terminal):
    """The bridge's take hours of a GPU: they are not to be had for a yes to $0.00."""
    asked, answers = terminal
    answers.append("y")
    bridge, said = [("bridge_cells", {}), ("bridge_states", {})], []
    Permission(ExecutorSettings(max_price=2.0, max_hours=3.0), said.append).get(bridge, *OURS)
    assert asked == ["Rent for about $12.00? [y/N] "]
    assert any("2 jobs that no plan counts could cost $12.00" in text for text in said)


def test_only_gpus_that_may_be_rented_are_planned_with(terminal, capsys):
    wish = Wish(gpus=1, gpu_models=("H100_SXM", "H200"), max_price=5.0)
    Permission(ExecutorSettings(yes=True)).get(JOBS, *OURS[:2], wish, silent)
    shown = capsys.readouterr().out
    assert "1x H100_SXM" in shown and "A100" not in shown and "2x" not in shown
