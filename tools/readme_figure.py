"""Draws the table of README.md: R and net R of each recipe, with their intervals.

python tools/readme_figure.py     # writes docs/studies/smollm2_readme.svg
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
README, FIGURE = ROOT / "README.md", ROOT / "docs/studies/smollm2_readme.svg"

LEFT, RIGHT, TOP, ROW = 250, 730, 70, 50
FROM, TO = -2.2, 1.4
BLUE, ORANGE, GREY, INK = "#0072b2", "#d55e00", "#8a94a3", "#1f2430"
SAYS = {
    "3A": ("3A, the control:", "finetuned without the ablation"),
    "3B": ("3B:", "finetuned under the ablation"),
    "5C": ("5C:", "3B, twice as long"),
    "3B-leaky": ("3B-leaky:", "finetuned under a mask that leaks"),
}


class Estimate(NamedTuple):
    """A number and the ends of its interval."""

    value: float
    low: float
    high: float


def table(readme: str) -> dict[str, dict[str, Estimate | None]]:
    """{recipe: {"R", "net R"}} of the table of README.md; None where a cell has no number."""
    rows = re.findall(r"^\| (?:\*\*)?(\w[\w-]*)\b.*?\|.*?\|.*?\|(.*?)\|(.*?)\|", readme, re.M)
    found = {recipe: {"R": _estimate(r), "net R": _estimate(net)} for recipe, r, net in rows}
    return {recipe: cells for recipe, cells in found.items() if cells["R"]}


def _estimate(cell: str) -> Estimate | None:
    numbers = [float(number) for number in re.findall(r"-?\d*\.\d+", cell)]
    return Estimate(*numbers) if len(numbers) == 3 else None


def _x(value: float) -> float:
    return round(LEFT + (value - FROM) / (TO - FROM) * (RIGHT - LEFT), 1)


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {style}>{text}</text>'


def _drawn(estimate: Estimate, y: float, colour: str, name: str) -> list[str]:
    value, low, high = (_x(number) for number in estimate)
    shown = f"{estimate.value:.2f}".replace("0.", ".")
    line = f'<line x1="{low}" x2="{high}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>'
    if name == "R":
        point = f'<circle cx="{value}" cy="{y}" r="6" fill="{colour}"/>'
    else:
        corners = f"{value},{y - 7} {value + 7},{y} {value},{y + 7} {value - 7},{y}"
        point = f'<polygon points="{corners}" fill="#ffffff" stroke="{colour}" stroke-width="2"/>'
    label = f'fill="{colour}" font-weight="bold" text-anchor="start"'
    return [line, point, _text(RIGHT + 10, y + 5, f"{name} {shown}", label)]


def figure(readme: str) -> str:
    """The figure as SVG, the same text for the same table."""
    rows = table(readme)
    bottom = TOP + ROW * len(rows)
    title = "How much of the lost accuracy came back in SmolLM2-135M"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="840" height="{bottom + 45}" '
        f'viewBox="0 0 840 {bottom + 45}" font-family="Helvetica, Arial, sans-serif" '
        f'font-size="14" fill="{INK}" role="img"><title>{title}</title>',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        _text(10, 24, title, 'font-size="17" font-weight="bold"'),
    ]
    for value, says in ((0, "nothing"), (1, "all")):
        x = _x(value)
        parts += [
            f'<line x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{bottom}" stroke="{GREY}" '
            'stroke-dasharray="5 4"/>',
            _text(x, TOP - 14, f"{value}: {says}", f'text-anchor="middle" fill="{INK}"'),
        ]
    for number, (recipe, cells) in enumerate(rows.items()):
        y = TOP + ROW * number + 20
        name, what = SAYS[recipe]
        parts += [_text(10, y, name, 'font-weight="bold"'), _text(10, y + 17, what)]
        for key, colour, below in (("R", BLUE, -4), ("net R", ORANGE, 15)):
            if estimate := cells[key]:
                parts += _drawn(estimate, y + below, colour, key)
    note = "R: against the base as it was. net R: against the control. Lines: 95 % intervals."
    parts += [_text(10, bottom + 28, note), "</svg>"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    FIGURE.write_text(figure(README.read_text("utf-8")), encoding="utf-8")
