"""Prints the result of `ablation trace` as a tree on a terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rich.text import Text
from rich.tree import Tree

from ablation.analysis.recovery_columns import COLUMN
from ablation.console.tables import TextConsole, styled
from ablation.lineage.lineage import count_of
from ablation.lineage.trace import LETTERS
from ablation.provenance.accepted import UNCHECKED
from ablation.provenance.energy import Region, co2_text, kwh_text
from ablation.provenance.run_records import describe_machine, sum_runs


def print_trace(found: Mapping, place: Region | None = None) -> None:
    """Print the result of `ablation.lineage.trace.trace` as a tree.

    place: where the electricity came from; without it no CO2 is printed.
    """
    cell, nodes = found["cell"], found["manifests"]
    row = " ".join(f"{key}={value}" for key, value in cell["row"].items())
    formula = ""
    if cell["formula"]:  # the end of an interval, a p value or a hash only belongs to a formula
        is_value = COLUMN[cell["column"]].is_value
        formula = f" = {cell['formula']}" if is_value else f" (of {cell['formula']})"
    head = styled(f"{cell['column']}{formula} = {cell['value'] or 'nothing'}", "bold")
    tree = Tree(head + styled(f"  {row}"))
    made = found["made_by"]
    table = tree.add(f"{cell['table']}  by {made['manifest']}  code {made['code'][:12]}")
    table.add(_ran({"run": made["run"], "attempts": []}))
    printed: set[str] = set()
    after = found["conditions"].get("after", [])
    families = {family for path in after for family in nodes[path].get("families", ())}
    for role, paths in found["conditions"].items():
        name = f"{LETTERS.get(role, '')} {role}".strip()
        value = found["accuracies"].get(role)
        head = styled(name if value is None else f"{name} = {value}, from the sample rows", "bold")
        branch = tree.add(head)
        for path in paths:
            _add(branch, path, nodes, cell["row"].get("task"), families, printed)
    if not nodes:
        tree.add("a published number: resources/published/, docs/published.md")
    for stage in found["unchecked"]:
        tree.add(styled(UNCHECKED.format(stage=stage), "bold red"))
    tree.add(_totals(found["totals"], place))
    if place:
        tree.add(place.note)
    TextConsole().print(tree)


def _add(
    branch: Tree,
    path: str,
    nodes: Mapping,
    task: str | None,
    families: Collection[str],
    printed: set[str],
) -> None:
    """Add a manifest with its run and its inputs; a manifest that was printed gets one line."""
    node = nodes[path]
    name = " ".join(
        str(part)
        for part in (
            node["stage"],
            node.get("recipe"),
            f"seed {node['seed']}" if "seed" in node else None,
            node.get("mask"),
            "LEAKS" if node.get("eval_leaks") or node.get("train_leaks") else None,
        )
        if part
    )
    if path in printed:
        branch.add(styled(f"{name}: {path}, as above", "dim"))
        return
    printed.add(path)
    inner = branch.add(f"{name}: {path}  sha256 {node['sha256'][:12]}")
    inner.add(_ran(node))
    if "samples" in node and task:
        counts = (node["samples"][key] for key in ("rows", "items"))
        rows, items = (count_of(task, count, families) for count in counts)
        inner.add(f"samples: {node['samples']['file']}, {rows:,} rows of {items:,} {task} items")
    packages = (f"{name} {version}" for name, version in node["packages"].items())
    inner.add(
        ", ".join(
            [f"fingerprint {node['fingerprint'][:12]}", f"code {node['code'][:12]}", *packages]
        )
    )
    inner.add(f"config: {_short(node['config'])}")
    gone = [name for name, output in node["outputs"].items() if not output["here"]]
    size = sum(output["bytes"] for output in node["outputs"].values())
    inner.add(
        f"{len(node['outputs'])} files, {size:,} bytes, as recorded"
        + (f"; not here: {', '.join(gone)}" if gone else "")
    )
    for below in node["inputs"]:
        _add(inner, below, nodes, task, families, printed)


def _ran(node: Mapping) -> str:
    run = node["run"]
    if run is None:
        return "no run record here"
    cost = sum_runs([node])
    energy = cost["energy_joules"]
    commit = f", commit {run['git_hash'][:12]}" if run.get("git_hash") else ""
    parts = [
        f"ran {run.get('started', '?')} for {run.get('seconds', 0):,.1f} s on "
        + describe_machine(run)
        + commit
        + (" with changes" if run.get("git_dirty") else ""),
        _energy(energy) if energy is not None else "",
        f"resumed at steps {run['resumes']}" if run.get("resumes") else "",
        f"attempt {run['attempt']}" if run.get("attempt") else "",
        f"{cost['attempts']} attempts, ${cost['dollars']:.2f}" if cost["attempts"] else "",
    ]
    return ", ".join(filter(None, parts))


def _short(config: Mapping) -> str:
    """The values of a part of a configuration in one line, with dotted keys."""
    plain: list[str] = []

    def walk(value: object, name: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if key != "task_files":
                    walk(inner, f"{name}.{key}" if name else key)
        elif value is not None:
            plain.append(
                f"{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
            )

    walk(config, "")
    text = " ".join(plain)
    return text if len(text) <= 400 else f"{text[:396]} ..."


def _energy(joules: float, place: Region | None = None) -> str:
    co2 = f", {co2_text(joules, place)} of CO2" if place else ""
    return f"{joules:,.0f} J ({kwh_text(joules)}{co2})"


def _totals(found: Mapping, place: Region | None) -> Text:
    energy, dollars = found["energy_joules"], found["dollars"]
    return styled("in all", "bold") + styled(
        f": {found['runs']} runs, {found['seconds']:,.1f} s on "
        f"{', '.join(found['machines']) or 'no machine on record'}; "
        + (f"{_energy(energy, place)}; " if energy is not None else "no energy on record; ")
        + (
            f"{found['attempts']} attempts, {found['failed_attempts']} failed, ${dollars:.2f}"
            if dollars is not None
            else "no dollars on record"
        )
    )
