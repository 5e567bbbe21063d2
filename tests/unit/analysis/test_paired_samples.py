"""Promises of `ablation compare`: paired differences of any two sample files, or a plain error."""

import json
import math
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ablation.analysis.paired_samples import compare_samples, paired_difference
from ablation.analysis.statistics import holm, mcnemar, paired_means
from ablation.cli.main import main
from ablation.data.lm_eval_samples import InvalidSamples, paired_files, read_samples
from ablation.provenance.tables import read_csv
from ablation.report.text_tables import TextTables, markdown

DATE = "2026-01-01T00-00-00.000001"


def line(doc_id, **values):
    """A line as lm-eval writes it."""
    found = {"doc_id": doc_id, "doc": {}, "target": "0", "filter": "none"}
    found |= {"doc_hash": f"h{doc_id}", "prompt_hash": f"p{doc_id}", "target_hash": f"t{doc_id}"}
    found |= {"metrics": [k for k in values if k in ("acc", "f1", "bleu", "exact_match")]}
    return found | values


@pytest.fixture
def write(tmp_path):
    """Writes lines as a sample file of a model, and returns its path."""

    def write(model, lines, task="piqa", date=DATE):
        folder = tmp_path / model
        folder.mkdir(exist_ok=True)
        file = folder / f"samples_{task}_{date}.jsonl"
        text = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
        file.write_text(text, "utf-8")
        return str(file)

    return write


def lines_of(path):
    return [json.loads(text) for text in Path(path).read_text("utf-8").splitlines()]


def compared(capsys, *arguments):
    """The rows that `ablation compare` prints as CSV."""
    assert main(["compare", *arguments, "--format", "csv"]) == 0
    printed = capsys.readouterr()
    return read_csv(StringIO(printed.out)), printed.err


A, B = [1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 1, 0], [1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]


def both(write, **more):
    return [
        write(model, [line(i, acc=float(x), **more) for i, x in enumerate(values)])
        for model, values in (("a", A), ("b", B))
    ]


# ---- numbers --------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_study_s_own_statistics(write, capsys):
    rows, _ = compared(capsys, *both(write))
    (row,) = rows.itertuples()
    a, b = np.array(A), np.array(B)
    means = paired_means([np.stack([a, b])[:, None]], 0.95)
    found = means.difference(1, 0)
    assert (row.task, row.metric, row.filter, row.n, row.clusters) == (
        "piqa",
        "acc",
        "none",
        12,
        12,
    )
    assert (row.a, row.b) == pytest.approx((a.mean(), b.mean()))
    assert row.difference == pytest.approx((b - a).mean())
    assert (row.difference_low, row.difference_high) == pytest.approx(tuple(found.interval))
    assert row.p == pytest.approx(mcnemar(a, b)) and row.test == "McNemar"
    assert (row.only_a, row.only_b) == (1, 4)


def test_items_are_paired_by_hash_whatever_their_order_and_numbers(write, capsys):
    a, b = both(write)
    lines = lines_of(b)
    shuffled = write("c", lines[::-1])
    renumbered = write("d", [one | {"doc_id": 100 - one["doc_id"]} for one in lines])
    expected, _ = compared(capsys, a, b)
    for other in (shuffled, renumbered):
        found, _ = compared(capsys, a, other)
        assert found.equals(expected)


def test_a_document_that_occurs_twice_in_the_data_is_paired_by_its_index_too(write, capsys):
    """Real data sets hold a document twice; lm-eval gives both the same hash."""
    files = [
        write(m, [line(i, acc=float(x)) | {"doc_hash": "same"} for i, x in enumerate(values)])
        for m, values in (("a", A), ("b", B))
    ]
    rows, _ = compared(capsys, *files)
    assert rows.n.tolist() == [12] and rows.only_b.tolist() == [4]


def test_one_item_without_a_cluster_does_not_make_the_others_independent(write, capsys):
    files = [
        write(m, [line(i, acc=float(x), group=f"g{i // 4}") for i, x in enumerate(values)])
        for m, values in (("a", A), ("b", B))
    ]
    for file in files:
        first, *others = lines_of(file)
        del first["group"]
        Path(file).write_text("".join(json.dumps(one) + "\n" for one in (first, *others)))
    rows, _ = compared(capsys, *files, "--cluster", "group")
    assert rows.clusters.tolist() == [4] and rows.test.tolist() == ["interval"]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_changing_sides_changes_the_sign_alone(pairs):
    values = np.array(pairs, dtype=float).T[:, None]
    there, _ = paired_difference(values, None, 0.95)
    back, _ = paired_difference(values[::-1], None, 0.95)
    assert there.value == pytest.approx(-back.value)
    assert tuple(there.interval) == pytest.approx((-back.interval.high, -back.interval.low))
    assert there.p == pytest.approx(back.p)


@given(
    st.lists(st.tuples(st.floats(2, 9), st.floats(2, 9)), min_size=2, max_size=20),
    st.floats(0.5, 100),
    st.floats(-50, 50),
)
def test_the_unit_of_a_metric_changes_nothing(pairs, factor, shift):
    """Perplexities in nats or bits, BLEU of 100: the p value and the scaled interval are equal."""
    values = np.array(pairs).T[:, None]
    if np.std(values[1] - values[0]) < 1e-3:
        return
    first, _ = paired_difference(values, None, 0.9)
    changed = factor * values + shift + (100 if shift >= 0 else -1000)
    second, _ = paired_difference(changed, None, 0.9)
    assert second.value == pytest.approx(factor * first.value, abs=1e-6 * factor)
    assert second.p == pytest.approx(first.p, abs=1e-6)
    assert second.interval.low == pytest.approx(factor * first.interval.low, abs=1e-5 * factor)


def test_intervals_of_other_metrics_hold_the_true_difference():
    """Of a metric with other values than 0 and 1, in 95 % of draws; 400 of them err by 1.1."""
    rng, held = np.random.default_rng(5), 0
    for _ in range(400):
        easy = rng.normal(20, 4, 120)
        values = np.stack([easy + rng.normal(0, 3, 120), easy + 0.5 + rng.normal(0, 3, 120)])
        found, _ = paired_difference(values[:, None], None, 0.95)
        held += found.interval.low <= 0.5 <= found.interval.high
    assert 0.92 < held / 400 < 0.98
    t = stats.ttest_rel(values[1], values[0])
    assert found.value == pytest.approx(values[1].mean() - values[0].mean())
    assert (found.p < 0.05) == (t.pvalue < 0.05)


def test_clusters_widen_the_interval_and_replace_mcnemar(write, capsys):
    alone, _ = compared(capsys, *both(write))
    files = [
        write(m, [line(i, acc=x, doc={"activity_label": f"c{i // 4}"}) for i, x in enumerate(v)])
        for m, v in (("c", A), ("d", B))
    ]
    rows, _ = compared(capsys, *files)
    assert rows.clusters.tolist() == [3] and rows.test.tolist() == ["interval"]
    groups = np.arange(12) // 4
    means = paired_means([np.array([A, B], float)[:, None]], 0.95, [groups])
    assert rows.difference_low[0] == pytest.approx(means.difference(1, 0).interval.low)
    assert rows.difference_low[0] < alone.difference_low[0]
    other = [
        write(m, [line(i, acc=float(x), doc={"topic": i // 6}) for i, x in enumerate(values)])
        for m, values in (("e", A), ("f", B))
    ]
    rows, _ = compared(capsys, *other, "--cluster", "topic")
    assert rows.clusters.tolist() == [2]
    assert main(["compare", *other, "--cluster", "subject"]) == 1
    assert "neither items nor their documents have `subject`" in capsys.readouterr().err


def test_a_task_named_macro_is_a_task_and_the_mean_has_another_name(write, capsys, tmp_path):
    for task, first in (("macro", A), ("piqa", B[::-1])):
        for model, values in (("a", first), ("b", B)):
            write(model, [line(i, acc=float(x)) for i, x in enumerate(values)], task=task)
    rows, said = compared(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    assert rows.task.tolist() == ["macro", "piqa", "macro over tasks"] and "named macro" in said
    assert rows.p_holm[:2].tolist() == pytest.approx(holm(rows.p[:2].tolist()))
    assert math.isnan(rows.p_holm[2])


def test_folders_are_compared_task_by_task_with_holm_and_a_macro(write, capsys, tmp_path):
    for task in ("piqa", "boolq"):
        for model, values in (("a", A), ("b", B if task == "piqa" else A[::-1])):
            write(model, [line(i, acc=float(x)) for i, x in enumerate(values)], task)
    write("a", [line(0, acc=1.0)], "other")
    write("a", [line(0, acc=0.0)], "piqa", date="2020-01-01T00-00-00.0")  # an older run
    rows, said = compared(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    assert rows.task.tolist() == ["boolq", "piqa", "macro"]
    tasks, macro = rows[:2], rows.iloc[2]
    assert tasks.p_holm.tolist() == pytest.approx(holm(tasks.p.tolist()))
    assert macro.difference == pytest.approx(tasks.difference.mean()) and macro.n == 24
    assert math.isnan(macro.p_holm)
    assert "only one folder has it: other" in said


def test_several_metrics_and_filters_have_a_row_each(write, capsys):
    """As generate_until tasks such as gsm8k write them."""
    files = []
    for model, values in (("a", A), ("b", B)):
        lines = []
        for chosen in ("strict-match", "flexible-extract"):
            for i, x in enumerate(values):
                kept = float(x) if chosen == "flexible-extract" else 0.0
                made = line(i, exact_match=kept, bleu=["reference", "text"], f1=0.1 * i + kept)
                arguments = {"gen_args_0": {"arg_0": "Q", "arg_1": {"until": ["\n"]}}}
                made |= {"filter": chosen, "resps": [["text"]], "arguments": arguments}
                lines.append(made)
        files.append(write(model, lines, "gsm8k"))
    rows, said = compared(capsys, *files)
    assert list(zip(rows.metric, rows["filter"], strict=True)) == [
        ("exact_match", "strict-match"),
        ("f1", "strict-match"),
        ("exact_match", "flexible-extract"),
        ("f1", "flexible-extract"),
    ]
    assert rows.p[0] == 1 and rows.difference[0] == 0
    assert "no number for each item: bleu (flexible-extract), bleu (strict-match)" in said
    rows, _ = compared(capsys, *files, "--metric", "f1")
    assert set(rows.metric) == {"f1"} and set(rows.test) == {"interval"}
    assert main(["compare", *files, "--metric", "bleu"]) == 1
    assert "They have exact_match, f1." in capsys.readouterr().err


def test_files_of_older_releases_have_no_list_of_metrics(write, capsys):
    files = []
    for path in both(write):
        lines = lines_of(path)
        for one in lines:
            one.pop("metrics"), one.pop("filter")
        model = path.split("/")[-2] + "old"
        files.append(write(model, lines))
    rows, _ = compared(capsys, *files)
    assert rows.metric.tolist() == ["acc"] and rows["filter"].tolist() == ["none"]


def test_every_form_shows_the_same_cells(write, capsys):
    files = both(write)
    shown = {}
    for form in ("text", "markdown", "latex", "csv"):
        assert main(["compare", *files, "--format", form]) == 0
        shown[form] = capsys.readouterr().out
    for form in ("text", "markdown", "latex"):
        assert "+0.250 [" in shown[form]
        assert ".375" in shown[form]
    assert "\\caption{A: " in shown["latex"] and r"samples\_piqa\_" in shown["latex"]


def test_another_prompt_is_said(write, capsys):
    a, b = both(write)
    lines = [one | {"prompt_hash": "few shots"} for one in lines_of(b)]
    _, said = compared(capsys, a, write("c", lines))
    assert "12 of 12 items have another prompt in the second file" in said


# ---- plain errors ---------------------------------------------------------------------------


def other_task(lines):
    return [one | {"doc_hash": f"x{one['doc_id']}"} for one in lines]


REFUSED = {
    "other task": (other_task, "have no document in common"),
    "missing items": (lambda lines: lines[:-2], "2 only in"),
    "twice": (lambda lines: [*lines, lines[3]], "document 3 occurs twice under the filter none"),
    "NaN": (lambda lines: [lines[0] | {"acc": math.nan}, *lines[1:]], "acc is NaN for 1 of 12"),
    "infinite": (lambda lines: [lines[0] | {"acc": math.inf}, *lines[1:]], "`acc` is not finite"),
    "a huge number": (
        lambda lines: ['{"doc_id": 0, "doc_hash": "h", "acc": 1' + "0" * 400 + "}"],
        "`acc` is not finite",
    ),
    "no value": (lambda lines: [lines[0] | {"acc": None}, *lines[1:]], "1 of 12 items have no"),
    "a text": (lambda lines: [one | {"acc": "1.0"} for one in lines], "no metric in common"),
    "other metric": (
        lambda lines: [line(one["doc_id"], f1=1.0) for one in lines],
        "no metric in common",
    ),
    "other answers": (
        lambda lines: [one | {"target_hash": "x"} for one in lines],
        "another expected answer",
    ),
    "no JSON": (lambda lines: ["doc_id,acc", "0,1"], "a JSON object a line was expected"),
    "a list": (lambda lines: ["[1, 2]"], "a JSON object a line was expected"),
    "nested deeply": (lambda lines: ["[" * 100_000], "a JSON object a line was expected"),
    "empty": (lambda lines: [], "is empty"),
    "no hash": (lambda lines: [one | {"doc_hash": None} for one in lines], "lm-eval 0.4.2"),
    "odd index": (lambda lines: [lines[0] | {"doc_id": "0"}], "the index of an item was expected"),
    "odd filter": (lambda lines: [lines[0] | {"filter": ["none"]}], "a name was expected"),
    "odd metrics": (lambda lines: [lines[0] | {"metrics": "acc"}], "no list of names"),
    "odd cluster": (lambda lines: [lines[0] | {"cluster": [1]}], "no name"),
    "odd leaks": (lambda lines: [lines[0] | {"leaks": 1}], "a text was expected"),
    "two models in the first document": (
        lambda lines: [lines[0] | {"leaks": "eval"}, lines[0] | {"filter": "b"}, *lines[1:]],
        "differ from those of other lines",
    ),
    "two models": (
        lambda lines: [*lines[:6], *(one | {"leaks": "eval"} for one in lines[6:])],
        "differ from those of other lines",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_paired_is_refused_with_a_plain_error(write, case, capsys):
    change, expected = REFUSED[case]
    a, b = both(write)
    lines = lines_of(b)
    assert main(["compare", a, write("c", change(lines))]) == 1
    said = capsys.readouterr()
    assert expected in said.err and not said.out and "Traceback" not in said.err
    assert len(said.err.strip().splitlines()) <= 3


def test_shared_compares_what_both_have(write, capsys):
    a, b = both(write)
    lines = lines_of(b)
    some = [lines[0] | {"acc": None}, *lines[1:-2]]
    rows, _ = compared(capsys, a, write("c", some), "--shared")
    assert rows.n.tolist() == [9]
    assert rows.difference[0] == pytest.approx(np.mean(B[1:-2]) - np.mean(A[1:-2]))


def test_files_of_two_tasks_and_other_paths_are_refused(write, capsys, tmp_path):
    a, _ = both(write)
    other = write("b", [line(0, acc=1.0)], "boolq")
    (tmp_path / "empty").mkdir()
    (tmp_path / "results_x.json").write_text('{\n "results": {}\n}')
    for second, expected in (
        (other, "is of the task piqa and"),
        (str(tmp_path / "none.jsonl"), "is not there"),
        (str(tmp_path / "empty"), "is a folder; a file, or two folders, were expected"),
        (str(tmp_path / "results_x.json"), "results_*.json has no items"),
    ):
        assert main(["compare", a, second]) == 1
        assert expected in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "empty"), str(tmp_path / "a")]) == 1
    assert "holds no samples_TASK_DATE.jsonl" in capsys.readouterr().err
    with pytest.raises(InvalidSamples, match="from several models"):
        write("c", [line(0, acc=1.0)])
        paired_files(tmp_path, tmp_path / "a")
    assert main(["compare", a, a, "--confidence", "95"]) == 1
    assert "a level between 0 and 1" in capsys.readouterr().err


def test_a_hostile_file_cannot_control_the_terminal(write, capsys):
    lines = [line(i, acc=1.0) | {"leaks": "\x1b]0;x\x07", "condition": "\x1b[2J"} for i in range(3)]
    file = write("a", lines)
    for form in ("text", "markdown", "latex", "csv"):
        assert main(["compare", file, file, "--format", form]) == 0
        printed = capsys.readouterr()
        assert "\x1b" not in printed.out + printed.err
        assert "LEAKS" in printed.out + printed.err


def test_equal_files_differ_in_nothing(write):
    path, _ = both(write)
    one = read_samples(Path(path))
    row = compare_samples({"t": (one, one)}).rows.iloc[0]
    assert (row.difference, row.p, row.only_a, row.only_b) == (0, 1, 0, 0)
    assert row.difference_low < 0 < row.difference_high


def test_a_name_with_line_ends_stays_in_its_cell_of_a_markdown_page():
    cells = pd.DataFrame({"task": ["a\n\n# A claim\n| b"]})
    lines = markdown(TextTables(cells, {"t\n# u": cells}, [], "")).splitlines()
    assert not [line for line in lines if line.startswith("#")]
