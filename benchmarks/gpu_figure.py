"""Makes the tables and the figure of docs/performance.md from a result of benchmarks/gpu.py.

python benchmarks/gpu_figure.py benchmarks/results/h100.json [--docs docs]
"""

from __future__ import annotations

import altair as alt
import pandas as pd
from marked import result_and_docs, write_between

from ablation.report.charts import render, sheet

MARK = "<!-- measured -->\n"


def main() -> None:
    record, docs = result_and_docs(__doc__)
    write_between(docs / "performance.md", MARK, MARK, tables(record))
    (docs / "performance.svg").write_bytes(render(figure(record), ".svg"))


def tables(record: dict) -> str:
    """The rates compared with alternatives, and their growth with the work, as markdown."""
    scoring, training, sections = record["scoring"], record["training"], record["sections"]
    rates, errors = scoring["items_per_s"], scoring["relative_error"]
    steps, tokens = training["step16_s"], training["tokens_per_s"]
    libraries = ", ".join(f"{name} {v}" for name, v in record["libraries"].items() if v)
    peak = record["machine"]["matmul_tflops"]
    hflm, ours, wide = sections["scoring_hflm"], sections["scoring_ours"], sections["training_16k"]
    strings = ours["causal_from_strings"], hflm["from_strings"]
    rows = [
        ("items/s, `causal`, from token ids", rates["ours_causal"], "HFLM", rates["hflm"]),
        ("items/s, `prefill_bidir`", rates["ours_prefill_bidir"], "HFLM (causal)", rates["hflm"]),
        ("items/s, `causal`, from strings", strings[0], "HFLM", strings[1]),
        ("items/s, `causal`", rates["ours_causal"], "the published loop", rates["seed_loop"]),
        ("tokens/s, 16 k tokens a step", tokens["ours"], "TRL, packed", tokens["trl"]),
    ]
    if texts := record.get("generation", {}).get("texts_per_s"):  # older records have none
        rows += [
            ("texts/s, `causal`", texts["ours_causal"], "HFLM", texts["hflm"]),
            ("texts/s, `prefill_bidir`", texts["ours_prefill_bidir"], "HFLM", texts["hflm"]),
        ]
    lines = [
        f"{record['machine']['name']}, driver {record['machine']['driver']}, commit "
        f"{record['commit']}; {libraries}. On this machine a bfloat16 product of two 8192 x 8192 "
        f"matrices runs at {peak} TFLOP/s, and a copy within the GPU's memory at "
        f"{record['machine']['copy_gb_per_s']:.0f} GB/s.\n",
        "| measured | ours | compared with | its value | ratio |",
        "|---|---|---|---|---|",
        *(  # TRL's is null where it is not installed
            f"| {work} | {a:,} | {peer} | {b:,} | {a / b:.2f} |" for work, a, peer, b in rows if b
        ),
        f"| seconds a step of 16 samples | {steps['ours']} | the published code | "
        f"{steps['seed']} | {steps['seed'] / steps['ours']:.1f} |",
        f"| log-likelihood error | {errors['ours']} | HFLM | {errors['hflm']} | "
        f"{errors['hflm'] / errors['ours']:.1f} |",
        "",
        f"Training at 16 k tokens a step runs at {training['model_tflops']} TFLOP/s, "
        f"{100 * training['model_tflops'] / peak:.0f} % of the rate of the matrix product. The "
        "operations of real tokens are counted, those of the output head for supervised tokens "
        f"only. It takes {training['peak_gib']} GiB ({wide['reserved_gib']} GiB reserved; rows of "
        f"{wide['row_tokens']} tokens), after {wide['compile_s']:.0f} s of compiling.\n",
        "| scored under `prefill_bidir` | items/s | tokens/s |",
        "|---|---|---|",
    ]
    growth = sections["scoring_growth"]
    for entry in growth["work"] + growth["prompt"]:
        named = f"prompts of {entry['prompt_tokens']} tokens" if "prompt_tokens" in entry else ""
        named = named or f"{entry['items']:,} HellaSwag-like items"
        lines.append(f"| {named} | {entry['items_per_s']} | {entry['tokens_per_s']:,} |")
    lines += ["", "| trained | seconds a step | tokens a step | tokens/s | reserved GiB |"]
    lines.append("|---|---|---|---|---|")
    for entry in sections["training_growth"]["work"] + sections["training_growth"]["length"]:
        named = f"samples of {entry['sample_tokens']} tokens" if "sample_tokens" in entry else ""
        named = named or f"{16 * entry['times']} Alpaca-like samples"
        lines.append(
            f"| {named} | {entry['step_s']} | {entry['tokens_per_step']:,} | "
            f"{entry['tokens_per_s']:,} | {entry['reserved_gib']} |"
        )
    return "\n".join(lines) + "\n"


def figure(record: dict) -> alt.TopLevelMixin:
    """Tokens a second by length, and by amount of work."""
    sections = record["sections"]
    score, train = sections["scoring_growth"], sections["training_growth"]
    lengths = pd.DataFrame(
        [{"work": "scoring", "at": e["prompt_tokens"], **e} for e in score["prompt"]]
        + [{"work": "training", "at": e["sample_tokens"], **e} for e in train["length"]]
    )
    amounts = pd.DataFrame(
        [{"work": "scoring", "at": e["times"], **e} for e in score["work"]]
        + [{"work": "training", "at": e["times"], **e} for e in train["work"]]
    )

    def panel(frame: pd.DataFrame, title: str) -> alt.Chart:
        ticks = sorted(frame["at"].unique().tolist())
        return (
            alt.Chart(frame, width=300, height=220)
            .mark_line(point=True)
            .encode(
                x=alt.X("at:Q", scale=alt.Scale(type="log", base=2), title=title).axis(
                    values=ticks
                ),
                y=alt.Y("tokens_per_s:Q", title="tokens a second", scale=alt.Scale(zero=True)),
                color=alt.Color("work:N", title=None),
            )
        )

    panels = panel(lengths, "tokens of a prompt (scoring) or sample") | panel(
        amounts, "times 512 items, or times 16 samples a step"
    )
    notes = [f"{record['machine']['name']}, 3.4 B weights in bfloat16, one GPU."]
    return sheet(panels, lengths, "How cost grows", notes)


if __name__ == "__main__":
    main()
