"""Several markets as one: where a call goes, and what one market may prevent. No network."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_vast as plugin
from snakemake_executor_plugin_vast import command, market, settings
from snakemake_executor_plugin_vast.driver import rental, runs
from snakemake_executor_plugin_vast.driver.machines import Machine, Site
from snakemake_executor_plugin_vast.driver.pool import Pool
from snakemake_executor_plugin_vast.driver.watch import Limits
from snakemake_executor_plugin_vast.market import selection
from snakemake_executor_plugin_vast.market.protocol import (
    AccountRefused,
    Instance,
    Order,
    Refused,
    Requirements,
    SearchRules,
    Unavailable,
)
from snakemake_executor_plugin_vast.market.several import Several
from snakemake_executor_plugin_vast.money import ledger as books
from snakemake_interface_common.exceptions import WorkflowError
from vast_support.killed_run import killed_run
from vast_support.memory_market import MemoryMarket, offer
from vast_support.stand_ins import DirectKeeper, Machines, ManualClock

WANTED, RULES = Requirements(), SearchRules()


def raising(error):
    def call(*arguments):
        raise error

    return call


@pytest.fixture
def both():
    """Two markets, the offers of which cost 10, 30 and 20 cents, and themselves as one."""
    a, b = MemoryMarket([offer(1), offer(3)]), MemoryMarket([offer(2)])
    return a, b, Several({"a": a, "b": b})


def order(label="run-1-1"):
    return Order(label, "image", 40, "true")


def test_offers_of_all_markets_are_ranked_together(both):
    *_, several = both
    ranked = selection.rank(several.search(WANTED, RULES), WANTED, RULES)
    assert [(o.market, o.id) for o in ranked] == [("a", 1), ("b", 2), ("a", 3)]


def test_a_machine_s_calls_go_to_its_own_market(both):
    a, b, several = both
    called = []
    for name, one in (("a", a), ("b", b)):
        for call in ("start", "stop", "reboot", "attach_key"):
            setattr(one, call, lambda *said, n=name, c=call: called.append((n, c, *said)))
    offers = {o.id: o for o in several.search(WANTED, RULES)}
    ids = [several.create(offers[n], order(f"run-1-{n}")) for n in (2, 1)]
    assert ids == ["b:2", "a:1"]
    assert [i.id for i in several.instances("run-")] == ["a:1", "b:2"]
    for call in (several.start, several.stop, several.reboot):
        call("b:2")
    several.attach_key("a:1", "key")
    assert called == [("b", c, "2") for c in ("start", "stop", "reboot")] + [
        ("a", "attach_key", "1", "key")
    ]


@pytest.mark.parametrize("id", [7, "7", "c:7", "a:", "", 0])
def test_a_machine_of_no_market_is_refused(both, id):
    *_, several = both
    for call in (several.destroy, several.stop, several.start, several.instance):
        with pytest.raises(Refused, match="not a machine of a or b"):
            call(id)


def test_the_list_of_a_run_asks_the_markets_where_it_has_ordered(both):
    """Else a market that is down would keep the machines of the other from being watched."""
    a, b, several = both
    cheap = selection.rank(several.search(WANTED, RULES), WANTED, RULES)[0]
    several.create(cheap, order())
    b.instances = raising(Unavailable("503"))
    assert [i.id for i in several.instances("run-")] == ["a:1"]
    with pytest.raises(Unavailable):  # of earlier runs nothing is known
        several.instances("earlier-")
    with pytest.raises(Unavailable):
        several.instances("")


def test_a_lost_order_is_looked_for_in_its_market(both):
    a, b, several = both
    cheap = several.search(WANTED, RULES)[0]
    a.create = raising(Unavailable("lost"))
    with pytest.raises(Unavailable):
        several.create(cheap, order())
    a.instances = raising(Unavailable("503"))
    with pytest.raises(Unavailable):
        several.instances("run-")


def test_a_market_that_does_not_answer_is_left_out_until_the_run_has_machines_there(both):
    a, b, several = both
    offers = several.search(WANTED, RULES)
    b.search = raising(Unavailable("503"))
    assert {o.market for o in several.search(WANTED, RULES)} == {"a"}
    assert several.problems == {"b": "503"}
    several.create(next(o for o in offers if o.market == "b"), order())
    with pytest.raises(Unavailable):
        several.search(WANTED, RULES)


def test_an_account_that_is_refused_leaves_the_other_market(both):
    a, b, several = both
    a.create = raising(AccountRefused("no credit"))
    first, *rest = selection.rank(several.search(WANTED, RULES), WANTED, RULES)
    with pytest.raises(Refused) as caught:
        several.create(first, order())
    assert not isinstance(caught.value, AccountRefused)
    assert several.create(rest[0], order("run-1-2")) == "b:2"
    assert {o.market for o in several.search(WANTED, RULES)} == {"b"}
    assert "no credit" in several.problems["a"]


@pytest.mark.parametrize("errors, kind", [
    ((AccountRefused("key"), AccountRefused("key")), AccountRefused),
    ((AccountRefused("key"), Unavailable("503")), Unavailable),
])  # fmt: skip
def test_without_any_market_the_search_says_why(both, errors, kind):
    a, b, several = both
    a.search, b.search = map(raising, errors)
    with pytest.raises(kind, match="a: key\nb: "):
        several.search(WANTED, RULES)


def test_each_machine_gets_the_control_of_its_market(both):
    a, b, several = both
    a.machine_control, b.machine_control = lambda o: "of a", lambda o: "of b"
    found = {o.market: several.machine_control(o) for o in several.search(WANTED, RULES)}
    assert found == {"a": "of a", "b": "of b"}


def test_a_row_without_an_id_gets_none(both):
    a, _, several = both
    several.create(several.search(WANTED, RULES)[0], order())
    a.listed["run-1-1"] = replace(a.listed["run-1-1"], id=0)
    assert [i.id for i in several.instances("run-")] == [0]


def test_a_setting_names_several_markets(monkeypatch, tmp_path):
    def module(name):
        secrets = (f"{name.upper()}_KEY",)
        return SimpleNamespace(SECRETS=secrets, connect=lambda *_: MemoryMarket([]))

    monkeypatch.setattr(market, "find_market", module)
    assert market.names_of(" a, b,a,") == ["a", "b"]
    environment = {"A_KEY": "1", "B_KEY": "2", "OTHER": "3"}
    assert market.take_secrets("a,b", environment) == {"A_KEY": "1", "B_KEY": "2", "OTHER": "3"}
    assert environment == {"OTHER": "3"}
    assert list(market.connect("a,b", {}, tmp_path, None).markets) == ["a", "b"]
    assert isinstance(market.connect("a", {}, tmp_path, None), MemoryMarket)


# ---- what the driver does with them --------------------------------------------------------------


def test_the_plan_names_each_account_and_what_is_left_out(both, tmp_path):
    a, b, several = both
    b.credit = lambda: None
    a.search = raising(AccountRefused("no credit"))
    several.search(WANTED, RULES)
    executor = object.__new__(plugin.Executor)
    executor.workdir = tmp_path
    notes = executor._notes(several)
    assert notes[0].startswith("The account at a has $12.50") and "credit at b is not" in notes[1]
    assert notes[2] == "a is left out: no credit"


@pytest.mark.parametrize("market", ["", " , ", "vast,nowhere"])
def test_a_setting_without_a_market_is_refused(market):
    with pytest.raises(WorkflowError, match="--vast-market: "):
        settings.check(plugin.ExecutorSettings(market=market))
    settings.check(plugin.ExecutorSettings(market="vast,runpod"))


def test_the_ledger_names_the_market_of_a_machine(both, tmp_path, monkeypatch):
    *_, several = both
    renter = renter_of(several, tmp_path, monkeypatch, market="a,b")
    labels = [renter.rent(WANTED, 1).label for _ in range(2)]
    lines = books.read(tmp_path / "l.jsonl")
    assert [x["market"] for x in lines if x["what"] == "intend"] == ["a", "b"]
    assert [x["instance"] for x in lines if x["what"] == "rent"] == ["a:1", "b:2"]
    assert [r.instance for r in books.open_rentals(lines)] == ["a:1", "b:2"]
    alone = renter_of(MemoryMarket([offer(9)]), tmp_path, monkeypatch, market="a")
    alone.rent(WANTED, 1)
    assert books.read(tmp_path / "l.jsonl")[-2]["market"] == "a" and len(set(labels)) == 2


def test_an_offer_of_many_machines_is_rented_again_unless_its_last_one_failed(
    tmp_path, monkeypatch
):
    cheap, dear = replace(offer(1), many=True, machine_id=0), offer(2)
    market = MemoryMarket([cheap, dear])
    renter = renter_of(market, tmp_path, monkeypatch)
    for _ in range(2):
        renter.rent(WANTED, 1)
    assert market.created == [1, 1]
    market.instance_facts[1] = {"status": "offline"}
    renter.rent(WANTED, 1)
    assert market.created == [1, 1, 1, 2]
    # No machine of it is avoided for a day, since none is known.
    market.instance_facts.clear()
    market.taken.add(2)
    assert renter.rent(WANTED, 1).offer.id == 1
    assert renter_of(market, tmp_path, monkeypatch).rent(WANTED, 1).offer.id == 1


@pytest.mark.parametrize("keeps_disk, reused", [(True, True), (False, False)])
def test_a_machine_whose_environment_a_restart_has_erased_gets_no_other_job(keeps_disk, reused):
    machine = Machine("m", replace(offer(1), keeps_disk=keeps_disk), WANTED, 1.0, 0.0)
    assert not machine.worn
    machine.restarted = True
    assert machine.worn is not reused
    ended, pool = [], object.__new__(Pool)
    pool.renter = SimpleNamespace(
        end=lambda m, why: ended.append(why), well=lambda m: True, promise=lambda *_: None,
        rent=lambda requirements, slot: "another",
    )  # fmt: skip
    pool._work_at = lambda task, m: m
    served = pool._serve(SimpleNamespace(requirements=WANTED), machine, 1)
    assert (served is machine) == reused and ended == ([] if reused else ["restarted"])


def test_a_machine_with_an_id_of_letters_is_listed_and_destroyed(tmp_path, monkeypatch, capsys):
    """The ids are those of several markets, or of RunPod."""
    run, label = killed_run(tmp_path, "a,b")
    market = MemoryMarket([], listed={label: Instance("b:x1", label, "stopped", "", 0, 0.0, False)})
    monkeypatch.setattr(command, "_connect", lambda names: {"a,b": market}[names])
    monkeypatch.setattr(runs, "Clock", lambda scale: ManualClock())
    assert command.reap(tmp_path) == 1
    assert "`snakemake-vast reap --destroy b:x1`" in capsys.readouterr().out
    assert command.reap(tmp_path, ["a:x1"]) == 1
    assert "--destroy a:x1: no killed run" in capsys.readouterr().err and market.listed
    assert command.reap(tmp_path, ["b:x1"]) == 0
    assert not market.listed


def renter_of(its_market, folder, monkeypatch, **facts):
    """A renter on a market, whose list is always up to date."""
    monkeypatch.setattr(rental, "keep_lease", lambda *_: None)
    monkeypatch.setattr(rental, "Transport", Machines().connect)
    site = Site("/study", "image", (), "", "", list, 1800, 7200, 86400, **facts)
    clock, keeper = ManualClock(), DirectKeeper(its_market)

    def find(label, since):
        return True, {i.label: i for i in its_market.instances(keeper.prefix)}.get(label)

    keeper.find, keeper.unwant = find, lambda label: None
    book = books.Ledger(folder / "l.jsonl", "r", clock.wall)
    return rental.Renter(
        its_market, keeper, book, clock, SimpleNamespace(public="key"), site, SearchRules(),
        Limits(), None, threading.Event(), lambda text: None,
    )  # fmt: skip
