"""Promises of trackers, with the real packages, without a network.

They are installed into an environment of its own (`make test-trackers`, with a package registry).
TRACKERS_PYTHON names the Python of one that is there already.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tracked_training import FINGERPRINT, MANIFEST

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ["tensorboard", "trackio", "wandb", "mlflow-skinny"]
EVERY = "tensorboard,trackio,wandb,mlflow"
KEY, PASSWORD = "0123456789abcdef" * 2 + "01234567", "hunter2-of-mlflow"
pytestmark = pytest.mark.e2e

READ = """
import glob, json, sqlite3, sys
from pathlib import Path
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found, home = {}, Path("logs/mine/tracking")
(folder,) = home.glob("tensorboard/3B/seed1/*")
events = EventAccumulator(str(folder)).Reload()
def text(tag):
    return events.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode()
found["tensorboard"] = {"steps": [s.step for s in events.Scalars("train/loss")],
    "manifest": text("ablation.manifest"), "fingerprint": text("ablation.fingerprint")}
import mlflow
mlflow.set_tracking_uri((home / "mlflow").absolute().as_uri())
(run,) = mlflow.search_runs(experiment_names=["mine"], output_format="list")
history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
found["mlflow"] = {"steps": sorted({m.step for m in history}), "name": run.info.run_name,
    "manifest": run.data.tags["ablation.manifest"],
    "fingerprint": run.data.tags["ablation.fingerprint"]}
rows = sqlite3.connect(home / "trackio/mine.db").execute("select run_name, metrics from metrics")
rows = [(name, json.loads(values)) for name, values in rows]
(config,) = sqlite3.connect(home / "trackio/mine.db").execute("select config from configs limit 1")
config = json.loads(config[0])
found["trackio"] = {"steps": sorted({r["train/global_step"] for _, r in rows if "train/loss" in r}),
    "runs": len({name for name, _ in rows}), "name": rows[0][0],
    "manifest": config["ablation.manifest"], "fingerprint": config["ablation.fingerprint"]}
files = sorted(home.glob("wandb/offline-run-*/*.wandb"))
held = b"".join(f.read_bytes() for f in files)
found["wandb"] = {"parts": len(files), "ids": len({f.name for f in files}),
    "holds": [w for w in sys.argv[1:] if w.encode() in held]}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of the environment, which also has the packages of this one."""
    if given := os.environ.get("TRACKERS_PYTHON"):
        return given
    home = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    others = [path for path in sys.path if Path(path).name == "site-packages"]
    here = [*map(str, ROOT.glob("packages/*/src")), *others]
    (site / "here.pth").write_text("\n".join([str(ROOT / "src"), *here]))
    subprocess.run([home / "bin/pip", "install", "--quiet", *PACKAGES], check=True)
    return str(home / "bin/python")


def run(python, folder, *command, **variables):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "MLFLOW"))}
    environment = inherited | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run(
        [python, *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def train(python, folder, **variables):
    return run(python, folder, "-m", "tests.support.tracked_training", ".", EVERY, **variables)


def holding(folder, *texts):
    """The files below `folder` that hold one of `texts`."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files for text in texts if text.encode() in path.read_bytes()]


def test_every_tracker_has_one_run_of_a_resumed_training_and_the_result_its_bytes(python, tmp_path):
    done = train(python, tmp_path)
    made = json.loads(done.stdout.splitlines()[-1])["made"]
    assert made["plain"] == made["tracked"]
    assert "records nothing more" not in done.stderr and "left behind" not in done.stderr
    expected = ["train/loss", MANIFEST, FINGERPRINT, "mine/3B/seed1"]
    read = run(python, tmp_path, "-c", READ, *expected, MLFLOW_ALLOW_FILE_STORE="true")
    found = json.loads(read.stdout.splitlines()[-1])
    for tracker in ("tensorboard", "mlflow", "trackio"):
        assert found[tracker]["steps"] == list(range(1, 9)), tracker
        assert found[tracker]["manifest"] == MANIFEST, tracker
        assert found[tracker]["fingerprint"] == FINGERPRINT, tracker
    assert found["mlflow"]["name"] == "mine/3B/seed1"
    assert found["trackio"]["runs"] == 1 and found["trackio"]["name"].startswith("mine/3B/seed1 ")
    # wandb cannot resume offline: two parts with one id, which `wandb sync` puts together.
    assert found["wandb"] == {"parts": 2, "ids": 1, "holds": expected}
    assert {p.name for p in tmp_path.iterdir()} <= {"data.jsonl", "logs", "plain", "tracked"}


def test_broken_trackers_change_nothing_and_say_no_secret(python, tmp_path):
    blocked = tmp_path / "logs/mine/tracking/tensorboard"
    blocked.parent.mkdir(parents=True)
    blocked.touch()  # a file where folders are needed
    done = train(
        python,
        tmp_path,
        TRACKIO_DIR=str(blocked),
        MLFLOW_TRACKING_URI=f"http://me:{PASSWORD}@127.0.0.1:9",
        WANDB_BASE_URL="http://127.0.0.1:9",
        WANDB_API_KEY=KEY,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["made"]["plain"] == told["made"]["tracked"]
    assert told["seconds"]["tracked"] < 2 * 30 + told["seconds"]["plain"] + 20
    for tracker in ("tensorboard", "mlflow", "wandb"):
        assert f"3B seed 1: {tracker} records nothing more" in done.stderr
    assert KEY not in done.stdout + done.stderr and PASSWORD not in done.stdout + done.stderr
    assert not holding(tmp_path, KEY, PASSWORD)


def test_an_offline_run_holds_no_key(python, tmp_path):
    train(python, tmp_path, WANDB_MODE="offline", WANDB_API_KEY=KEY)
    assert list(tmp_path.glob("logs/mine/tracking/wandb/offline-run-*"))
    assert not holding(tmp_path, KEY)
