"""The drill with its inputs and outputs in a bucket: `--default-storage-provider s3`."""

import json
import threading
from pathlib import Path

import pytest

from tests.fakes.vast import FakeVast, what_is_missing

from .drills import SCALE, Drill
from .test_faults import expected
from .test_whole import command_lines

pytest.importorskip("moto")
from tests.fakes.bucket import Bucket  # noqa: E402

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing() or ""),
]
TARGET = "results/evaluate/a.txt"  # two jobs with GPUs; of two without, one by the local lane


class Study(Drill):
    def __init__(self, fake, folder: Path, bucket: Bucket, **settings):
        super().__init__(fake, folder, **settings)
        self.bucket = bucket
        snakefile = self.folder / "Snakefile"
        snakefile.write_text(snakefile.read_text().replace("    items,\n", "", 1))

    def start(self, *arguments: str, **more):
        options = ["--default-storage-provider", "s3"]
        options += ["--default-storage-prefix", "s3://study/drill", TARGET]
        return super().start(*options, *arguments, environment=self.bucket.environment, **more)

    def said(self):
        return super().said() + self.streamed()


def test_all_is_in_the_bucket_and_nothing_here(tmp_path):
    with FakeVast(time_scale=SCALE) as fake, Bucket() as bucket:
        study = Study(fake, tmp_path / "drill", bucket)
        assert study.start("--verbose", "--printshellcmds").finish() == 0, study.said()
        print(study.said())
        print(bucket.names())
        print([str(p) for p in study.folder.rglob("*") if not ".git/" in str(p)])
        asked = len(fake.requests)
        assert study.start().finish() == 0
        assert "Nothing to be done" in study.said()
        assert len(fake.requests) == asked
