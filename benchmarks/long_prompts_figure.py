"""Makes the tables and figures of docs/long_prompts.md from results of long prompts.

    python benchmarks/long_prompts_figure.py RESULT [--docs docs]

RESULT is of benchmarks/long_prompts.py (a CPU), or of benchmarks/gpu.py with its section
`long_prompts`. The table and the figure of that device are replaced; those of the other stay.
"""

from __future__ import annotations

import altair as alt
import pandas as pd
from marked import result_and_docs, write_between

from ablation.report.charts import GREEN, MASK_COLOURS, ORANGE, render, sheet

HFLM, WINDOW = "HFLM, causal", "window, in prefill"
NAMES = {"hflm": HFLM, "causal": "causal", "prefill_bidir": "prefill_bidir", "window": WINDOW}
COLOURS = {
    HFLM: ORANGE,
    "causal": MASK_COLOURS["causal"],
    "prefill_bidir": MASK_COLOURS["prefill_bidir"],
    WINDOW: GREEN,
}


def main() -> None:
    record, docs = result_and_docs(__doc__)
    device = "gpu" if "sections" in record else "cpu"
    mark = f"<!-- measured: {device} -->\n"
    picture = f"long_prompts_{device}.svg"
    alternative = "seconds and memory of an item by the length of its prompt"
    tables = [table(rows_of(record)), *([blocks_table(record)] if "blocks" in record else [])]
    block = "\n".join([heading(record), "", *tables, f"![{alternative}]({picture})", ""])
    write_between(docs / "long_prompts.md", mark, mark, block)
    (docs / picture).write_bytes(render(figure(record), ".svg"))


def rows_of(record: dict) -> pd.DataFrame:
    """A row for each length and scorer: tokens, name, seconds, peak_gib."""
    rows = record["sections"]["long_prompts"]["rows"] if "sections" in record else record["rows"]
    frame = pd.DataFrame(rows)
    # The time of a processor of a shared machine says more than that on the clock.
    seconds = frame.get("processor_seconds", frame.seconds)
    return frame.assign(name=frame.scorer.map(NAMES), seconds=seconds)


def heading(record: dict) -> str:
    """What was measured, and where."""
    if "sections" not in record:
        return (
            f"{record['machine']}, one thread, torch {record['torch']}: a {record['model']}. A "
            f"window of {record['window']} tokens, {record['choices']} choices of "
            f"{record['choice_tokens']} tokens. Processor seconds of an item, and GiB that it adds "
            "to the process at its peak; medians of three, and one measurement above 8k tokens."
        )
    found, libraries = record["sections"]["long_prompts"], record["libraries"]
    return (
        f"{record['machine']['name']}, torch {libraries['torch']}: a random Ministral-3 of 3.4 B "
        f"weights in bfloat16. A window of {found['window']} tokens, four choices of about 28. "
        "Seconds of an item, and GiB over those of the weights at the peak."
    )


def table(rows: pd.DataFrame) -> str:
    """Seconds and GiB of an item by length, as markdown."""
    lines = ["| tokens | " + " | ".join(f"{n}: s | GiB" for n in NAMES.values()) + " |"]
    lines.append("|---" * (1 + 2 * len(NAMES)) + "|")
    for tokens, group in rows.groupby("tokens"):
        by_name = group.set_index("name")
        cells = [
            f"{by_name[column][name]:.3g}" if pd.notna(by_name[column][name]) else "no room"
            for name in NAMES.values()
            for column in ("seconds", "peak_gib")
        ]
        lines.append(f"| {tokens:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def blocks_table(record: dict) -> str:
    """Seconds of flex attention alone and its share of blocks by length, as markdown."""
    lines = [
        "Flex attention alone, four heads of width 64: processor seconds, and the share of all"
    ]
    lines += ["blocks of 128 x 128 pairs that it computes.", ""]
    names = list(NAMES)[1:]
    lines.append("| tokens | " + " | ".join(f"{NAMES[n]}: s | blocks" for n in names) + " |")
    lines.append("|---" * (1 + 2 * len(names)) + "|")
    for tokens, group in pd.DataFrame(record["blocks"]).groupby("tokens"):
        of = group.set_index("scorer")
        cells = (
            f"{of.processor_seconds[n]:.3f} | {100 * of.share_of_blocks[n]:.1f} %" for n in names
        )
        lines.append(f"| {tokens:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(record: dict) -> alt.TopLevelMixin:
    """Seconds and memory by length, and those of attention in blocks where they were measured."""
    rows = rows_of(record)
    colour = alt.Color(
        "name:N",
        scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values())),
        legend=alt.Legend(title=None, orient="top", symbolType="circle"),
    )
    ticks = sorted(rows.tokens.unique().tolist())
    x = alt.X("tokens:Q", scale=alt.Scale(type="log", base=2), title="tokens of prompt and choice")
    x = x.axis(
        values=ticks, labelExpr="datum.value >= 1024 ? datum.value / 1024 + 'k' : datum.value"
    )

    def panel(frame: pd.DataFrame, column: str, title: str) -> alt.Chart:
        # No logarithm of nothing: what is below 1 MiB is not drawn.
        drawn = frame[frame[column] > 0.001]
        base = alt.Chart(drawn, width=250, height=230, title=title)
        y = alt.Y(f"{column}:Q", title=None, scale=alt.Scale(type="log"))
        y = y.axis(values=[10.0**power for power in range(-3, 4)])
        return base.mark_line(point=alt.OverlayMarkDef(size=40)).encode(x=x, y=y, color=colour)

    panels = [
        panel(rows, "seconds", "Seconds of an item"),
        panel(rows, "peak_gib", "GiB at the peak"),
    ]
    if "blocks" in record:
        blocks = pd.DataFrame(record["blocks"])
        blocks = blocks.assign(name=blocks.scorer.map(NAMES), seconds=blocks.processor_seconds)
        panels.append(panel(blocks, "seconds", "Seconds of flex attention alone"))
    where = "one thread of a CPU" if "sections" not in record else record["machine"]["name"]
    notes = [f"An item is one prompt with four choices; measured on {where}."]
    return sheet(alt.hconcat(*panels, spacing=28), rows, "What long prompts cost", notes)


if __name__ == "__main__":
    main()
