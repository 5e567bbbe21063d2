"""The hook of the vast executor. No network.

A plan is shown, and somebody or a budget allows it, before a study rents machines; and jobs get the
facts for their run records.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from snakemake_executor_plugin_vast.hooks import NotAllowed, RentalRequest, RentedJob, Workflow
from snakemake_executor_plugin_vast.market.protocol import (
    Offer,
    Requirements,
    SearchRules,
    Unavailable,
)
from snakemake_executor_plugin_vast.market.selection import PricedOffer, priced
from snakemake_executor_plugin_vast.settings import ExecutorSettings

from ablation.cli.main import main
from ablation.config.merging import read_config_file
from ablation.provenance.run_records import ATTEMPT, GIT_STATE
from ablation.workflow.hooks import vast
from ablation.workflow.hooks.vast import StudyHook
from ablation.workflow.notifications import FAILED, URL, Notifier
from tests.support.webhook_server import bodies, webhook

JOBS = [
    ("stage1_baseline", {}),
    ("stage3_finetune", {"recipe": "3B", "seed": "42"}),
    ("stage4_posteval", {"recipe": "3B", "seed": "42"}),
]
FILE = Path("config/ministral3b.yaml")
STUDY = Workflow(Path("."), read_config_file(str(FILE)).values, [FILE])
OTHER = Workflow(Path("."), {"samples": "somebody else's"})
NEEDED = Requirements(gpus=1, gpu_mem_mb=40_000, disk_gb=100, max_price=5.0)


def no_answer():
    raise Unavailable("no answer")


def request(offers=no_answer, jobs=JOBS, needed=NEEDED, log=None, notes=list, **settings):
    rented = [RentedJob(rule, wildcards, needed) for rule, wildcards in jobs]
    said = [].append if log is None else log.append
    return RentalRequest(rented, ExecutorSettings(**settings), offers, said, notes)


def offered(number, gpu, price):
    offer = Offer(number, number, gpu, 1, 80_000.0, 64_000.0, 900.0, price, location="SE")
    return PricedOffer(offer, price)


@pytest.fixture
def terminal(monkeypatch):
    """What somebody at the terminal answers, and what was asked."""
    asked, answers = [], []

    def answer(question):
        asked.append(question)
        return answers.pop(0)

    monkeypatch.setattr(vast, "at_a_terminal", lambda: answer if answers or asked else None)
    return asked, answers


def test_the_plan_is_shown_and_asked_about(terminal, capsys):
    asked, answers = terminal
    answers.append("y")
    assert StudyHook().permit(STUDY, request()) is True
    shown = capsys.readouterr().out
    assert "ministral3b: 3 model jobs" in shown and "cheapest first" in shown
    assert len(asked) == 1 and asked[0].startswith("Rent for about $")
    assert 0 < float(asked[0].split("$")[1].split("?")[0]) < 20


def test_the_notes_on_the_account_are_shown_with_the_plan(terminal):
    said = []
    notes = ["The account has $12.50 of credit."]
    assert StudyHook().permit(STUDY, request(yes=True, log=said, notes=lambda: notes))
    assert notes[0] in said


def test_a_no_refuses(terminal):
    _, answers = terminal
    answers.append("")
    with pytest.raises(NotAllowed, match="the answer was not yes"):
        StudyHook().permit(STUDY, request(budget=50))


def test_without_a_terminal_a_yes_or_a_budget_is_needed(terminal):
    with pytest.raises(NotAllowed, match="no terminal to ask at"):
        StudyHook().permit(STUDY, request())
    assert StudyHook().permit(STUDY, request(yes=True))
    assert StudyHook().permit(STUDY, request(budget=50))


@pytest.mark.parametrize("yes", [True, False])
def test_a_plan_over_the_budget_is_refused_whatever_is_said(terminal, yes):
    with pytest.raises(NotAllowed, match="over the budget of"):
        StudyHook().permit(STUDY, request(budget=0.01, yes=yes))


def test_machines_over_the_price_are_not_planned_with(terminal, capsys):
    StudyHook().permit(STUDY, request(max_price=2.0, yes=True))
    shown = capsys.readouterr().out
    assert "1x A100_SXM4" in shown and "1x H100_SXM" not in shown


def test_the_plan_is_made_of_todays_offers(terminal, capsys):
    _, answers = terminal
    answers.append("y")
    ranked = [
        offered(4, "some other GPU", 0.1),
        offered(2, "H100 SXM", 2.11),
        offered(1, "H100 SXM", 2.22),
    ]
    StudyHook().permit(STUDY, request(lambda: ranked))
    shown = capsys.readouterr().out
    assert "2.11" in shown and "2.22" not in shown and "A100" not in shown
    assert "today, SE" in shown


def test_the_plan_shows_the_offers_of_each_market(terminal, capsys, monkeypatch):
    """Of each market the first one of a GPU, wherever it is ranked."""
    monkeypatch.setenv("COLUMNS", "200")
    found = [
        replace(offered(n, "H100 SXM", price), offer=replace(
            offered(n, "H100 SXM", price).offer, market=market, location=place))
        for n, (price, market, place) in enumerate(
            [(2.11, "vast", "SE"), (2.22, "vast", "NO"), (2.73, "runpod", "EU-RO-1")])
    ]  # fmt: skip
    StudyHook().permit(STUDY, request(lambda: found, yes=True))
    shown = capsys.readouterr().out
    assert "today, SE of vast" in shown and "today, EU-RO-1 of runpod" in shown
    assert "2.11" in shown and "2.73" in shown and "2.22" not in shown


def test_the_plan_counts_what_a_host_charges_for_transfers(terminal, capsys):
    """7 GB every 20 minutes at 2 cents a GB are 42 cents per hour."""
    needed = replace(NEEDED, upload_gb=21.0)
    cheap = offered(1, "H100 SXM", 2.0).offer
    dear = replace(cheap, upload_price=0.02)
    for offer, price in ((cheap, "2.00"), (dear, "2.42")):
        found = [priced(offer, needed, SearchRules())]
        StudyHook().permit(STUDY, request(lambda found=found: found, needed=needed, yes=True))
        shown = capsys.readouterr().out
        assert price in shown and ("transfers" in shown) == (offer is dear)


@pytest.mark.parametrize(
    "offers, told", [(no_answer, "no answer"), (lambda: [], "no offer meets the requirements")]
)
def test_without_offers_the_plan_is_made_with_the_price_table(terminal, capsys, offers, told):
    said = []
    StudyHook().permit(STUDY, request(offers, log=said, yes=True))
    assert len(said) == 1 and told in said[0] and "price table" in said[0]
    assert "1x H100_SXM" in capsys.readouterr().out


def test_jobs_that_the_plan_does_not_count_are_asked_for_at_their_most(terminal):
    """The bridge's take hours of a GPU, so a yes to $0.00 is not enough."""
    asked, answers = terminal
    answers.append("y")
    bridge, said = [("bridge_cells", {}), ("bridge_states", {})], []
    StudyHook().permit(STUDY, request(jobs=bridge, log=said, max_price=2.0, max_hours=3.0))
    assert asked == ["Rent for about $12.00? [y/N] "]
    assert any("2 jobs that the plan does not count could cost $12.00" in text for text in said)


def test_only_gpus_that_may_be_rented_are_planned_with(terminal, capsys):
    needed = Requirements(gpus=1, gpu_models=("H100_SXM", "H200"), max_price=5.0)
    StudyHook().permit(STUDY, request(needed=needed, yes=True))
    shown = capsys.readouterr().out
    assert "1x H100_SXM" in shown and "A100" not in shown and "2x" not in shown


def test_a_job_gets_the_name_of_its_attempt_and_the_commit_of_its_code(monkeypatch):
    """Sources are copied to a machine without .git."""
    state = {"git_hash": "c0ffee", "git_dirty": True}
    monkeypatch.setattr(vast, "git_state", lambda folder: state)
    variables = StudyHook().job_environment(STUDY, "run-1")
    assert variables[ATTEMPT] == "run-1" and json.loads(variables[GIT_STATE]) == state


def test_another_workflow_is_none_of_its_business(terminal):
    hook = StudyHook()
    assert hook.permit(OTHER, request()) is None
    assert hook.job_environment(OTHER, "run-1") is None


def test_ablation_reap_is_the_command_of_the_executor(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["reap"]) == 0
    assert f"{tmp_path}: no run has rented machines" in capsys.readouterr().out


def test_nothing_is_rented_for_a_training_on_several_machines():
    changes = {"hardware": STUDY.config["hardware"] | {"gpu": 4, "nodes": 2}}
    changes["finetune"] = STUDY.config["finetune"] | {"micro_batch_examples": 4}
    changes["recipes"] = {"3B": {"train_mask": "prefill_bidir"}}
    spread = replace(STUDY, config={**STUDY.config, **changes})
    with pytest.raises(NotAllowed, match="hardware.nodes: 2 found, but rented machines share no"):
        StudyHook().permit(spread, request(yes=True))


def test_a_reached_budget_is_told_once_to_the_webhook_of_a_study(monkeypatch):
    notifier = Notifier()
    monkeypatch.setattr(vast, "NOTIFIER", notifier)
    with webhook() as (url, posts):
        notifier.take({URL: url})
        notifier.begin("ministral3b")
        for workflow in (OTHER, STUDY, STUDY):
            StudyHook().over_budget(workflow, "budget of $5.00: $4.90 spent")
        notifier.end(FAILED, "x")
    told = {body["event"]: body["text"] for body in bodies(posts)}
    assert len(posts) == 2
    assert told["budget"] == "No machine is rented any more: budget of $5.00: $4.90 spent."
