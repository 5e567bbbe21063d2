"""Draws the pictures of docs/concepts.md into docs/pictures (`make pictures`).

The masks are drawn from `allowed`, which a test compares with the masks of the code. Colours are
those of the report; each cell that differs from the causal mask has a sign too. Text and lines have
the colours of a light or a dark page, whichever the reader has chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from ablation.provenance.files import write_text
from ablation.report.charts import ALARM, BLUE, GREEN, ORANGE

FOLDER = Path(__file__).resolve().parent.parent / "docs/pictures"
STYLE = """<style>
text { font: 14px system-ui, sans-serif; fill: #2e3440; text-anchor: middle; }
.start { text-anchor: start; } .end { text-anchor: end; }
.strong { font-weight: 600; } .on { fill: #fff; font-weight: 600; }
.line { stroke: #6b7280; fill: none; } .empty { fill: #8a93a326; } .past { fill: #8a93a3a0; }
@media (prefers-color-scheme: dark) { text { fill: #e5e9f0; } .line { stroke: #9aa3b2; } }
</style>"""
CELL = 30
# {why a token may attend to another: (fill or class, sign)}
LATER, EARLY, TARGET = "a later prompt token", "an answer token that comes later", "its own target"
LOOKS = {LATER: (BLUE, "→"), EARLY: (ORANGE, "?"), TARGET: (ALARM, "!")}


class Token(NamedTuple):
    """A token of a row: its text, example, branch (0 is the prompt) and position id."""

    text: str
    doc: int
    branch: int
    position: int


def allowed(mask: str, tokens: Sequence[Token], q: int, k: int) -> bool:
    """Whether the token in place `q` may attend to the token in place `k`."""
    query, key = tokens[q], tokens[k]
    if query.doc != key.doc:
        return False
    both_prompt = query.branch == key.branch == 0
    if mask == "full_bidir" or (mask == "prefill_bidir" and both_prompt):
        return True
    return k <= q and key.branch in (0, query.branch)


# ---- pieces -------------------------------------------------------------------------------------


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Words at a place."""
    return f'<text x="{x:g}" y="{y:g}"{f" class={kind!r}" if kind else ""}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, look: str) -> str:
    """A rectangle whose look is a colour or a class."""
    look = f'fill="{look}"' if look.startswith("#") else f'class="{look}"'
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3" {look}/>'


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line between two places."""
    return f'<path class="line" d="M{x1:g} {y1:g}L{x2:g} {y2:g}"/>'


def picture(width: float, height: float, pieces: Sequence[str], title: str) -> str:
    """The whole picture."""
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", STYLE, *pieces, "</svg>", ""])


# ---- masks --------------------------------------------------------------------------------------

ONE = [Token(t, 0, 0, i) for i, t in enumerate("pqr")] + [Token("a", 0, 1, 3), Token("b", 0, 1, 4)]


def matrix(mask: str, tokens: Sequence[Token], x: float, y: float, cell: float) -> list[str]:
    """Rows are tokens that attend, columns the tokens that they may attend to."""
    pieces = []
    for i, token in enumerate(tokens):
        middle = (i + 0.5) * cell
        pieces += [text(x + middle, y - 7, token.text), text(x - 12, y + middle + 5, token.text)]
        for k in range(len(tokens)):
            corner = (x + k * cell + 1, y + i * cell + 1)
            look = "past" if allowed(mask, tokens, i, k) else "empty"
            sign = ""
            if look == "past" and k > i:
                look, sign = LOOKS[reason(tokens, i, k)]
            pieces.append(box(*corner, cell - 2, cell - 2, look))
            if sign and cell >= CELL:
                pieces.append(text(corner[0] + cell / 2 - 1, corner[1] + cell / 2 + 4, sign, "on"))
    return pieces


def reason(tokens: Sequence[Token], q: int, k: int) -> str:
    """What a token in a later place is to a token that may attend to it."""
    if tokens[k].branch == 0:
        return LATER
    return TARGET if k == q + 1 else EARLY


def mask_picture(mask: str, note: str) -> str:
    """One mask on a prompt of three tokens and an answer of two."""
    pieces = [text(115, 20, mask, "strong"), *matrix(mask, ONE, 50, 70, CELL)]
    pieces += [text(50 + 1.5 * CELL, 44, "prompt"), text(50 + 4 * CELL, 44, "answer")]
    pieces += [text(115, 246, note)]
    said = f"The mask {mask}: which token (row) may attend to which (column). {note}"
    return picture(230, 256, pieces, said)


def mask_legend() -> str:
    """What the colours and signs mean."""
    rows = [("past", "", "the token itself, or an earlier one"), ("empty", "", "not allowed")]
    rows[1:1] = [(*look, meaning) for meaning, look in LOOKS.items()]
    pieces = []
    for i, (look, sign, meaning) in enumerate(rows):
        y = 6 + 28 * i
        pieces.append(box(4, y, 22, 22, look))
        pieces += [text(15, y + 16, sign, "on")] if sign else []
        pieces.append(text(36, y + 16, meaning, "start"))
    return picture(300, 6 + 28 * len(rows), pieces, "Legend of the masks")


# ---- packing ------------------------------------------------------------------------------------

PACKED = [
    *(Token(t, 0, 0, i) for i, t in enumerate("pqr")),
    *(Token(t, 0, 1, 3 + i) for i, t in enumerate("ab")),
    *(Token(t, 0, 2, 3 + i) for i, t in enumerate("cd")),
    *(Token(t, 1, 0, i) for i, t in enumerate("st")),
    *(Token(t, 1, 1, 2 + i) for i, t in enumerate("ef")),
]
PARTS = (("prompt", 0, 3), ("choice 1", 3, 5), ("choice 2", 5, 7), ("prompt", 7, 9))
PARTS += (("choice 1", 9, 11),)
PART_COLOURS = (BLUE, GREEN, ORANGE, BLUE, GREEN)


def packing() -> str:
    """A row with two examples: what describes each token, and which tokens it sees."""
    step, left = 36, 84
    pieces = []
    for name, start, end in (("first item", 0, 7), ("second item", 7, 11)):
        pieces.append(text(left + (start + end) / 2 * step, 16, name, "strong"))
        pieces.append(line(left + start * step + 4, 24, left + end * step - 4, 24))
    for (name, start, end), colour in zip(PARTS, PART_COLOURS, strict=True):
        pieces.append(text(left + (start + end) / 2 * step, 42, name))
        pieces.append(box(left + start * step + 2, 48, (end - start) * step - 4, 5, colour))
    for number, field in enumerate(("token", "doc", "branch", "position")):
        y = 60 + 30 * number
        pieces.append(text(left - 10, y + 19, field, "end"))
        for i, token in enumerate(PACKED):
            value = (token.text, token.doc, token.branch, token.position)[number]
            pieces.append(box(left + i * step + 2, y + 1, step - 4, 26, "empty"))
            pieces.append(text(left + (i + 0.5) * step, y + 19, str(value)))
    return picture(left + 11 * step + 8, 184, pieces, "Two items in one packed row")


def packed_mask() -> str:
    """The mask prefill_bidir of that row."""
    pieces = matrix("prefill_bidir", PACKED, 30, 34, CELL)
    for start, end in ((0, 7), (7, 11)):
        corner, side = 30 + start * CELL, (end - start) * CELL
        y = 34 + start * CELL
        pieces.append(f'<path class="line" d="M{corner} {y}h{side}v{side}h-{side}z"/>')
    return picture(40 + 11 * CELL, 40 + 11 * CELL, pieces, "The mask prefill_bidir of this row")


# ---- recovery -----------------------------------------------------------------------------------


def bars(
    shown: Sequence[tuple[str, str, float, str]], steps: Sequence[tuple], formula: str, title: str
) -> str:
    """Accuracies as bars, and marked differences between two of them.

    shown: (letter, description, height from 0 to 1, colour).
    steps: (lower bar, higher bar, name, place): a difference, drawn at `place` in pixels.
    """
    floor, scale, step = 214, 170, 68
    pieces, top = [line(6, floor, 206, floor)], {}
    for i, (letter, words, height, colour) in enumerate(shown):
        x = 12 + i * step
        top[letter] = floor - height * scale
        pieces.append(box(x, top[letter], 50, height * scale, colour))
        pieces.append(text(x + 25, top[letter] - 8, letter, "strong"))
        for row, word in enumerate(words.split("|")):
            pieces.append(text(x + 25, floor + 18 + 16 * row, word))
    for low, high, name, place in steps:
        pieces.append(line(place, top[low], place, top[high]))
        pieces += [line(place - 5, top[end], place + 5, top[end]) for end in (low, high)]
        pieces.append(text(place + 9, (top[low] + top[high]) / 2 + 5, name, "start"))
    pieces.append(text(155, 288, formula, "strong"))
    return picture(318, 300, pieces, title)


def recovery() -> str:
    """R: how much of what the base lost comes back."""
    three = [("B", "base,|whole", 0.95, BLUE), ("A", "base,|ablated", 0.5, ALARM)]
    three += [("P", "finetuned,|ablated", 0.85, GREEN)]
    steps = [("A", "B", "B - A", 216), ("A", "P", "P - A", 270)]
    return bars(three, steps, "R = (P - A) / (B - A)", "Recovery R from the accuracies B, A and P")


def net_recovery() -> str:
    """Net R: the same between two models that were finetuned equally."""
    three = [("C", "control,|whole", 0.9, BLUE), ("D", "control,|ablated", 0.45, ALARM)]
    three += [("P", "finetuned,|ablated", 0.85, GREEN)]
    steps = [("D", "C", "C - D", 216), ("D", "P", "P - D", 270)]
    title = "Net recovery from the accuracies C, D and P"
    return bars(three, steps, "net R = (P - D) / (C - D)", title)


def pictures() -> dict[Path, str]:
    """{file: its content}."""
    notes = {"causal": "only earlier tokens", "prefill_bidir": "the prompt is read both ways"}
    notes |= {"full_bidir": "the answer is seen: a leak"}
    drawn = {f"mask_{mask}": mask_picture(mask, note) for mask, note in notes.items()}
    drawn |= {"mask_legend": mask_legend(), "packing": packing(), "packed_mask": packed_mask()}
    drawn |= {"recovery": recovery(), "net_recovery": net_recovery()}
    return {FOLDER / f"{name}.svg": content for name, content in drawn.items()}


if __name__ == "__main__":
    for file, drawing in pictures().items():
        write_text(file, drawing)
