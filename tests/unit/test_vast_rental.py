"""From a wish to a machine: what is rented is looked at before a job sees it. No network."""

import threading
from types import SimpleNamespace

import pytest
from vast_stands import Market, Still, offer

from snakemake_executor_plugin_vast import ledger as books
from snakemake_executor_plugin_vast import offers, rental
from snakemake_executor_plugin_vast.offers import Wish
from snakemake_executor_plugin_vast.watch import Limits

SITE = rental.Site(
    workdir="/study", image="image", setup="set up", activate="activate", smoke="smoke",
    sources=lambda: ["Snakefile", "new.py"], silent=1800, later=7200, longest=86400,
)  # fmt: skip
BID = Wish(interruptible=True, max_price=1.0, seconds=3600.0)
STEADY = Wish(max_price=1.0, seconds=3600.0)


@pytest.fixture
def renting(tmp_path, monkeypatch):
    """A renter on a market, with the ledger of this folder."""
    monkeypatch.setattr(rental.Renter, "_keep_lease", lambda *_: None)

    def renter(market, budget=None):
        monkeypatch.setattr(rental, "Transport", market.way)
        clock, keys = Still(), SimpleNamespace(public="ssh-ed25519 AAAA")
        book = books.Ledger(tmp_path / "ledger.jsonl", "r", clock.wall)
        return rental.Renter(
            market, market, book, clock, keys, SITE, offers.Market(), Limits(), budget,
            threading.Event(), lambda text: None,
        )  # fmt: skip

    return renter


def ends(tmp_path):
    lines = books.read(tmp_path / "ledger.jsonl")
    return [line["why"] for line in lines if line["what"] == "end"]


def test_a_machine_gets_its_sources_its_environment_and_a_test_once_and_in_this_order(renting):
    market = Market([offer(1)])
    machine = renting(market).rent(STEADY, 1)
    assert machine.label == "p-1-1" and machine.offer.id == 1
    told = [text for _, text in market.ran]
    order = ("true", "rsync", "sources /study/Snakefile /study/new.py", "set up", "smoke")
    assert len(told) == len(order)
    assert all(part in text for part, text in zip(order, told, strict=True))
    assert told[-1] == "cd /study && activate && smoke"


def test_a_bid_that_became_a_rental_on_demand_is_ended_at_once(renting, tmp_path):
    """As the API does with a bid whose price it has not understood: several times the price."""
    market = Market([offer(1), offer(2)], comes={1: {"is_bid": False}})
    machine = renting(market).rent(BID, 1)
    assert (machine.offer.id, market.created) == (2, [1, 2])
    assert ends(tmp_path) == ["contract"] and list(market.listed) == [machine.label]
    assert not [text for number, text in market.ran if number == 1], "nothing was sent there"


def test_a_machine_dearer_than_the_cap_is_ended_at_once(renting, tmp_path):
    market = Market([offer(1), offer(2)], comes={1: {"dph_total": 1.5}})
    assert renting(market).rent(STEADY, 1).offer.id == 2
    assert ends(tmp_path) == ["contract"]


def test_a_machine_that_could_not_be_put_down_is_ended(renting, monkeypatch):
    market = Market([offer(1)])
    renter = renting(market)
    write = renter.ledger.write

    def full(what, **facts):
        if what == "rent":
            raise OSError(28, "No space left on device")
        return write(what, **facts)

    monkeypatch.setattr(renter.ledger, "write", full)
    with pytest.raises(OSError, match="No space left"):
        renter.rent(STEADY, 1)
    assert market.created == [1] and not market.listed


TROUBLE = {
    "fatal": {"comes": {1: {"status": "loading", "message": "toomanyrequests: pull rate limit"}}},
    "boot": {"comes": {1: {"status": "loading"}}},
    "setup": {"fails": {1: "set up"}},
    "smoke": {"fails": {1: "smoke"}},
    "ssh": {"fails": {1: "true"}},
}


@pytest.mark.parametrize("why", TROUBLE)
def test_a_machine_that_does_not_come_up_is_ended_and_remembered(renting, tmp_path, why):
    market = Market([offer(1), offer(2)], **TROUBLE[why])
    first = renting(market)
    assert first.rent(STEADY, 1).offer.id == 2 and ends(tmp_path) == [why]
    deadline = Limits().boot
    assert (first.clock.time >= deadline) == (why in ("boot", "ssh")), "others need no wait"
    market.created.clear()
    market.listed.clear()
    for later in (first, renting(market)):  # the same run, and the next one
        market.offers = [offer(1), offer(3)]
        assert later.rent(STEADY, 2).offer.id == 3


def test_it_gives_up_after_so_many_and_leaves_none(renting):
    market = Market([offer(n) for n in range(1, 10)], fails=dict.fromkeys(range(1, 10), "smoke"))
    with pytest.raises(rental.NothingToRent, match="6 machines did not come up; the last: smoke"):
        renting(market).rent(STEADY, 1)
    assert len(market.created) == 6 and not market.listed


def test_an_offer_that_is_taken_leads_to_the_next(renting, tmp_path):
    market = Market([offer(1), offer(2)], comes={1: {"taken": True}})
    assert renting(market).rent(STEADY, 1).offer.id == 2
    assert ends(tmp_path) == ["taken: never rented"]


def test_nothing_is_asked_for_that_could_go_over_the_budget(renting):
    """An hour and its start at ten cents: 17 cents. A second machine counts the first one's."""
    market = Market([offer(1), offer(2)])
    poor = renting(market, budget=0.16)
    with pytest.raises(rental.OverBudget, match=r"budget of \$0.16: \$0.00 spent"):
        poor.rent(STEADY, 1)
    assert not market.created
    richer = renting(market, budget=0.3)
    richer.rent(STEADY, 1)
    with pytest.raises(rental.OverBudget, match="promised to running jobs"):
        richer.rent(STEADY, 2)
    assert market.created == [1]
