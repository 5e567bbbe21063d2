"""Prints a plan on a terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table

from ablation.console.tables import TextConsole
from ablation.planning.estimate import NOT_COUNTED, Plan


def print_plan(plan: Plan, study: str, stale: int) -> None:
    """Print the stale jobs of a study, then hours and dollars on each class of machine.

    `stale` is the number of all stale jobs, of which `plan` holds those that run a model.
    """
    console = TextConsole()
    if not plan.works:
        other = f"; {stale} jobs make data and tables" if stale else ""
        console.print(f"{study}: no job that runs the model is stale{other}")
        for note in plan.notes:
            if note.startswith(NOT_COUNTED):  # jobs of the bridge run models too
                console.print(note)
        return
    console.print(_jobs(plan, study))
    console.print(_estimates(plan))
    for note in plan.notes:
        console.print(note, style="dim")


def _jobs(plan: Plan, study: str) -> Table:
    jobs = Table(title=f"{study}: {len(plan.works)} model jobs", box=box.SIMPLE_HEAD)
    jobs.add_column("stale")
    jobs.add_column(f"hours on one {plan.rates.gpu}", justify="right")
    for work in plan.works:
        jobs.add_row(work.name, f"{work.alone / 3600:.2f}")
    return jobs


def _estimates(plan: Plan) -> Table:
    shown = plan.worth_taking()
    title = "cost of these jobs, cheapest first; each further line is faster"
    costs = Table(title=title, box=box.SIMPLE_HEAD)
    for column in ("machine", "machines", "$/h each", "hours", "dollars"):
        costs.add_column(column, justify="left" if column == "machine" else "right")
    costs.add_column("price")
    for e in shown:
        price = f"{e.offer.dollars_per_hour:.2f}"
        figures = (str(e.machines), price, f"{e.hours:.2f}", f"{e.dollars:.2f}")
        costs.add_row(e.offer.name, *figures, e.offer.source)
    if left := len(plan.estimates) - len(shown):
        costs.caption = f"{left} more are slower and cost more than one of these (--json has all)"
    return costs
