"""Tables as text: recovered accuracy, claims of a bridge, paired differences, worlds and doses.

`TextTables` have the same cells in every form: on a terminal, in Markdown for a page of
documentation, in LaTeX (with the package booktabs) for a paper. As CSV they are the rows behind
them, with all digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich import box
from rich.table import Table

from ablation.analysis.paired_samples import Comparison
from ablation.console.printable import printable
from ablation.console.tables import TextConsole
from ablation.provenance.manifests import load_manifest
from ablation.provenance.tables import InvalidTable, read_table, table_text
from ablation.report.recovery_columns import (
    BACK,
    LEGEND,
    LOST,
    SIDE,
    Cell,
    interval,
    measured_losses,
    p_text,
    warnings_of,
)
from ablation.vocabulary.masks import CAUSAL
from ablation.vocabulary.protocols import ALL_SEEDS, MACRO, MACROS

# Columns of words.
LEFT = (
    *("recipe", "mask", "task", "leaks", "seeds", "regime", "claim", "verdict"),
    *("metric", "filter", "study", "base", "recipes", "state"),
)
WRAPPED = ("base", "recipes")  # whose long texts take several lines on a terminal
# Columns of claims.csv, and those that only a recovery table has together.
CLAIMS = ("regime", "claim", "value", "low", "high", "p", "design_effect", "verdict")
RECOVERY = (
    *("study", "recipe", "seed", "mask", "task", "comparable", "exposure", "seeds_disagree"),
    *("damage", "gain", "recovered", "net_recovered"),
)


class TextTables(NamedTuple):
    """rows: for CSV; tables: {title: texts}; warnings: one line each; legend: how to read."""

    rows: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    warnings: list[str]
    legend: str


def recovery_tables(file: str | Path, seed: str, task: str) -> TextTables:
    """The rows of one seed (or `all`) and one task.

    The task `macro` gives the macro of each protocol, `each` all tasks. Raises InvalidTable, also
    if there are no such rows.
    """
    dtypes = dict.fromkeys(("seed", "recipe", "comparable", "mask", "task"), str)
    frame = read_table(file, RECOVERY, dtype=dtypes)
    rows = frame[frame.seed == seed]
    wanted = MACROS if task == MACRO else [task]
    rows = rows if task == "each" else rows[rows.task.isin(wanted)]
    if rows.empty:
        seeds, tasks = (", ".join(frame[c].unique()) for c in ("seed", "task"))
        problem = f"{file} has no rows of seed {seed} and task {task}. It has seeds {seeds}; "
        raise InvalidTable(printable(f"{problem}tasks {tasks}, or `each`."))
    study, masked = frame.study.iloc[0], rows[rows["mask"] != CAUSAL]
    causal = rows[rows["mask"] == CAUSAL]
    named = sorted(set(frame.seed.dropna()) - {ALL_SEEDS})
    every = f"seed {named[0]}" if len(named) == 1 else "all seeds"
    said = every if seed == ALL_SEEDS else f"seed {seed}"
    tables = {
        f"{study}: what was lost": _cells(measured_losses(masked), LOST),
        f"{study}: what came back ({said})": _cells(masked, BACK),
        f"{study}: side effect on ordinary, causal use ({said})": _cells(causal, SIDE),
    }
    return TextTables(rows, tables, warnings_of(rows), _legend(Path(file).parent, study))


def claims_tables(file: str | Path) -> TextTables:
    """The claims of a bridge study. Raises InvalidTable."""
    rows = read_table(file, ("study", *CLAIMS))
    cells = rows[list(CLAIMS)].map(lambda x: f"{x:.3g}" if isinstance(x, float) else str(x))
    cells = cells.replace("nan", "").rename(columns=lambda name: name.replace("_", " "))
    return TextTables(rows, {f"{rows.study.iloc[0]}: claims": cells}, [], "")


PAIRED: Mapping[str, Cell] = {
    "task": lambda row: str(row.task),
    "metric": lambda row: str(row.metric),
    "filter": lambda row: str(row["filter"]),
    "n": lambda row: str(row.n),
    "clusters": lambda row: "-" if row.clusters == row.n else str(row.clusters),
    "A": lambda row: f"{row.a:.3f}",
    "B": lambda row: f"{row.b:.3f}",
    "B - A": interval("difference"),
    "p": lambda row: p_text(row.p),
    "p (Holm)": lambda row: p_text(row.p_holm),
    "only A right": lambda row: "" if pd.isna(row.only_a) else f"{row.only_a:.0f}",
    "only B right": lambda row: "" if pd.isna(row.only_b) else f"{row.only_b:.0f}",
}
PAIRED_LEGEND = """\
brackets: {level:g} % intervals of the paired difference; p: McNemar's exact test if the metric is
0 or 1 on independent items, otherwise one minus the confidence at which the interval ends at 0;
clusters: independent draws, where items share a cluster; Holm: adjusted over the tasks."""


def paired_tables(found: Comparison, a: Path, b: Path, confidence: float) -> TextTables:
    """The paired differences of two sample files, or of the tasks of two folders."""
    alone = found.rows.p_holm.isna().all()
    cells = {head: cell for head, cell in PAIRED.items() if not (alone and head == "p (Holm)")}
    lines = [{head: cell(row) for head, cell in cells.items()} for _, row in found.rows.iterrows()]
    title = f"A: {a}, B: {b}"
    tables = {title: pd.DataFrame(lines, columns=list(cells))}
    legend = PAIRED_LEGEND.format(level=100 * confidence)
    return TextTables(found.rows, tables, found.warnings, legend)


def _cells(rows: pd.DataFrame, cells: Mapping[str, Cell]) -> pd.DataFrame:
    shown = [head for head in cells if head != "task" or set(rows.task) - {MACRO}]
    lines = [{head: cells[head](row) for head in shown} for _, row in rows.iterrows()]
    return pd.DataFrame(lines, columns=shown)


def _legend(home: Path, study: str) -> str:
    """The legend, with the confidence level of the intervals if the table has a manifest."""
    for manifest in (home / "recovery.manifest.json", home / study / "recovery.manifest.json"):
        if manifest.is_file():
            level = load_manifest(manifest)["fingerprint"]["config"]["statistics"]["confidence"]
            return LEGEND.replace("brackets: intervals", f"brackets: {100 * level:g} % intervals")
    return LEGEND


# ---- on a terminal ---------------------------------------------------------------------------


def print_as(form: str, found: TextTables) -> None:
    """Print the tables in one of FORMS, or as `text`, for a terminal."""
    if form == "text":
        print_tables(found)
    else:
        print(FORMS[form](found), end="")


def print_tables(found: TextTables) -> None:
    """Print the tables, then what must be known to read them."""
    console = TextConsole()
    for title, cells in found.tables.items():
        console.print(_table(title, cells))
    for line in found.warnings:
        console.print(line, style="bold red")
    if found.legend:
        console.print(found.legend, style="dim")


def print_worlds(rows: pd.DataFrame, pooled: pd.DataFrame) -> None:
    """Print R and net R of each world and over all worlds (`ablation.analysis.worlds`)."""
    table = Table(title="recovery over worlds", title_justify="left", box=box.SIMPLE_HEAD)
    for head in ("recipe", "mask", "measure", "worlds", "mean", "new world", "each world"):
        table.add_column(head, justify="left", no_wrap=" " not in head)
    keys = ["recipe", "mask", "measure"]
    for _, row in pooled.iterrows():
        values = rows.value[(rows[keys] == row[keys]).all(axis=1)]
        table.add_row(
            *(str(row[key]).replace("_", " ") if key == "measure" else row[key] for key in keys),
            str(row.worlds),
            f"{row['mean']:+.2f} [{row.low:+.2f}, {row.high:+.2f}]",
            f"[{row.new_world_low:+.2f}, {row.new_world_high:+.2f}]",
            " ".join(f"{value:.2f}" for value in values),
        )
    TextConsole().print(table)


def print_doses(rows: pd.DataFrame) -> None:
    """Print R and net R by the families of the records (`ablation.analysis.doses`)."""
    table = Table(
        title="recovery by families of records", title_justify="left", box=box.SIMPLE_HEAD
    )
    heads = {"R": "recovered", "net R": "net_recovered", "R - R(none)": "recovered_difference"}
    for head in ("recipe", "group", "families", "tokens", *heads, "R of each seed"):
        table.add_column(head, justify="left", no_wrap=head == "recipe")
    macro = rows[rows.task == MACRO]
    for _, row in macro[macro.seed == ALL_SEEDS].iterrows():
        each = macro.recovered[(macro.recipe == row.recipe) & (macro.seed != ALL_SEEDS)]
        table.add_row(
            *(row.recipe, row.group, str(row.families), f"{row.tokens:,.0f}"),
            *(interval(name, 2)(row) for name in heads.values()),
            " ".join(f"{value:+.2f}" for value in each),
        )
    TextConsole().print(table)


def _table(title: str, cells: pd.DataFrame) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for head in map(str, cells):
        # on a narrow terminal an interval takes several lines, so that no digit is cut off
        table.add_column(
            head,
            justify="left" if head in LEFT else "right",
            no_wrap=" " not in head and head not in WRAPPED,
            overflow="fold" if head in WRAPPED else "ellipsis",
            min_width=max(map(len, head.split())),
        )
    for row in cells.itertuples(index=False):
        table.add_row(*row)
    return table


# ---- other forms --------------------------------------------------------------------------------


def markdown(found: TextTables) -> str:
    """The tables for a page in Markdown, with the legend in one paragraph."""
    parts = [f"**{_one_line(line)}**" for line in found.warnings]
    for title, cells in found.tables.items():
        plain = cells.map(markdown_cell)
        align = ["left" if head in LEFT else "right" for head in cells]
        text = plain.to_markdown(index=False, disable_numparse=True, colalign=align)
        parts += [f"**{_one_line(title)}**", text]
    return "\n\n".join([*parts, found.legend.replace("\n", " ")]) + "\n"


def markdown_cell(text: object) -> str:
    """A value as a cell of a table in Markdown: one line, in which a bar ends no cell."""
    return _one_line(text).replace("|", r"\|")


def _one_line(text: object) -> str:
    return " ".join(printable(text).split())


def latex(found: TextTables) -> str:
    """The tables for a paper, which needs `\\usepackage{booktabs}`; the legend is in comments."""
    parts = []
    for title, cells in found.tables.items():
        plain = cells.map(_escaped).rename(columns=_escaped)
        form = "".join("l" if head in LEFT else "r" for head in cells)
        body = plain.to_latex(index=False, escape=False, column_format=form)
        caption = _escaped(title)
        parts.append(f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n{body}\\end{{table}}")
    notes = [line for text in (*found.warnings, found.legend) for line in text.splitlines()]
    return "\n".join([*(f"% {printable(line)}" for line in notes), *parts]) + "\n"


_LATEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def _escaped(text: str) -> str:
    """A text in LaTeX. After the end of a row, a bracket or star would belong to its command."""
    line = _one_line(text).translate(_LATEX)
    return "{}" * line.startswith(("[", "*")) + line


def rows_as_csv(found: TextTables) -> str:
    """The rows themselves, with all columns and digits of the file."""
    return table_text(found.rows)


FORMS: Mapping[str, Callable[[TextTables], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": rows_as_csv,
}
