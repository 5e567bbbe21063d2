"""The micro study, reduced, on the fake Vast by the profile as it is shipped.

Its training loses three machines: two to higher bids, one to the host's end.
"""

import json

import pytest
import yaml
from fakes.vast import FakeVast, what_is_missing
from vast_support.workflows import SCALE, WorkflowFolder, command_lines

from ablation.training.checkpoints import complete_checkpoints
from tests.workflow.conftest import Checkout, copy_of_the_repository

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.study,
    pytest.mark.timeout(900),
    pytest.mark.xdist_group("micro_on_vast"),
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing() or ""),
]
# An hour of the fake is a minute. On a busy computer torch alone takes half of that to come up.
PATIENT = {"boot-minutes": 60, "lost-minutes": 40, "stall-minutes": 180, "idle-minutes": 40}
CONFIG = {
    "study": "small",
    "seeds": [1],
    "hardware": {"gpu": 1, "runtime": 900},
    "finetune": {"max_steps": 100, "log_steps": 5, "save_steps": 5, "eval_steps": 50}
    | {"stops": {"no_learning": None}},
    "recipes": {"3B": {"train_mask": "prefill_bidir"}},
    "evaluation": {"limit": 8},
}
TRAINED = "results/small/stage3_finetune/3B/seed1"
RENTED = {"stage1_baseline", "stage2_ablation", "stage3_finetune", "stage4_posteval"}


def small_study(folder) -> Checkout:
    """A clone with a small study, on machines whose GPUs cannot compute."""
    checkout = Checkout(copy_of_the_repository(folder))
    for name in ("evaluate", "finetune"):
        script = folder / f"workflow/scripts/{name}.py"
        text = script.read_text()
        assert 'config["hardware"]' in text
        script.write_text(text.replace('config["hardware"]', '{**config["hardware"], "gpu": 0}'))
    (folder / "small.yaml").write_text(yaml.safe_dump(CONFIG))
    return checkout


class Study(WorkflowFolder):
    study = "small"

    def saved(self) -> int:
        """The step at home that the training would go on from."""
        homes = (self.folder / "state/small").glob("3B-1-*")
        states = [state for home in homes for state in complete_checkpoints(home)]
        return max((int(state.name.rpartition("-")[2]) for state in states), default=0)

    def got_on(self) -> bool:
        """Whether it has saved more than when it was last preempted."""
        return self.saved() > max(self.preempted, default=0)

    def training_on(self):
        """The machine that the training runs on."""
        states = self.folder / "state/small"
        at = [i for i in self.fake.instances if any(i.machine.path(states).glob("3B-1-*"))]
        return at[-1]

    def attempts(self, rule: str) -> list[dict]:
        lines = [line for line in self.ledger() if line["what"] == "attempt"]
        return [line for line in lines if line["job"].startswith(rule)]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """One run of the study; what was seen of it from outside."""
    folder = tmp_path_factory.mktemp("clone")
    small_study(folder)
    with FakeVast(time_scale=SCALE, limits=False) as fake:
        activate = 'export PYTHONPATH="$PWD/src" HF_HUB_OFFLINE=1'
        study = Study(
            fake, folder, time_scale=SCALE, interruptible=True, lost_bids=2, activate=activate
        )
        study.settings |= PATIENT
        del study.settings["yes"]  # the profile's budget allows it
        study.launch("results/recovery.csv", "--profile", "vast", "--configfile", "small.yaml")
        study.preempted, study.seen = [], []
        try:
            for end in (fake.outbid, fake.outbid, fake.vanish):
                study.until(study.got_on, 240, "a state of the training")
                study.preempted.append(study.saved())
                study.seen += [command_lines(), json.dumps(fake.state())]
                end(study.training_on().id)
            assert study.finish(300) == 0, study.output()
        finally:
            study.process.kill()
        study.left = list(fake.instances)
        study.rented = [json.dumps(i.request) for i in fake.world.instances.values()]
    return study


def test_it_runs_to_its_table_and_no_machine_is_left(study):
    table = (study.folder / "results/recovery.csv").read_text()
    assert "prefill_bidir" in table and not study.left
    done = [line["job"] for line in study.attempts("") if line["why"] == "done"]
    assert {job.split()[0] for job in done} == RENTED  # the others ran here


def test_afterwards_nothing_is_to_be_done(study):
    assert Checkout(study.folder).stale(options=("--configfile", "small.yaml")) == set()


def test_the_training_goes_on_from_its_last_state_each_time(study):
    record = json.loads((study.folder / TRAINED / "run.json").read_text())
    assert len(record["resumes"]) == 3
    assert all(at >= saved for at, saved in zip(record["resumes"], study.preempted, strict=True))
    assert sorted(set(record["resumes"])) == record["resumes"]
    assert record["attempt"] == study.attempts("stage3_finetune")[-1]["attempt"]


def test_it_ends_with_the_weights_of_an_undisturbed_training(study, tmp_path):
    undisturbed = small_study(tmp_path)
    check = tmp_path / "src/ablation/workflow/load.py"  # that of GPUs, which this machine lacks
    text = check.read_text()
    assert "found = gpus_here(hardware.device)" in text
    check.write_text(text.replace("found = gpus_here(hardware.device)", "found = 1"))
    undisturbed.run("--configfile", "small.yaml", "--", f"{TRAINED}/manifest.json")
    model = f"{TRAINED}/model/model.safetensors"
    assert (study.folder / model).read_bytes() == (tmp_path / model).read_bytes()


def test_the_ledger_has_every_loss(study):
    attempts = study.attempts("stage3_finetune")
    assert [line["why"] for line in attempts] == ["outbid", "outbid", "offline", "done"]
    assert all(line["wasted"] > 0 for line in attempts[:3]) and attempts[3]["wasted"] == 0
    lines = study.ledger()
    ended = [line["label"] for line in lines if line["what"] == "end"]
    assert sorted(ended) == sorted(line["label"] for line in lines if line["what"] == "intend")


def test_the_key_is_nowhere(study):
    key = study.fake.key
    found = [p for p in study.folder.rglob("*") if p.is_file()]
    files = [p for p in found if not {".git", "tests"} & {*p.relative_to(study.folder).parts}]
    assert not [p for p in files if key.encode() in p.read_bytes()]
    assert not [text for text in (*study.seen, *study.rented) if key in text]
    assert any("onboard.py" in text for text in study.seen)  # jobs were seen
