"""Promises of runs whose results are in a storage: same fingerprints, no silent lack of files."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from ablation.provenance.run_records import GIT_STATE
from ablation.provenance.storage.bucket import STORAGE, Storage
from ablation.workflow.load import start
from ablation.workflow.storage import _look_for_folders_again

SENT: set[str] = set()  # variables that Snakemake sends to every machine
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    """`start` sets variables for jobs: after the test the environment is as it was."""
    before = dict(os.environ)
    monkeypatch.chdir(ROOT)
    yield
    os.environ.clear()
    os.environ.update(before)


def snakemake(provider=None, prefix=None, main=True, **settings):
    """The parts of Snakemake's workflow that the study reads."""

    def stored(query):  # as the plugins `fs` and `s3` name their copies
        suffix = query.removeprefix("s3://").removeprefix("/")
        return SimpleNamespace(local_path=lambda: Path(f".snakemake/storage/{provider}") / suffix)

    registry = SimpleNamespace(object=stored, settings=SimpleNamespace(**settings))
    return SimpleNamespace(
        storage_settings=SimpleNamespace(
            default_storage_provider=provider, default_storage_prefix=prefix
        ),
        storage_registry=SimpleNamespace(default_storage_provider=registry),
        is_main_process=main,
        register_envvars=lambda *names: SENT.update(names),
    )


def study(workflow, config=None):
    return start(dict(config or {}), ROOT / "rules", [], workflow)


@pytest.mark.parametrize(
    ("provider", "prefix", "copies"),
    [
        ("fs", "/mnt/store/", ".snakemake/storage/fs/mnt/store"),
        ("s3", "s3://bucket/ours", ".snakemake/storage/s3/bucket/ours"),
    ],
)
def test_scripts_learn_where_the_storage_and_its_copies_are(provider, prefix, copies):
    study(snakemake(provider, prefix))
    assert Storage.of_run() == Storage(prefix.rstrip("/"), str(ROOT / copies), {})
    assert "git_hash" in os.environ[GIT_STATE] and GIT_STATE in SENT


def test_a_storage_changes_no_fingerprint_and_only_inputs_that_it_lacks():
    here, there = study(snakemake()), study(snakemake("fs", "/mnt/store"))
    for stage, *names in (("stage1_baseline",), ("recovery",), ("stage4_posteval", "3B", 31)):
        assert here.fingerprints.text(stage, *names) == there.fingerprints.text(stage, *names)
    assert here.paths.base_weights == ["resources/micro/base"] and there.paths.base_weights == []
    assert here.paths.every_metrics == there.paths.every_metrics


def test_a_base_that_the_study_makes_comes_from_the_storage():
    there = study(snakemake("fs", "/mnt/store"), {"base": "pretrain", "study": "other"})
    assert there.paths.base_weights == ["results/other/base/pretrained/base"]


def test_scripts_open_the_bucket_with_the_settings_of_the_plugin(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of another bucket")
    own = {"access_key": "k", "secret_key": "s", "region": "eu-west-1", "endpoint_url": "http://x"}
    study(snakemake("s3", "s3://bucket/x", **own, token=None))
    driver = Storage.of_run().bucket("results").fs
    assert (driver.key, driver.secret, driver.token) == ("k", "s", None)
    assert (driver.endpoint_url, driver.client_kwargs["region_name"]) == ("http://x", "eu-west-1")
    assert os.environ["AWS_ACCESS_KEY_ID"] == "of another bucket"


def test_a_storage_without_a_driver_is_refused_before_any_job():
    with pytest.raises(SystemExit, match=r"nosuch://bucket/x cannot be opened") as ended:
        study(snakemake("nosuch", "nosuch://bucket/x"))
    assert "docs/clouds.md" in str(ended.value) and STORAGE not in os.environ


@pytest.mark.parametrize("prefix", ["folder", "../store", None])
def test_a_storage_must_have_a_name_that_every_machine_finds(prefix):
    with pytest.raises(SystemExit, match="no absolute path of a folder and no URL"):
        study(snakemake("fs", prefix))
    assert STORAGE not in os.environ


def test_a_machine_without_the_users_own_data_is_refused_before_its_job(tmp_path):
    there = snakemake("fs", "/mnt/store", main=False)
    with pytest.raises(SystemExit, match=r"base: models/mine is not on this machine"):
        study(there, {"study": "own", "base": "models/mine"})
    data = {"data_folder": str(tmp_path / "data")}
    with pytest.raises(SystemExit, match=r"data_folder: .* is not on this machine"):
        study(there, {"study": "own", "evaluation": data})


@pytest.mark.parametrize("base", ["/mnt/models/mine", "../mine"])
def test_a_model_outside_of_the_folder_of_the_run_is_refused(base):
    """Manifests name it by a relative path, which would differ from machine to machine."""
    with pytest.raises(SystemExit, match=r"base: .*mine is outside of the folder of the run"):
        study(snakemake("fs", "/mnt/store", main=False), {"study": "own", "base": base})


def test_a_folder_that_a_job_elsewhere_makes_is_seen():
    plugin = pytest.importorskip("snakemake_storage_plugin_s3", reason="in requirements-dev.txt")
    here = []

    class Stored(plugin.StorageObject):
        def __init__(self):
            self._is_dir = None

        def get_subkeys(self):
            return iter(here)

    _look_for_folders_again(Stored)
    model = Stored()
    assert not model.is_dir()
    here.append("model.safetensors")
    assert model.is_dir()
