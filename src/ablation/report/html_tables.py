"""Writes tables as one self-contained HTML page, on which every column can be sorted."""

from __future__ import annotations

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
    """A table with a title; a row is {head: text of the cell}, and the first row has all heads."""

    title: str
    rows: Sequence[Mapping[str, str]]
    note: str = ""


def html_page(title: str, notes: Iterable[str], sections: Iterable[Section]) -> str:
    """The page with all sections. Equal tables give equal bytes; all text is escaped."""
    body = "".join(f"<p>{escape(note)}</p>" for note in notes if note)
    body += "".join(map(_section, sections))
    return PAGE.substitute(title=escape(title), body=body)


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
        "<tr>" + "".join(_cell(row[h], numeric[h]) for h in heads) + "</tr>\n"
        for row in section.rows
    )
    return (
        f"<h2>{escape(section.title)}</h2>{note}<div><table><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{lines}</tbody></table></div>\n"
    )


def _cell(text: str, numeric: bool) -> str:
    kinds = ["n"] * numeric + ([text.kind] if isinstance(text, Marked) else [])
    kinds += ["long"] * (max(map(len, text.split("\n"))) > WIDEST)
    attribute = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<td{attribute}>{escape(text)}</td>"


def _is_number(text: str) -> bool:
    """Whether a cell begins with a number, by which the script of the page then sorts it."""
    first = text.removeprefix("< ").split(" ")[0].replace(",", "")
    try:
        float(first or "nan")
    except ValueError:
        return text in WORDS_FOR_NOTHING
    return True


WORDS_FOR_NOTHING = ("-", "not estimable")
WIDEST = 64  # characters of the longest line that is not broken

PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<link rel="icon" href="data:,">
<style>
body{font:14px/1.45 "Liberation Sans",Arial,Helvetica,sans-serif;color:#2e3440;background:#fff;
  margin:1.5rem 2rem;max-width:100rem}
h1{font-size:1.35rem;margin:0 0 .5rem} h2{font-size:1.05rem;margin:1.8rem 0 .4rem}
p{margin:.25rem 0;max-width:60rem;color:#4c566a;white-space:pre-line}
div{overflow-x:auto} table{border-collapse:collapse;margin-top:.4rem}
th{position:sticky;top:0;background:#eceff4;text-align:left;padding:0;vertical-align:bottom}
th button{all:unset;cursor:pointer;padding:.35rem .7rem;font-weight:600;white-space:nowrap}
th button:hover{color:#2a7fb8} th button:focus-visible{outline:2px solid #2a7fb8}
th button::after{content:" \\2195";color:#b4bcc9}
th[aria-sort=ascending] button::after{content:" \\2191";color:#2a7fb8}
th[aria-sort=descending] button::after{content:" \\2193";color:#2a7fb8}
td{padding:.28rem .7rem;border-bottom:1px solid #e5e9f0;vertical-align:top;white-space:pre}
td.long{white-space:pre-wrap;min-width:26rem;max-width:40rem}
.n{text-align:right;font-variant-numeric:tabular-nums}
tbody tr:hover{background:#f5f7fa} .bad{color:#b3202c} .good{color:#1f7a4d}
</style></head><body>
<h1>$title</h1>
$body
<script>
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
