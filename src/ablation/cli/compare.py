"""`ablation compare`: paired differences of two sample files of lm-eval."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ablation.cli.options import PATH, Command, Several, format_option, report_errors


@click.command(
    cls=Command,
    short_help="Compare two models by their sample files of lm-eval, item by item.",
    examples=(
        "ablation compare a/samples_piqa_DATE.jsonl b/samples_piqa_DATE.jsonl",
        "ablation compare out/org__model-a out/org__model-b --metric acc_norm --format latex",
        "ablation compare a.jsonl b.jsonl --cluster activity_label --shared",
    ),
)
@click.argument("a", type=PATH, metavar="A", help="A sample file or folder of the first model.")
@click.argument("b", type=PATH, metavar="B", help="That of the second model, with equal items.")
@click.option("--metric", cls=Several, help="The metrics (default: all that are numbers).")
@click.option(
    "--cluster",
    metavar="FIELD",
    help="The field of a line, or of its document, that names clusters: items with the same value "
    "are not independent draws (default: cluster or activity_label, if items have it).",
)
@click.option("--shared", is_flag=True, help="Compare only the items that both files have.")
@click.option(
    "--confidence", type=float, default=0.95, help="Level of the intervals (default: 0.95)."
)
@format_option
def compare(
    a: Path,
    b: Path,
    metric: tuple[str, ...],
    cluster: str | None,
    shared: bool,
    confidence: float,
    form: str,
) -> int:
    """Pair the items of two files samples_TASK_DATE.jsonl, which `lm_eval --log_samples` or
    `ablation export lm-eval` wrote, and print the difference B - A of each metric with its
    interval and p value. A and B may be folders: then the newest file of each task in both is
    compared, with the mean over tasks. No study is needed (docs/statistics.md).
    """
    from ablation.analysis.paired_samples import compare_samples
    from ablation.console.printable import printable
    from ablation.data.lm_eval_samples import paired_files, read_samples
    from ablation.report.text_tables import paired_tables, print_as

    with report_errors(ValueError, OSError):
        if not 0 < confidence < 1:
            raise ValueError(f"--confidence {confidence:g}: a level between 0 and 1 was expected")
        files, alone = paired_files(a, b)
        pairs = {
            task: (read_samples(one, cluster), read_samples(other, cluster))
            for task, (one, other) in files.items()
        }
        found = compare_samples(pairs, confidence, metric, shared)
        found.warnings += [f"not compared, only one folder has it: {task}" for task in alone]
        print_as(form, paired_tables(found, a, b, confidence))
    for line in found.warnings if form == "csv" else ():
        print(printable(line), file=sys.stderr)
    return 0
