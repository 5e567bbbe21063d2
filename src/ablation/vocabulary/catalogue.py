"""The tables, figures and report pages of both studies: their names, titles and inputs.

The report sorts its menus alphabetically. Categories and titles therefore start with a number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FINDINGS, FIGURES, MODELS = "1 Findings", "2 Figures", "3 Models"
RECORDS, TABLES = "4 Records", "5 Tables as CSV"


@dataclass(frozen=True)
class Table:
    """A CSV file.

    made_by: the stage that writes it and whose manifest lists it.
    intervals: whether it has columns with confidence intervals.
    """

    name: str
    made_by: str
    intervals: bool = False


@dataclass(frozen=True)
class Figure:
    """A chart. The function of the same name draws it from `tables`."""

    name: str
    heading: str
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """A page of the report. The function of the same name makes it from `tables`.

    A page without tables is made from run records.
    """

    name: str
    category: str
    heading: str
    tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Catalogue:
    """Everything that one study publishes, each kind as {name: entry}."""

    tables: dict[str, Table]
    figures: dict[str, Figure]
    pages: dict[str, Page]

    def page_title(self, name: str) -> str:
        """The title of a page: its number in its menu, then its heading."""
        page = self.pages[name]
        menu = [p.name for p in self.pages.values() if p.category == page.category]
        return f"{page.category[0]}.{menu.index(name) + 1} {page.heading}"

    def figure_title(self, name: str) -> str:
        """The title of a figure, which may have the name of a page."""
        return f"{FIGURES[0]}.{list(self.figures).index(name) + 1} {self.figures[name].heading}"

    def stages_behind(self, tables: Iterable[str]) -> list[str]:
        """The stages that make these tables, each once, in the order of the tables."""
        return list(dict.fromkeys(self.tables[table].made_by for table in tables))


def _by_name(entries: Iterable) -> dict:
    return {entry.name: entry for entry in entries}


RECORD_PAGES = (
    Page("costs", RECORDS, "Time, energy, money"),
    Page("environment", RECORDS, "Environment and hashes"),
)

FIRST = Catalogue(
    tables=_by_name(
        [
            Table("recovery", "recovery", intervals=True),
            Table("per_task", "recovery", intervals=True),
            Table("contrasts", "recovery", intervals=True),
            Table("published", "published"),
            Table("flips", "flips"),
            Table("bag_of_words", "bag_of_words"),
            Table("curves", "curves"),
            Table("mask_cells", "mask_cells"),
            Table("samples", "samples"),
        ]
    ),
    figures=_by_name(
        [
            Figure("recovery", "Recovered fraction", ("recovery",)),
            Figure("accuracy", "Accuracy", ("per_task", "bag_of_words")),
            Figure("flips", "What became of each item", ("flips",)),
            Figure("curves", "Loss curves", ("curves",)),
            Figure("masks", "The three masks", ("mask_cells",)),
            Figure("interventions", "What each intervention costs and gives back", ("recovery",)),
            Figure("lengths", "Retrieval by length and position", ("per_task",)),
        ]
    ),
    pages=_by_name(
        [
            Page("summary", FINDINGS, "The answer", ("recovery",)),
            Page("recovery", FINDINGS, "What came back", ("recovery",)),
            Page("published", FINDINGS, "Published beside ours", ("published",)),
            Page("contrasts", FINDINGS, "Recipe against recipe", ("contrasts",)),
            Page("accuracy", FINDINGS, "Accuracy", ("per_task",)),
            Page("flips", FINDINGS, "What became of each item", ("flips",)),
            Page("bag_of_words", FINDINGS, "Tasks without word order", ("bag_of_words",)),
            Page("trainings", MODELS, "How finetunings ended", ("curves",)),
            Page("samples", MODELS, "What the models say", ("samples",)),
            *RECORD_PAGES,
        ]
    ),
)

BRIDGE = Catalogue(
    tables=_by_name(
        [
            Table("runs", "bridge_tables", intervals=True),
            Table("effects", "bridge_tables", intervals=True),
            Table("controls", "bridge_tables", intervals=True),
            Table("compression", "bridge_tables", intervals=True),
            Table("messages", "bridge_tables", intervals=True),
            Table("freeze", "bridge_tables"),
            Table("inference", "bridge_tables"),
            Table("latency_by_length", "bridge_tables"),
            Table("claims", "bridge_tables", intervals=True),
            Table("plan", "bridge_tables"),
            Table("audit", "bridge_tables"),
            Table("curves", "bridge_tables"),
            Table("published", "bridge_published"),
            Table("published_repeats", "bridge_published", intervals=True),
        ]
    ),
    figures=_by_name(
        [
            Figure("accuracy_by_k", "Accuracy by soft tokens", ("runs",)),
            Figure("quality_and_cost", "Quality and cost", ("inference",)),
            Figure("bridge_curves", "Peak and last step", ("curves",)),
        ]
    ),
    pages=_by_name(
        [
            Page("claims", FINDINGS, "Claims", ("claims", "freeze")),
            Page("cells", FINDINGS, "Every translator", ("runs",)),
            Page("fixes", FINDINGS, "What each fix changed", ("effects",)),
            Page("controls", FINDINGS, "Controls", ("controls",)),
            Page("compression", FINDINGS, "Compression", ("compression", "messages")),
            Page("arms", FINDINGS, "What the arms cost", ("inference",)),
            Page(
                "published",
                FINDINGS,
                "The leak, and the published runs",
                ("audit", "published", "published_repeats"),
            ),
            *RECORD_PAGES,
        ]
    ),
)

# The stages whose tables have the column `unchecked` where they rest on code that was accepted by a
# reason alone. To mark samples.csv, which holds no numbers, every model would have to run again.
MARKED = {t.made_by for study in (FIRST, BRIDGE) for t in study.tables.values()} - {"samples"}
