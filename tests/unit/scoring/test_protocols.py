"""Promises of a study with tasks of both protocols: each is scored and tabulated as if alone."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ablation.analysis.conditions import Condition, per_task_table
from ablation.analysis.flips import flips_table
from ablation.analysis.metrics import study_metrics
from ablation.analysis.published import side_by_side
from ablation.analysis.recovery import study_tables, table
from ablation.report.text_tables import print_tables, recovery_tables
from ablation.scoring.evaluate import evaluate
from ablation.scoring.items import PROTOCOL_OPTIONS, Items
from ablation.vocabulary.metrics import METRICS
from ablation.vocabulary.protocols import metric_of, protocol_of, tasks_by_macro
from tests.support import benchmarks
from tests.support.settings import published_settings, recovery_settings
from tests.support.tiny import tiny_model, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[3]
TASKS = ROOT / "config/tasks"
STOCK = ["winogrande", "hellaswag", "arc_easy"]
PUBLISHED = [f"published_{name}" for name in STOCK]
CONFIG = recovery_settings()


# ---- names ---------------------------------------------------------------------------------------


def test_the_name_of_a_task_says_its_protocol_and_its_metric():
    assert protocol_of("published_piqa") == protocol_of("published_macro") == "published"
    assert protocol_of("piqa") == protocol_of("macro") == "lm_eval"
    assert metric_of("piqa", "acc_norm") == "acc_norm"
    assert metric_of("published_piqa", "acc_norm") == "acc_token"


def test_a_macro_is_of_one_protocol():
    assert tasks_by_macro(["b", "published_a", "a"]) == {
        "macro": ["b", "a"],
        "published_macro": ["published_a"],
    }
    assert (
        tasks_by_macro(["published_a"]) == {"published_macro": ["published_a"]}
        and tasks_by_macro([]) == {}
    )


# ---- scored --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def score(tmp_path_factory):
    torch.set_num_threads(1)
    copies = benchmarks.write_copies(tmp_path_factory.mktemp("copies"), odd=False)
    tokenizer = tiny_tokenizer()
    model = tiny_model("ministral3", vocabulary=len(tokenizer))

    def scored(tasks, limit=None):
        items = Items(tokenizer, tasks, TASKS, copies, limit)
        return evaluate(model, items, "prefill_bidir")

    return scored


def test_tasks_of_both_protocols_are_scored_as_if_alone(score):
    both = score([STOCK[0], *PUBLISHED, *STOCK[1:]])
    found = both.samples.set_index(["task", "doc_id", "choice"]).sort_index()
    alone = [score(tasks).samples for tasks in (STOCK, PUBLISHED)]
    expected = pd.concat(alone).set_index(["task", "doc_id", "choice"]).sort_index()
    pd.testing.assert_frame_equal(found, expected)
    rounded = found.loglikelihood != found.loglikelihood_float32
    assert not rounded[STOCK].any() and rounded[PUBLISHED].any()
    tasks = study_metrics(both.samples, both.facts)["tasks"]
    for macro, names in (("macro", STOCK), ("published_macro", PUBLISHED)):
        for metric in METRICS:
            mean = np.mean([tasks[name][metric] for name in names])
            assert tasks[macro][metric] == pytest.approx(mean, abs=1e-12)


def test_the_published_protocol_takes_its_own_number_of_items(score, monkeypatch):
    options = PROTOCOL_OPTIONS["published"]
    assert options.most_items == 500
    monkeypatch.setitem(PROTOCOL_OPTIONS, "published", options._replace(most_items=2))
    for limit, stock, published in ((None, 4, 2), (1, 1, 1), (3, 3, 2)):
        counts = score([*STOCK, *PUBLISHED], limit).samples.groupby("task").doc_id.nunique()
        assert set(counts[STOCK]) == {stock} and set(counts[PUBLISHED]) == {published}


# ---- tabulated -----------------------------------------------------------------------------------


def conditions(seed, tasks):
    """B, A and P of two seeds; every metric has items right of its own."""
    rng = np.random.default_rng(seed)

    def right():
        share = rng.uniform(0.3, 1)
        items = [f"item{i}" for i in range(80)]
        return {t: pd.Series((rng.random(80) < share).astype(int), items) for t in ALL}

    found = []
    for mask, recipe, s in [
        ("causal", None, None),
        ("prefill_bidir", None, None),
        *((mask, "3B", s) for mask in ("causal", "prefill_bidir") for s in (1, 2)),
    ]:
        correct = {m: {t: r for t, r in right().items() if t in tasks} for m in METRICS}
        name = f"{recipe}{s}{mask}"
        found.append(Condition("s", mask, recipe, s, False, False, {}, name, correct, {}))
    return found


ALL = [*STOCK, *PUBLISHED]


@pytest.mark.parametrize("seed", range(3))
def test_tables_of_both_are_those_of_each_one_below_the_other(seed):
    def frames(tasks, metric="acc"):
        used = conditions(seed, tasks)
        recovery, contrasts = study_tables(used, recovery_settings(metric=metric))
        return {
            "recovery": table(recovery),
            "per_task": per_task_table("t", used, metric, 0.95),
            "flips": flips_table("t", used, metric),
        }

    both, stock = frames(ALL), frames(STOCK)
    published = frames(PUBLISHED, "acc_token")  # what they are judged by, whatever the study says
    for name, frame in both.items():
        keys = [k for k in ("stage", "recipe", "seed", "mask", "task", "pattern") if k in frame]
        expected = pd.concat([stock[name], published[name]])
        assert not frame.duplicated(keys).any()
        pd.testing.assert_frame_equal(
            frame.astype({"seed": str}).sort_values(keys, ignore_index=True),
            expected.astype({"seed": str}).sort_values(keys, ignore_index=True),
            check_like=True,
        )
    assert set(both["recovery"].task) == {*ALL, "macro", "published_macro"}
    judged = dict(zip(both["per_task"].task, both["per_task"].metric, strict=True))
    assert judged == {task: metric_of(task, "acc") for task in (*ALL, "macro", "published_macro")}


def test_both_protocols_stand_beside_the_published_numbers_under_the_published_names():
    published = json.loads((ROOT / "resources/published/prefill.json").read_text())
    used = conditions(0, ALL)
    recovery = table(study_tables(used, CONFIG)[0]).astype({"seed": str})
    text = pd.read_csv(io.StringIO(recovery.to_csv(index=False)), dtype=str, keep_default_na=False)
    named = {"metric": "acc_norm", "model": "m"}
    frame = side_by_side(published, text, published_settings(named))
    ours = frame[frame.source == "ours"]
    assert set(ours.task) == {*STOCK, "macro"}
    assert not ours.duplicated(["protocol", "recipe", "seed", "mask", "task"]).any()
    metrics = dict(zip(ours.protocol, ours.metric, strict=True))
    assert metrics == {"lm_eval": "acc_norm", "published": "acc_token"}
    notes = dict(zip(ours.protocol, ours.note, strict=True))
    assert "protocol, metric, tasks" in notes["lm_eval"] and "other tasks" in notes["published"]


@pytest.mark.parametrize("tasks", [ALL, PUBLISHED])
def test_the_printed_table_shows_the_macro_of_each_protocol(tmp_path, tasks, capsys):
    used = [replace(c, circumstances={"dtype": "float32"}) for c in conditions(1, tasks)]
    file = tmp_path / "recovery.csv"
    table(study_tables(used, CONFIG)[0]).to_csv(file, index=False)
    print_tables(recovery_tables(file, "all", "macro"))
    assert "published_macro" in capsys.readouterr().out
