"""Writes tables as one self-contained HTML page, on which every column can be sorted.

A page can have a field that filters the rows of all its tables, too.
"""

from __future__ import annotations

from base64 import encodebytes
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template

from ablation.provenance.accepted import UNCHECKED


class Marked(str):
    """The text of a cell that the page colours by its `kind`: `bad` or `good`."""

    kind: str

    def __new__(cls, text: str, kind: str) -> Marked:
        marked = super().__new__(cls, text)
        marked.kind = kind
        return marked


@dataclass(frozen=True)
class Section:
    """A table with a title; a row is {head: text of the cell}, and the first row has all heads.

    note: a text above the table. legend: what its heads and names mean, below the table.
    compact: whether a wide table is set in smaller type and breaks long names.
    figure: an SVG beside the table, with the text that describes it to who cannot see it.
    """

    title: str
    rows: Sequence[Mapping[str, str]]
    note: str = ""
    legend: str = ""
    compact: bool = False
    figure: tuple[bytes, str] | None = None


def html_page(
    title: str, notes: Iterable[str], sections: Iterable[Section], filtered: bool = False
) -> str:
    """The page with all sections. Equal tables give equal bytes; all text is escaped.

    filtered: whether it has a field that filters rows.
    """
    body = "".join(f"<p>{escape(note)}</p>" for note in notes if note)
    body += FILTER * filtered + "".join(map(_section, sections))
    page = PAGE.substitute(title=escape(title), body=body)
    return page.replace("</body>", f"<script>{FILTER_SCRIPT}</script></body>") if filtered else page


def _figure(figure: tuple[bytes, str] | None) -> str:
    """The figure as an image in the page, since its SVG comes from a program that escapes texts."""
    if figure is None:
        return ""
    svg, described = figure
    data = encodebytes(svg).decode()  # in short lines, as reStructuredText wants them
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(described)}">'


def with_marks(page: str, unchecked: Iterable[str]) -> str:
    """A page with lines below its title that name the stages of unchecked code."""
    lines = (f'<p class="bad">{escape(UNCHECKED.format(stage=stage))}</p>' for stage in unchecked)
    return page.replace("</h1>", "</h1>" + "".join(lines), 1)


def _section(section: Section) -> str:
    note = f"<p>{escape(section.note)}</p>" if section.note else ""
    if not section.rows:
        return f"<h2>{escape(section.title)}</h2>{note}<p>No rows.</p>"
    heads = list(section.rows[0])
    numeric = {h: all(_is_number(row[h]) for row in section.rows) for h in heads}
    head = "".join(
        f'<th scope="col"{" class=n" * numeric[h]}><button>{escape(h)}</button></th>' for h in heads
    )
    lines = "".join(
        "<tr>" + "".join(_cell(row[h], numeric[h], section.compact) for h in heads) + "</tr>\n"
        for row in section.rows
    )
    name, kind = escape(section.title), ' class="compact"' * section.compact
    legend = f'<p class="legend">{escape(section.legend)}</p>' if section.legend else ""
    # a region that scrolls can be reached with the keyboard, and has a name
    table = (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{name}"><table{kind}><thead>'
        f"<tr>{head}</tr></thead>\n<tbody>{lines}</tbody></table></div>\n"
    )
    if section.figure:
        table = f'<div class="beside">{_figure(section.figure)}<div>{table}{legend}</div></div>\n'
        legend = ""
    return f"<h2>{name}</h2>{note}{table}{legend}\n"


def _cell(text: str, numeric: bool, compact: bool) -> str:
    kinds = ["n"] * numeric + ([text.kind] if isinstance(text, Marked) else [])
    kinds += ["long"] * (max(map(len, text.split("\n"))) > WIDEST)
    attribute = f' class="{" ".join(kinds)}"' if kinds else ""
    shown = escape(text)
    for mark in "/_-" if compact and not numeric else "":
        shown = shown.replace(mark, f"{mark}<wbr>")  # where a long name may be broken
    return f"<td{attribute}>{shown}</td>"


def _is_number(text: str) -> bool:
    """Whether a cell begins with a number, by which the script of the page then sorts it."""
    first = text.removeprefix("< ").split(" ")[0].replace(",", "")
    try:
        float(first or "nan")
    except ValueError:
        return text in WORDS_FOR_NOTHING
    return True


WORDS_FOR_NOTHING = ("-", "not estimable", "no control")
WIDEST = 64  # characters of the longest line that is not broken

PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1"><title>$title</title>
<link rel="icon" href="data:,">
<style>
body{font:14px/1.45 "Liberation Sans",Arial,Helvetica,sans-serif;color:#2e3440;background:#fff;
  margin:1.2rem 1.5rem;max-width:100rem}
h1{font-size:1.35rem;margin:0 0 .5rem} h2{font-size:1.05rem;margin:1.8rem 0 .4rem}
p{margin:.25rem 0;max-width:60rem;color:#4c566a;white-space:pre-line}
table{border-collapse:collapse}
/* A table that is wider than the page has a shadow at each end that hides a part of it. */
.scroll{overflow-x:auto;margin-top:.4rem;background:
  linear-gradient(to right,#fff 2rem,#fff0) left/4rem 100% no-repeat local,
  linear-gradient(to left,#fff 2rem,#fff0) right/4rem 100% no-repeat local,
  linear-gradient(to right,#2e344066,#2e344000) left/1rem 100% no-repeat scroll,
  linear-gradient(to left,#2e344066,#2e344000) right/1rem 100% no-repeat scroll}
.scroll:focus-visible{outline:2px solid #0072b2}
.wide::before{content:"This table is wider than the page: scroll sideways \\2192";
  position:sticky;left:0;display:inline-block;font-size:.8rem;color:#4c566a}
.beside{display:flex;flex-wrap:wrap;gap:1rem 2rem;align-items:flex-start}
.beside>div{min-width:0;max-width:100%} .beside img{max-width:100%}
.legend{font-size:.85rem;max-width:60rem} .beside .legend{max-width:38rem}
.beside table{font-size:.82rem} .beside td,.beside th button{padding:.2rem .4rem}
.compact{font-size:.8rem;table-layout:auto} .compact td{padding:.2rem .3rem;white-space:normal}
.compact th button{padding:.2rem .3rem;white-space:normal} .compact th button::after{content:none}
.compact th[aria-sort] button::after{content:"\\2191"}
.compact td.long{min-width:11rem;max-width:14rem} .compact td.n{white-space:nowrap}
th{position:sticky;top:0;background:#eceff4;text-align:left;padding:0;vertical-align:bottom}
th button{all:unset;cursor:pointer;padding:.35rem .7rem;font-weight:600;white-space:nowrap}
th button:hover{color:#0072b2} th button:focus-visible{outline:2px solid #0072b2}
th button::after{content:" \\2195";color:#6b7483}
th[aria-sort=ascending] button::after{content:" \\2191";color:#0072b2}
th[aria-sort=descending] button::after{content:" \\2193";color:#0072b2}
td{padding:.28rem .7rem;border-bottom:1px solid #e5e9f0;vertical-align:top;white-space:pre}
td.long{white-space:pre-wrap;min-width:26rem;max-width:40rem}
.n{text-align:right;font-variant-numeric:tabular-nums}
tbody tr:hover{background:#f5f7fa} .bad{color:#a81c28;font-weight:600}
.good{color:#1b6e45;text-decoration:underline 2px}
@media (max-width:40rem){body{margin:.8rem} td,th button{padding-left:.4rem;padding-right:.4rem}}
</style></head><body><main>
<h1>$title</h1>
$body
</main><script>
for (const box of document.querySelectorAll(".scroll")) new ResizeObserver(() =>
  box.classList.toggle("wide", box.scrollWidth > box.clientWidth)).observe(box);
const value = text => {
  const number = Number(text.replace(/^< /, "").split(" ")[0].replace(/,/g, ""));
  return text.trim() === "" || Number.isNaN(number) ? null : number;
};
for (const head of document.querySelectorAll("th")) head.firstChild.onclick = () => {
  const rows = head.closest("table").tBodies[0], place = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const text = row => row.cells[place].textContent, numeric = head.classList.contains("n");
  [...rows.rows].sort((one, two) => {
    const [a, b] = [one, two].map(row => numeric ? value(text(row)) : text(row));
    if (a === null || b === null) return (a === null) - (b === null);
    return (numeric ? a - b : a.localeCompare(b)) * (down ? -1 : 1);
  }).forEach(row => rows.append(row));
};
</script></body></html>
""")

FILTER = (
    '<p><label>Show rows with <input type="search" id="filter" '
    'placeholder="prefill_bidir -eval" autocomplete="off"></label> '
    '<output for="filter" aria-live="polite"></output></p>'
)
FILTER_SCRIPT = """
// Every word must occur in a row; a word after a minus must not.
const field = document.getElementById("filter"), rows = [...document.querySelectorAll("tbody tr")];
field.oninput = () => {
  const words = field.value.toLowerCase().split(/\\s+/).filter(word => word && word !== "-");
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word =>
      word.startsWith("-") ? !text.includes(word.slice(1)) : text.includes(word));
  }
  const shown = rows.filter(row => !row.hidden).length;
  document.querySelector("output").textContent =
    words.length ? `${shown} of ${rows.length} rows` : "";
};
field.oninput();
"""
