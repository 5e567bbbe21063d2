"""One real micro study, run once, that the workflow tests look at and push around."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from tests import preloaded
from tests.dry_run import dry_run

ROOT = Path(__file__).resolve().parents[2]
# `make test-study` makes the study with all of its seeds, `make test` with the first one.
SEEDS = ["31", "32", "33"] if os.environ.get("ABLATION_STUDY") == "whole" else ["31"]


# The recipes that choose families of records.
OWN_RECORDS = ["3B-open", "3B-no-hellaswag-piqa", "3B-no-challenge-winogrande"]
OWN_RECORDS = OWN_RECORDS if len(SEEDS) > 1 else []  # in `make test`: test_any_model.py


def copy_of_the_repository(folder: Path) -> Path:
    """What a fresh clone would hold: tracked files and new ones that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() or (
            ROOT / name
        ).is_symlink():  # profiles are linked from the root
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


def spent() -> float:
    """Processor seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@dataclass
class Checkout:
    """A copy of the repository in which Snakemake runs as a user would run it.

    preloaded: jobs run in forks of a process that has imported torch.
    """

    folder: Path
    seconds: float = 0.0  # of processor, of what `make` or `run` last started
    preloaded: bool = False  # not counted in `seconds`

    def _environment(self, path: str) -> dict[str, str]:
        search = filter(None, [path, str(self.folder / "src"), preloaded.START])
        cache = os.environ.get("HF_HUB_CACHE", "")
        server = {preloaded.VARIABLE: preloaded.servers(cache)} if self.preloaded else {}
        return os.environ | preloaded.OFFLINE | {"PYTHONPATH": os.pathsep.join(search)} | server

    def _call(self, command: list[str], path: str):
        environment = self._environment(path)
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )

    def snakemake(self, *arguments: str, path: str = "", check: bool = True):
        if arguments[0] == "-n":
            done = dry_run(arguments, self.folder, self._environment(path))
        else:
            done = self._call([sys.executable, "-m", "snakemake", *arguments], path)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def python(self, *arguments: str, check: bool = True):
        done = self._call([sys.executable, *arguments], "")
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def ablation(self, *arguments: str, check: bool = True):
        return self.python("-m", "ablation", *arguments, check=check)

    def make(self, target: str):
        """A target of the Makefile, with the environment that the tests themselves run in."""
        environment = Path(sys.prefix)
        started = spent()
        done = self._call(
            ["make", "-o", f"{environment}/.ready", target, f"VENV={environment}"], ""
        )
        self.seconds = spent() - started
        return done

    def run(self, *arguments: str):
        started = spent()
        done = self.snakemake("--cores", "2", *arguments)
        self.seconds = spent() - started
        return done

    def stale(self, *targets: str, options: tuple[str, ...] = (), path: str = "") -> set[str]:
        """The rules of a dry run; those of stages 3 to 5 as `rule:recipe`."""
        arguments = ["-n", *(targets or ("results/recovery.csv",)), *options]
        text = self.snakemake(*arguments, path=path).stdout
        if "Job stats:" not in text:
            assert "Nothing to be done" in text, text
            return set()
        counted = text.split("Job stats:")[1].split("total")[0]
        rules = set(re.findall(r"^(\w+) +\d+$", counted, re.M))
        for stage, verb, rule in (
            (3, "finetuning", "stage3_finetune"),
            (4, "scoring", "stage4_posteval"),
            (5, "finetuning", "stage5_longrun"),
            (5, "scoring", "stage5_posteval"),
        ):
            recipes = set(re.findall(rf"^Job \d+: Stage {stage}: {verb} ([\w-]+),", text, re.M))
            assert (rule in rules) == bool(recipes), text
            rules = rules - {rule} | {f"{rule}:{recipe}" for recipe in recipes}
        return rules


def shorten_stage_5(folder: Path) -> None:
    """One long run of some steps instead of three of hundreds; stages 1 to 4 stay as shipped."""
    file = folder / "config/default.yaml"
    text, cut = re.subn(r"^  5B:.*?(?=^$)", "", file.read_text(), flags=re.S | re.M)
    assert cut == 1 and "  5A:" in text and "  5C:" not in text
    for old, new in {
        "max_steps: 600": "max_steps: 60",  # 5A
        "eval_steps: 20": "eval_steps: 10",
        "eval_samples: 80": "eval_samples: 20",
        "min_steps: 60": "min_steps: 20",
        "stops: {plateau": "stops: {no_learning: null, plateau",  # judged from step 150 on
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file.write_text(text)


def one_seed(folder: Path) -> None:
    """The first seed alone, fewer recipes, steps and items: what most promises need."""
    file = folder / "config/default.yaml"
    text, cut = re.subn(r"^seeds: \[31, 32, 33\]", "seeds: [31]", file.read_text(), flags=re.M)
    assert cut == 1
    for old, new in {
        "max_steps: 250": "max_steps: 120",
        "after_steps: 150": "after_steps: 120",  # of no_learning
        "eval_samples: 100": "eval_samples: 20",
        "count: 300}": "count: 120}",
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    for name in ("3B-open", "3B-no-hellaswag-piqa", "3B-no-challenge-winogrande"):
        text, cut = re.subn(rf"^  {name}:.*\n(    .*\n)*", "", text, flags=re.M)
        assert cut == 1
    file.write_text(text)


def _make_micro(folder: Path) -> None:
    checkout = Checkout(copy_of_the_repository(folder / "study"), preloaded=len(SEEDS) == 1)
    shorten_stage_5(checkout.folder)
    if len(SEEDS) == 1:
        one_seed(checkout.folder)
    done = checkout.make("study")
    said = {"returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    (folder / "said.json").write_text(json.dumps(said))


@pytest.fixture(scope="session")
def micro(tmp_path_factory) -> Checkout:
    """The micro study as `make study` makes it in a clean folder, with SEEDS and a short stage 5.

    The worker that asks first makes it; each works on a copy of its own.
    """
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made"
    with FileLock(f"{made}.lock"):
        if not (made / "said.json").exists():
            _make_micro(made)
    said = json.loads((made / "said.json").read_text())
    assert said["returncode"] == 0, said["stdout"] + said["stderr"]
    folder = tmp_path_factory.mktemp("micro") / "study"
    checkout = Checkout(shutil.copytree(made / "study", folder, symlinks=True), preloaded=True)
    checkout.said = said
    return checkout
