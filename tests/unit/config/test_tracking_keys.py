"""Promises of `tracking:`: what cannot be used is refused when the study is loaded."""

import pytest

from ablation.config import checks
from ablation.config.fields import TRACKERS
from ablation.config.load import load_study
from ablation.workflow.load import _for_jobs
from tests.support.refusals import refused


@pytest.fixture
def installed(monkeypatch):
    """Makes exactly the packages of the given trackers look installed."""

    def only(*names):
        monkeypatch.setattr(checks, "find_spec", lambda name: name in names or None)

    return only


def test_installed_trackers_reach_the_jobs(installed):
    installed(*TRACKERS)
    study = load_study({"tracking": list(TRACKERS)})
    assert study.tracking == list(TRACKERS)
    assert _for_jobs(study, {})["tracking"] == list(TRACKERS)
    assert load_study({}).tracking == []


def test_a_tracker_that_is_not_installed_is_refused_with_the_line_that_installs_it(
    installed, tmp_path
):
    installed("tensorboard")
    (line,) = refused(tmp_path, {"tracking": ["tensorboard", "wandb"]}).splitlines()[1:]
    assert "tracking[1]" in line and "wandb found, but its package is not installed" in line
    assert line.endswith('pip install --editable ".[wandb]"')


def test_a_machine_of_a_job_needs_no_tracker(installed):
    installed()
    assert load_study({"tracking": ["mlflow"]}, local=False).tracking == ["mlflow"]


@pytest.mark.parametrize(
    ("tracking", "message"),
    [
        (["tensorbord"], "did you mean `tensorboard`?"),
        (["wandb", "wandb"], "tracker wandb is named twice"),
        ("wandb", "list"),
        ([1], "1 found"),
    ],
)
def test_other_values_are_refused(installed, tmp_path, tracking, message):
    installed(*TRACKERS)
    (line,) = refused(tmp_path, {"tracking": tracking}).splitlines()[1:]
    assert "tracking" in line and message in line
