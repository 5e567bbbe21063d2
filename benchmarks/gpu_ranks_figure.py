"""Makes the table and the figure of several GPUs in docs/performance.md.

python benchmarks/gpu_ranks_figure.py benchmarks/results/h100_two.json [--docs docs]

RESULT is of benchmarks/gpu.py with the sections `one_gpu` and `two_gpus`; `four_gpus` and `eight_b`
are shown if they are in it.
"""

from __future__ import annotations

import altair as alt
import pandas as pd
from gpu_ranks import EIGHT_B_LENGTH
from marked import result_and_docs, write_between

from ablation.report.charts import render, sheet

MARK = "<!-- measured: several GPUs -->\n"
WORKS = {
    "published": "16 samples a step, the published one",
    "tokens_64k": "64k tokens a step",
    "tokens_64k_again": "64k tokens a step, without `keep_gathered`",
    "weak_16k_a_gpu": "16k tokens a step and GPU",
    "scoring": "scoring, `prefill_bidir`",
}


def main() -> None:
    record, docs = result_and_docs(__doc__)
    page = [table(record), "![speed by the number of GPUs](performance_gpus.svg)\n"]
    page += [eight_b_table(record)] if "eight_b" in record["sections"] else []
    write_between(docs / "performance.md", MARK, MARK, "\n".join(page))
    (docs / "performance_gpus.svg").write_bytes(render(figure(record), ".svg"))


def rows_of(record: dict) -> pd.DataFrame:
    """A row for each work and number of GPUs: rate, unit, times the rate of one GPU, GiB a card."""
    sections, rows = record["sections"], []
    names = ("one_gpu", "two_gpus", "four_gpus")
    for section in (sections[name] for name in names if name in sections):
        for work, found in section["training"].items():
            alone = sections["one_gpu"]["training"][work.removesuffix("_again")]
            rates = found["tokens_per_s"], alone["tokens_per_s"]
            row = {"work": work, "unit": "tokens/s", "loss": found["loss"]}
            rows.append(row | {"gpus": section["gpus"], "rates": rates, "gib": found["peak_gib"]})
        rates = [s["scoring"]["items_per_s"] for s in (section, sections["one_gpu"])]
        row = {"work": "scoring", "unit": "items/s", "gib": section["scoring"]["peak_gib"]}
        rows.append(row | {"gpus": section["gpus"], "rates": rates})
    frame = pd.DataFrame(rows)
    rates, alone = (frame.rates.str[n] for n in (0, 1))
    return frame.assign(rate=rates, times=rates / alone, gib=frame.gib.map(max))


def table(record: dict) -> str:
    """Rates, efficiency, memory and loss by the number of GPUs, as markdown."""
    libraries = record["libraries"]
    lines = [
        f"{record['machine']['name']}, driver {record['machine']['driver']}, commit "
        f"{record['commit']}, torch {libraries['torch']}; a random Ministral-3 of 3.4 B weights.\n",
        "| work | GPUs | rate | times one GPU | efficiency | GiB a card | loss |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = rows_of(record)
    for work, name in WORKS.items():
        for row in rows[rows.work == work].itertuples():
            loss = f"{row.loss:.4f}" if pd.notna(row.loss) else ""
            share = f"{row.times / row.gpus:.0%}".replace("%", " %")
            lines.append(
                f"| {name} | {row.gpus} | {row.rate:,.0f} {row.unit} | {row.times:.2f} | {share} | "
                f"{row.gib:.1f} | {loss} |"
            )
    return "\n".join(lines) + "\n"


def eight_b_table(record: dict) -> str:
    """Steps of the 8 B model, as markdown."""
    found = record["sections"]["eight_b"]
    lines = [
        "A random model of the shape of Llama 3.1 8B (7.5 B weights, because the head shares those "
        f"of the embeddings), steps of samples of {EIGHT_B_LENGTH} tokens:\n",
        "| trained | tokens a step | seconds a step | tokens/s | GiB a card | reserved |",
        "|---|---|---|---|---|---|",
    ]
    for name, way in (
        ("all weights, on two GPUs", "full_on_two"),
        ("LoRA of q and v, rank 16, on one", "lora_on_one"),
    ):
        for step in found[way].values():
            lines.append(
                f"| {name} | {step['tokens_per_step']:,} | {step['step_s']} | "
                f"{step['tokens_per_s']:,} | {max(step['peak_gib'])} | "
                f"{max(step['reserved_gib'])} |"
            )
    return "\n".join(lines) + "\n"


def figure(record: dict) -> alt.TopLevelMixin:
    """The speed of each work by the number of GPUs, beside the ideal one."""
    rows = rows_of(record)
    rows = rows.assign(name=rows.work.map(WORKS).str.replace("`", ""))
    begun = rows[(rows.work == "tokens_64k") & (rows.gpus == 1)]
    again = begun.assign(work="tokens_64k_again", name=WORKS["tokens_64k_again"].replace("`", ""))
    rows = pd.concat([rows, again])
    counts = sorted(int(n) for n in rows.gpus.unique())
    x = alt.X("gpus:Q", title="GPUs", scale=alt.Scale(nice=False)).axis(values=counts, format="d")
    top = alt.Scale(domain=[0, max(counts)])
    y = alt.Y("times:Q", title="times the speed of one GPU", scale=top)
    ideal = pd.DataFrame({"gpus": counts, "times": counts})
    line = alt.Chart(ideal).mark_line(strokeDash=[4, 4], color="#888888").encode(x=x, y=y)
    names = [name.replace("`", "") for name in WORKS.values()]
    colour = alt.Color("name:N", title=None, sort=names, scale=alt.Scale(domain=names))
    colour = colour.legend(labelLimit=320)
    found = alt.Chart(rows, width=320, height=260).mark_line(point=True)
    notes = [f"{record['machine']['name']}; the dashed line is as many times the speed of one."]
    drawn = alt.layer(line, found.encode(x=x, y=y, color=colour))
    return sheet(drawn, rows.drop(columns="rates"), "What several GPUs give", notes)


if __name__ == "__main__":
    main()
