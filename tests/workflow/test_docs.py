"""Promise: every command in README and docs does what its page says (make test-docs).

The README's run as a new user's would, in a fresh clone without results, with a model, records and
a task beside it. Those of the other pages find the micro study made. What a page cannot have here
it says itself, in marks (`tests/support/documented.py`).
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, Checkout, copy_of_the_repository

sys.path.insert(0, str(ROOT))
from tests.support import documented
from tests.support.tiny import tiny_model, tiny_tokenizer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

README, *REST = documented.pages()
OTHERS = [page for page in REST if any(not c.need or c.harmless for c in documented.commands(page))]
OWN_STUDY = "snakemake --cores all --quiet --configfile config/mine.yaml"
# What has to be done before a command, which its page does not show because its reader has done it.
BEFORE = {
    "ablation pull smollm2.zip": "rm -r results",  # the page says: in a fresh clone
    "ablation push study.zip": OWN_STUDY,
    "ablation publish hf://": OWN_STUDY,
    "ablation diff s3://": "ablation push s3://bucket/ours",
}
HARMLESS_NEEDS = ("gpu", "slurm", "vast", "minutes", "hours")  # a dry run needs none of these
KINDS = {"an apple": "a fruit", "a hawk": "a bird", "an oak": "a tree", "a trout": "a fish"}


def own_files(home: Path) -> None:
    """A model, finetuning records and the items of a task, as the README asks for them."""
    (home / "my-data").mkdir(parents=True)
    tiny_model("llama", vocabulary=320).save_pretrained(home / "my-model")
    tiny_tokenizer().save_pretrained(home / "my-model")
    draw = random.Random(1)
    drawn = [draw.choice([*KINDS]) for _ in range(200)]
    names = sorted(KINDS.values())
    records = [
        {"instruction": f"{n}. What is {t}?", "output": KINDS[t]} for n, t in enumerate(drawn)
    ]
    items = [{"question": f"{n}. What is {t}?", "choices": names, "answer": names.index(KINDS[t])}
             for n, t in enumerate(drawn[:80])]  # fmt: skip
    for name, rows in (("records", records), ("my_task", items)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (home / f"my-data/{name}.jsonl").write_text(text, encoding="utf-8")


def own_study(clone: Path, short: bool) -> None:
    """Write the files that the README shows. short: with few steps and one seed."""
    for name, text in documented.files(README).items():
        if short:
            text = text.replace("seeds: [1, 2, 3]", "seeds: [1]")
            text = text.replace("{max_steps: 300,", "{stops: {no_learning: null}, max_steps: 60,")
        (clone / name).write_text(text, encoding="utf-8")


class Reader:
    """A user who types the commands of a page, in a clone with packages and a home of their own."""

    def __init__(self, clone: Path, bucket: dict[str, str]):
        self.clone, home = clone, clone.parent / "home"
        environment = clone / ".venv"  # its packages are those of the tests, and it is up to date
        environment.mkdir()
        for entry in Path(sys.prefix).iterdir():
            if not entry.name.startswith(".ready"):
                (environment / entry.name).symlink_to(entry)
        for name in (".ready", ".ready-dev"):
            (environment / name).touch()
        (home / ".ssh").mkdir(parents=True)
        self.variables = Checkout(clone, preloaded=True)._environment("") | bucket
        self.variables |= {"HOME": str(home), "MAKEFLAGS": ""}
        self.variables["PATH"] = f"{environment / 'bin'}:{os.environ['PATH']}"
        self.do("git init -q && git add -A && git -c user.name=U -c user.email=u@example.org"
                " commit -qm first && git tag v1.0")  # fmt: skip

    def do(self, text: str) -> str:
        started = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", text], cwd=self.clone, env=self.variables, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
        )  # fmt: skip
        print(f"{time.monotonic() - started:7.1f} s  {text}", flush=True)
        assert done.returncode == 0, f"{text}\n{done.stdout[-6000:]}"
        assert "Traceback" not in done.stdout, done.stdout[-6000:]
        return done.stdout

    def follow(self, page: Path) -> dict[str, str]:
        """Run what can be run of the page's commands; {command: what it said}."""
        said = {}
        for name, text in documented.files(page).items() if page != README else ():
            (self.clone / name).write_text(text, encoding="utf-8")
        for command in documented.commands(page):
            if not command.need:
                for start, before in BEFORE.items():
                    if command.text.startswith(start):
                        self.do(before)
                said[command.text] = self.do(self.with_a_push(command.text))
            elif command.harmless and command.need in HARMLESS_NEEDS:
                said[command.text] = self.do(command.harmless)
        return said

    def with_a_push(self, text: str) -> str:
        """The text with the hash of a push of this run in place of the one of the page."""
        if "@3f2a" not in text:
            return text
        import boto3

        store = boto3.client("s3", endpoint_url=self.variables["AWS_ENDPOINT_URL"])
        pushed = store.list_objects_v2(Bucket="bucket", Prefix="ours/snapshots/")["Contents"][0]
        return text.replace("@3f2a", f"@{Path(pushed['Key']).stem[:8]}")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """An S3 server with one bucket, as variables of the environment."""
    import boto3
    from moto.server import ThreadedMotoServer

    keys = {
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in keys.items():
            patch.setenv(name, value)
        server = ThreadedMotoServer("127.0.0.1", port=0)
        server.start()
        url = "http://{}:{}".format(*server.get_host_and_port())
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket="bucket")
        yield keys | {"AWS_ENDPOINT_URL": url}
        server.stop()


def test_a_new_user_does_what_the_readme_says(tmp_path, bucket):
    own_files(tmp_path)
    clone = copy_of_the_repository(tmp_path / "clone")
    reader = Reader(clone, bucket)
    own_study(clone, short=False)
    said = reader.follow(README)
    demo = next(text for command, text in said.items() if command.startswith("make demo"))
    assert re.search(r"prefix-LM|3B", demo) and "report.html" in demo
    mine = pd.read_csv(clone / "results/mine/recovery.csv")
    found = mine[(mine.seed == "all") & (mine.recipe == "3B") & (mine["mask"] == "prefill_bidir")]
    assert set(found.task) == {"my_task", "macro"} and (found.control == "3A").all()
    assert (clone / "results/report.html").stat().st_size > 100_000


@pytest.mark.parametrize(
    "page", OTHERS, ids=[str(page.relative_to(ROOT)).replace("/", "_") for page in OTHERS]
)
def test_the_commands_of_a_page_run(page, tmp_path, micro, bucket):
    own_files(tmp_path)
    clone = Path(shutil.copytree(micro.folder, tmp_path / "clone", symlinks=True))
    reader = Reader(clone, bucket)
    own_study(clone, short=True)
    shutil.copytree(clone / "results", clone / "other/results", symlinks=True)
    (clone / "path/to").mkdir(parents=True)
    (clone / "path/to/checkpoint").symlink_to(clone / "resources/micro/base")
    home = tmp_path / "home"
    (home / "studies/mine").mkdir(parents=True)
    shutil.copy(clone / "config/mine.yaml", home / "studies/mine/study.yaml")
    for name, target in {"ablation": clone, "studies/my-model": tmp_path / "my-model"}.items():
        (home / name).symlink_to(target)
    (home / "studies/my-data").symlink_to(tmp_path / "my-data")
    key = home / ".ssh/id_ed25519"
    reader.do(f"ssh-keygen -q -t ed25519 -N '' -C u@example.org -f {key}")
    public = key.with_suffix(".pub").read_text(encoding="utf-8")
    (clone / "allowed_signers").write_text(f"u@example.org {public}", encoding="utf-8")
    reader.follow(page)
