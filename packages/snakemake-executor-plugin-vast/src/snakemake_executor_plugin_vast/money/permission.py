"""Permission to rent machines: a hook decides, or the person at the terminal."""

from __future__ import annotations

from ..hooks import Hooks, NotAllowed, RentalRequest
from ..market.protocol import MarketError
from ..terminal import at_a_terminal, live_display_paused

SHOWN = 5  # offers


class Permission:
    """Asks once in a run; a refusal holds for every later job."""

    def __init__(self) -> None:
        self._refusal: NotAllowed | None = None
        self._granted = False

    def get(self, request: RentalRequest, hooks: Hooks) -> None:
        """Return if machines may be rented. Raises NotAllowed if not."""
        if not self._granted and self._refusal is None:
            try:
                answer = hooks.permit(request)
                if answer is False:
                    raise NotAllowed("Nothing was rented: a hook of the workflow refused it.")
                if answer is None:
                    ask(request)
                self._granted = True
            except NotAllowed as refusal:
                self._refusal = refusal
        if self._refusal is not None:
            raise self._refusal


def ask(request: RentalRequest) -> None:
    """Show what the run could cost and the cheapest offers, and ask. Raises NotAllowed."""
    chosen, number = request.settings, len(request.jobs)
    dollars = most_dollars(request)
    with live_display_paused():
        request.log(
            f"{number} jobs need a machine. They could cost up to ${dollars:.2f}: at most "
            f"${chosen.max_price:.2f} per hour, for the time that each job may take"
            + (f", within the budget of ${chosen.budget:.2f}." if chosen.budget else ".")
        )
        for line in [*cheapest_offers(request), *request.notes()]:
            request.log(line)
        if chosen.yes:
            return
        question = at_a_terminal()
        if question is None:
            raise NotAllowed(
                f"Up to ${dollars:.2f} could be spent, and there is no terminal to ask at. Nothing "
                "was rented. Start Snakemake again with --vast-yes, and bound the cost with "
                "--vast-budget."
            )
        try:
            answer = question(f"Rent machines for up to ${dollars:.2f}? [y/N] ")
        except EOFError:
            answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise NotAllowed("Nothing was rented: the answer was not yes.")


def credit_note(credit: float | None, market: str = "") -> str:
    """What to say of the account's credit at a market, which is named if there are several."""
    place = f" at {market}" if market else ""
    if credit is None:
        return (
            f"The credit{place} is not known: the key lacks the permission to read it (user_read "
            "of Vast.ai)."
        )
    return (
        f"The account{place} has ${credit:.2f} of credit. A card that is saved there is charged "
        "beyond it."
    )


def most_dollars(request: RentalRequest) -> float:
    """The most that the jobs can cost: their time limits at the highest price, and the budget."""
    chosen = request.settings
    hours = sum(job.requirements.seconds for job in request.jobs) / 3600
    dollars = hours * chosen.max_price
    return min(dollars, chosen.budget) if chosen.budget else dollars


def cheapest_offers(request: RentalRequest) -> list[str]:
    """One line for each of the offers that would be tried first for the most demanding job."""
    try:
        offers = request.offers()
    except MarketError as error:
        return [f"The market did not list its offers: {error}"]
    if not offers:
        return ["No offer meets the requirements now. Machines are searched for ten minutes."]
    shown = [
        f"  ${priced.price:.3f} per hour: {priced.offer.gpus}x {priced.offer.gpu_name}"
        + (f", {priced.offer.location}" if priced.offer.location else "")
        + (f", {priced.offer.market}" if priced.offer.market else "")
        + (f" (${priced.transfers:.3f} of it for transfers)" if priced.transfers else "")
        for priced in offers[:SHOWN]
    ]
    first = "Best scores" if request.settings.rank == "score" else "Cheapest"
    return [f"{first} of {len(offers)} offers that meet the requirements:", *shown]
