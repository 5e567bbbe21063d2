"""Promises of the figure of retrieval tasks: each accuracy stands at its length and place."""

import itertools
import json

import pandas as pd
import pytest

from ablation.data.needles import task_name
from ablation.report import figures
from ablation.report.charts import render

LENGTHS, POSITIONS = (1200, 4096), ("early", "late")


@pytest.fixture
def per_task():
    """A base and two seeds of a recipe under two masks; every accuracy occurs once."""
    models = [(None, None), ("3B", 1), ("3B", 2)]
    rows = [
        {
            **{"study": "s", "recipe": recipe, "seed": seed, "mask": mask, "n": 200},
            **{"train_leaks": False, "eval_leaks": mask == "full_bidir"},
            **{"task": task_name(tokens, position)},
        }
        for (recipe, seed), mask, tokens, position in itertools.product(
            models, ("causal", "full_bidir"), LENGTHS, POSITIONS
        )
    ]
    frame = pd.DataFrame(rows).astype({"seed": "Int64"})
    shares = [round(0.1 + 0.03 * number, 2) for number in range(len(frame))]
    frame = frame.assign(accuracy=shares)
    frame = frame.assign(accuracy_low=frame.accuracy - 0.05, accuracy_high=frame.accuracy + 0.05)
    other = frame.assign(task="micro_piqa", accuracy=0.999)
    return pd.concat([frame, other], ignore_index=True)


def test_every_accuracy_stands_in_the_panel_of_its_model_and_place_at_its_length(per_task):
    spec = figures.lengths(per_task).to_dict()
    drawn = {}
    for panel in spec["concat"]:
        names = {layer.get("data", panel.get("data", {})).get("name") for layer in panel["layer"]}
        for name in names - {None}:
            for row in spec["datasets"][name]:
                if "accuracy" in row:
                    drawn[row["accuracy"]] = (panel["title"], row["tokens"], row["mask_name"])
    expected = {
        row.accuracy: (
            f"{'base' if pd.isna(row.recipe) else row.recipe}: answer {row.task.split('_')[2]}",
            4096 if "4k" in row.task else 1200,
            row["mask"] + " (leaks)" * row.eval_leaks,
        )
        for _, row in per_task[per_task.task != "micro_piqa"].iterrows()
    }
    assert drawn == expected
    assert "Leaks: under this mask" in json.dumps(spec)


@pytest.mark.parametrize("suffix", [".svg", ".png", ".html"])
def test_it_is_drawn_in_every_form(per_task, suffix):
    assert len(render(figures.lengths(per_task), suffix)) > 10_000


def test_a_study_without_retrieval_tasks_has_an_empty_figure(per_task):
    rows = per_task[per_task.task == "micro_piqa"]
    assert "The table has no rows." in render(figures.lengths(rows), ".svg").decode()


def test_an_intervention_has_one_colour_though_not_every_model_was_scored_under_each(per_task):
    extra = [
        per_task[per_task.recipe.isna() | (name == "b")].assign(mask=name, eval_leaks=False)
        for name in ("a", "b")
    ]
    spec = figures.lengths(pd.concat(extra, ignore_index=True)).to_dict()
    scales = [panel["layer"][-1]["encoding"]["color"]["scale"] for panel in spec["concat"]]
    assert all(scale == scales[0] for scale in scales) and scales[0]["domain"] == ["a", "b"]
