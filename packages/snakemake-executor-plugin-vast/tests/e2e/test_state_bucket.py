"""The example with its files in a bucket (`--default-storage-provider s3`), and its states too."""

import json
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes.vast import FakeVast, what_is_missing
from vast_support.workflows import SCALE, ExampleWorkflow, command_lines, expected_report

pytest.importorskip("moto", reason="an S3 server of our own needs moto (dependency group `test`)")
pytest.importorskip("snakemake_storage_plugin_s3", reason="it is in the dependency group `test`")
from fakes.bucket import Bucket

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing() or ""),
]
TARGET = "results/evaluate/a.txt"  # two jobs with GPUs; of two without, one by the local lane
MADE = {
    *("results/words.txt", "results/items.txt", "results/train/a/model/weights"),
    *("results/train/a/summary.txt", TARGET, "logs/train-a.log", "logs/evaluate-a.tsv"),
}


@pytest.fixture
def fake():
    with FakeVast(time_scale=SCALE) as service:
        yield service


@pytest.fixture
def bucket():
    with Bucket() as service:
        yield service


class Study(ExampleWorkflow):
    """The first four rules of the example."""

    def __init__(self, fake, folder: Path, bucket: Bucket, **settings):
        super().__init__(fake, folder, **settings)
        self.bucket = bucket
        snakefile = self.folder / "Snakefile"
        snakefile.write_text(snakefile.read_text().replace("    items,\n", "", 1))

    def start(self, *arguments: str, config: tuple = ()):
        options = ["--default-storage-provider", "s3"]
        options += ["--default-storage-prefix", "s3://study/example", TARGET]
        # nothing may be found elsewhere than in the variables
        environment = {"AWS_EC2_METADATA_DISABLED": "true", **self.bucket.for_snakemake}
        if "state-uri" in self.settings:
            environment |= self.bucket.for_fsspec
        return super().start(*options, *arguments, config=config, environment=environment)

    def scored(self) -> str:
        return self.bucket.read(f"example/{TARGET}").split()[0]

    def written(self) -> list[Path]:
        found = [path for path in self.folder.rglob("*") if path.is_file()]
        return [path for path in found if path.relative_to(self.folder).parts[0] != ".git"]


@contextmanager
def watched(fake):
    """Command lines of this computer, and the fake's instances, again and again."""
    seen, over = [], threading.Event()

    def watch():
        while not over.wait(0.05):
            seen.extend((command_lines(), json.dumps(fake.state())))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def assert_secret(study: Study, seen: list[str]) -> None:
    for secret in (study.bucket.key, study.bucket.secret):
        assert not [path for path in study.written() if secret.encode() in path.read_bytes()]
        assert not [text for text in seen if secret in text]


def no_output_is_here(study: Study) -> bool:
    here = {path.name for path in study.written()}
    return not here & {Path(name).name for name in MADE}


def test_files_go_to_the_bucket_and_its_key_nowhere(fake, bucket, tmp_path):
    study = Study(fake, tmp_path / "example", bucket)
    with watched(fake) as seen:
        code = study.start("--verbose", "--printshellcmds").finish()
    assert code == 0, study.output()
    assert any("onboard.py" in text for text in seen), "nothing was watched"
    assert bucket.names("example/") >= MADE and expected_report().startswith(study.scored())
    assert no_output_is_here(study) and not fake.instances
    asked = len(fake.requests)
    assert study.start().finish() == 0
    assert "Nothing to be done" in study.output() and len(fake.requests) == asked
    assert_secret(study, seen)


def test_a_lost_machine_costs_nothing_that_the_bucket_holds(fake, bucket, tmp_path):
    pytest.importorskip("s3fs", reason="it is in the dependency group `test`")
    study = Study(fake, tmp_path / "example", bucket, state_uri="s3://study/states")
    with watched(fake) as seen:
        study.start(config=("seconds=0.8",))  # it must not end before a state is saved
        study.until(lambda: seals(bucket), 150, "a state in the bucket")
        [saved] = seals(bucket)[:1]
        [instance] = fake.instances
        fake.vanish(instance.id, silently=True)
        assert study.finish() == 0, study.output()
    assert any("bucket.py" in text for text in seen), "no save was seen"
    assert expected_report().startswith(study.scored()) and not fake.instances
    resumed = [log for log in study.logs() if "resumed at" in log.read_text()]
    assert len(resumed) == 1 and f"step {saved}\n" not in resumed[0].read_text()
    assert not bucket.names("states/"), "a state that nobody needs is left"
    assert no_output_is_here(study) and not any((study.folder / "state").rglob("complete"))
    assert len(fake.calls("create")) == 2
    assert_secret(study, seen)


def seals(bucket: Bucket) -> list[int]:
    """The steps whose states are whole in the bucket."""
    names = bucket.names("states/state/a/checkpoint-")
    return sorted(int(n.partition("/")[0]) for n in names if n.endswith("/complete"))
