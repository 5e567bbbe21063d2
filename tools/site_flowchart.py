"""Draws a Mermaid flowchart of boxes and arrows as SVG, for pages that need no other machine."""

from __future__ import annotations

import re
from collections import defaultdict
from html import escape

NODE = re.compile(r"(\w+)\[\"?(.*?)\"?\]")
EDGE = re.compile(r"(\w+)(?:\[.*?\])? --> (\w+)")
CHARACTER, LINE, PADDING = 7.2, 17, 10  # widths and heights of text, in pixels
BESIDE, BETWEEN = 16, 46  # gaps between boxes of one rank, and between ranks
SWEEPS = 8  # of the ordering within ranks; more change nothing in graphs of this size


def flowchart(text: str) -> str:
    """The graph as an <svg> in a <div>, whose colours are those of the page.

    Ranks are longest paths from the boxes without an incoming arrow; within a rank boxes stand in
    the order of the mean place of their neighbours (Sugiyama, Tagawa and Toda, 1981).
    """
    labels = {node: label.split("<br/>") for node, label in NODE.findall(text)}
    edges = list(dict.fromkeys(EDGE.findall(text)))
    across = "flowchart LR" in text
    ranks = _ordered(_ranks(labels, edges), edges)
    size = {
        node: (max(map(len, lines)) * CHARACTER + 2 * PADDING, len(lines) * LINE + PADDING)
        for node, lines in labels.items()
    }
    place, total = _places(ranks, size, across)
    named = "; ".join(f"{labels[a][0]} leads to {labels[b][0]}" for a, b in edges)
    drawn = [_arrow(place[a], size[a], place[b], size[b], across) for a, b in edges]
    drawn += [_box(labels[node], place[node], size[node]) for node in place]
    width, height = (f"{side:.0f}" for side in total)
    return (
        f'<div class="flowchart"><svg viewBox="0 0 {width} {height}" '
        f'style="width:{width}px" role="img">'
        f"<title>{escape(named)}</title><defs>"
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8Z"/></marker></defs>'
        f"{''.join(drawn)}</svg></div>"
    )


def _ranks(nodes: dict, edges: list[tuple[str, str]]) -> list[list[str]]:
    rank = dict.fromkeys(nodes, 0)
    for _ in nodes:  # a longest path has no more arrows than there are nodes
        for start, end in edges:
            rank[end] = max(rank[end], rank[start] + 1)
    ranks = defaultdict(list)
    for node, place in rank.items():
        ranks[place].append(node)
    return [ranks[place] for place in sorted(ranks)]


def _ordered(ranks: list[list[str]], edges: list[tuple[str, str]]) -> list[list[str]]:
    for _ in range(SWEEPS):
        place = {node: (i + 0.5) / len(rank) for rank in ranks for i, node in enumerate(rank)}
        for rank in ranks:

            def middle(node: str, place: dict[str, float] = place) -> float:
                beside = [place[a] for a, b in edges if b == node]
                beside += [place[b] for a, b in edges if a == node]
                return sum(beside) / len(beside) if beside else place[node]

            rank.sort(key=middle)
    return ranks


def _places(ranks: list[list[str]], size: dict, across: bool) -> tuple[dict, tuple[float, float]]:
    """{box: its upper left corner} and the size of the drawing."""
    deep, wide = (0, 1) if across else (1, 0)
    lengths = [sum(size[n][wide] for n in rank) + BESIDE * (len(rank) - 1) for rank in ranks]
    longest, depth, place = max(lengths), 2.0, {}
    for rank, length in zip(ranks, lengths, strict=True):
        thickness = max(size[node][deep] for node in rank)
        at = (longest - length) / 2 + 2
        for node in rank:
            corner = (at, depth + (thickness - size[node][deep]) / 2)
            place[node] = corner[::-1] if across else corner
            at += size[node][wide] + BESIDE
        depth += thickness + BETWEEN
    total = (longest + 4, depth - BETWEEN + 2)
    return place, total[::-1] if across else total


def _arrow(a: tuple, size_a: tuple, b: tuple, size_b: tuple, across: bool) -> str:
    if across:
        x1, y1, x2, y2 = a[0] + size_a[0], a[1] + size_a[1] / 2, b[0], b[1] + size_b[1] / 2
        bend = f"{(x1 + x2) / 2:.0f} {y1:.0f} {(x1 + x2) / 2:.0f} {y2:.0f}"
    else:
        x1, y1, x2, y2 = a[0] + size_a[0] / 2, a[1] + size_a[1], b[0] + size_b[0] / 2, b[1]
        bend = f"{x1:.0f} {(y1 + y2) / 2:.0f} {x2:.0f} {(y1 + y2) / 2:.0f}"
    return f'<path d="M{x1:.0f} {y1:.0f}C{bend} {x2:.0f} {y2:.0f}" marker-end="url(#head)"/>'


def _box(lines: list[str], corner: tuple[float, float], size: tuple[float, float]) -> str:
    x, y = corner
    middle = x + size[0] / 2
    texts = "".join(
        f'<text x="{middle:.0f}" y="{y + PADDING / 2 + LINE * (i + 0.74):.0f}">'
        f"{escape(line)}</text>"
        for i, line in enumerate(lines)
    )
    box = f'x="{x:.0f}" y="{y:.0f}" width="{size[0]:.0f}" height="{size[1]:.0f}"'
    return f'<rect {box} rx="5"/>{texts}'
