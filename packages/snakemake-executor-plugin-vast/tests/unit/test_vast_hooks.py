"""Who allows a rental: a hook, the person at the terminal or --vast-yes; and what hooks add."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_vast import hooks, terminal
from snakemake_executor_plugin_vast.hooks import Hook, Hooks, NotAllowed, RentalRequest, RentedJob
from snakemake_executor_plugin_vast.market.protocol import Requirements, Unavailable
from snakemake_executor_plugin_vast.market.selection import PricedOffer
from snakemake_executor_plugin_vast.money import permission
from snakemake_executor_plugin_vast.money.permission import Permission
from snakemake_executor_plugin_vast.settings import ExecutorSettings
from snakemake_interface_common.exceptions import WorkflowError
from vast_support.memory_market import offer

WORKFLOW = hooks.Workflow(Path("/study"), {"study": "mine"})
HOUR = Requirements(seconds=3600.0)


def request(log=None, offers=lambda: [], jobs=(HOUR, HOUR), notes=list, **settings):
    rented = [RentedJob("train", {}, requirements) for requirements in jobs]
    said = [].append if log is None else log.append
    return RentalRequest(rented, ExecutorSettings(**settings), offers, said, notes)


@pytest.fixture
def answers(monkeypatch):
    """What somebody at the terminal answers; `asked` collects the questions."""
    answers, answers_asked = [], []

    def answer(question):
        answers_asked.append(question)
        return answers.pop(0)

    monkeypatch.setattr(permission, "at_a_terminal", lambda: answer)
    return SimpleNamespace(give=answers.append, asked=answers_asked)


@pytest.fixture
def no_terminal(monkeypatch):
    monkeypatch.setattr(permission, "at_a_terminal", lambda: None)


# ---- without a hook ------------------------------------------------------------------------------


def test_the_most_that_it_can_cost_and_the_cheapest_offers_are_shown_before_the_question(answers):
    answers.give("y")
    said = []
    offers = [PricedOffer(offer(n), 0.1 * n) for n in range(1, 8)]
    Permission().get(request(said, lambda: offers, max_price=2.0), Hooks(WORKFLOW, []))
    text = "\n".join(said)
    assert "2 jobs need a machine" in text and "$4.00" in text
    assert "Cheapest of 7 offers" in text and "$0.100 per hour: 1x RTX 4090" in text
    assert answers.asked == ["Rent machines for up to $4.00? [y/N] "]


def test_the_budget_bounds_what_is_asked_for(answers):
    answers.give("yes")
    Permission().get(request(max_price=2.0, budget=3.0), Hooks(WORKFLOW, []))
    assert answers.asked == ["Rent machines for up to $3.00? [y/N] "]


def test_the_notes_on_the_account_are_shown_before_the_question(answers):
    answers.give("y")
    said = []
    Permission().get(request(said, notes=lambda: ["a note"]), Hooks(WORKFLOW, []))
    assert said[-1] == "a note" and len(answers.asked) == 1


def test_a_market_without_an_answer_does_not_keep_from_asking(answers):
    def down():
        raise Unavailable("503")

    answers.give("y")
    said = []
    Permission().get(request(said, down), Hooks(WORKFLOW, []))
    assert any("503" in text for text in said) and len(answers.asked) == 1


@pytest.mark.parametrize("word", ["", "n", "maybe"])
def test_a_refusal_holds_for_every_later_job(answers, word):
    answers.give(word)
    permission = Permission()
    for _ in range(2):
        with pytest.raises(NotAllowed, match="answer was not yes"):
            permission.get(request(), Hooks(WORKFLOW, []))
    assert len(answers.asked) == 1


@pytest.mark.parametrize("budget", [0.0, 5.0])
def test_without_a_terminal_only_a_yes_on_the_command_line_rents(no_terminal, budget):
    with pytest.raises(NotAllowed, match="--vast-yes"):
        Permission().get(request(budget=budget), Hooks(WORKFLOW, []))
    Permission().get(request(budget=budget, yes=True), Hooks(WORKFLOW, []))


def test_the_live_display_is_paused_for_the_question_if_it_runs(answers, monkeypatch):
    seen = []

    @contextmanager
    def paused():
        seen.append("paused")
        yield
        seen.append("drawn again")

    module = SimpleNamespace(live_display_paused=paused)
    monkeypatch.setitem(sys.modules, "snakemake_logger_plugin_live.pause", module)
    answers.give("y")
    Permission().get(request(), Hooks(WORKFLOW, []))
    assert seen == ["paused", "drawn again"]


def test_the_live_display_is_no_dependency(monkeypatch):
    monkeypatch.delitem(sys.modules, "snakemake_logger_plugin_live.pause", raising=False)
    with terminal.live_display_paused():
        assert "snakemake_logger_plugin_live.pause" not in sys.modules


# ---- with hooks ----------------------------------------------------------------------------------


class Deciding(Hook):
    def __init__(self, answer):
        self.answer = answer

    def permit(self, workflow, request):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_the_first_hook_that_knows_the_workflow_decides(no_terminal):
    Permission().get(request(), Hooks(WORKFLOW, [Deciding(None), Deciding(True), Deciding(False)]))
    with pytest.raises(NotAllowed, match="refused"):
        Permission().get(request(yes=True), Hooks(WORKFLOW, [Deciding(False)]))
    refusal = NotAllowed("too many jobs")
    with pytest.raises(NotAllowed, match="too many jobs"):
        Permission().get(request(yes=True), Hooks(WORKFLOW, [Deciding(refusal)]))


def test_without_a_hook_that_knows_the_workflow_the_executor_asks(answers):
    answers.give("y")
    Permission().get(request(), Hooks(WORKFLOW, [Deciding(None), object()]))
    assert len(answers.asked) == 1


def test_environment_variables_of_all_hooks_reach_a_job_and_one_setup_a_machine():
    class First(Hook):
        def job_environment(self, workflow, attempt):
            return {"ATTEMPT": attempt, "STUDY": workflow.config["study"]}

    class Second:  # a hook need not be a Hook, and may define one method only
        def job_environment(self, workflow, attempt):
            return {"MORE": "1"}

    class Third(Hook):
        def setup(self, workflow):
            return "pip install -e ."

    found = Hooks(WORKFLOW, [First(), Second(), Third()])
    assert found.job_environment("r-1") == {"ATTEMPT": "r-1", "STUDY": "mine", "MORE": "1"}
    assert found.setup() == "pip install -e ." and Hooks(WORKFLOW, []).setup() is None


def installed(folder, monkeypatch, group, value):
    """Install a distribution that registers `value` as an entry point."""
    info = folder / "some_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\nmemory = {value}\n")
    monkeypatch.syspath_prepend(str(folder))


def test_hooks_are_found_by_their_entry_points(tmp_path, monkeypatch):
    (tmp_path / "my_hook.py").write_text("class H:\n    def setup(self, w): return 'mine'\nh = H()")
    installed(tmp_path, monkeypatch, hooks.GROUP, "my_hook:h")
    assert any(hasattr(hook, "setup") for hook in Hooks(WORKFLOW).hooks)


def test_a_hook_that_cannot_be_loaded_is_named(tmp_path, monkeypatch):
    installed(tmp_path, monkeypatch, hooks.GROUP, "no_such_module:hook")
    with pytest.raises(WorkflowError, match="hook memory .no_such_module:hook.*Nothing was rented"):
        Hooks(WORKFLOW)


def test_importing_the_executor_loads_no_hook(tmp_path):
    """A hook may import much, and a dry run must not wait for it."""
    info = tmp_path / "some_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{hooks.GROUP}]\nx = loud_hook:hook\n")
    (tmp_path / "loud_hook.py").write_text("raise SystemExit('loaded')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", "import snakemake_executor_plugin_vast"]
    subprocess.run(command, env=environment, check=True)


# ---- another market ------------------------------------------------------------------------------


def test_another_distribution_can_add_a_market_in_one_module(tmp_path, monkeypatch):
    """test_vast_rental.py rents machines from it."""
    from snakemake_executor_plugin_vast import market, settings
    from snakemake_executor_plugin_vast.clock import Clock
    from vast_support.memory_market import MemoryMarket

    installed(tmp_path, monkeypatch, market.GROUP, "vast_support.memory_market")
    settings.check(ExecutorSettings(market="memory"))
    environment = {"MEMORY_MARKET_KEY": "secret", "PATH": "/bin"}
    before = market.take_secrets("memory", environment)
    assert environment == {"PATH": "/bin"} and before["MEMORY_MARKET_KEY"] == "secret"
    found = market.find_market("memory").connect(before, tmp_path, Clock())
    assert isinstance(found, MemoryMarket)
    assert [o.id for o in found.search(HOUR, settings.search_rules(ExecutorSettings()))] == [1]
