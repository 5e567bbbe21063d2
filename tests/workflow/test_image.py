"""The images of Dockerfile and apptainer.def, made in copies of this machine's file system.

Neither Docker nor Apptainer is needed: an overlay in memory takes everything that the steps write.
The base image is this machine, with its Python, and pip takes packages from the registry that it is
configured for.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.support.apptainer import read_definition
from tests.support.dockerfile import read_dockerfile
from tests.workflow.conftest import copy_of_the_repository

ROOT = Path(__file__).resolve().parents[2]
PATH = f"{sys.base_prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MOUNT = """
set -e
mount -t tmpfs -o size=8g upper "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
mount --rbind /proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
chmod a+x "$1/root/root"  # this machine's Python may be there
echo mounted
exec cat
"""


def what_is_missing() -> str | None:
    """Why no copy of this machine can be made here, or None."""
    if os.geteuid() != 0 or sys.platform != "linux":
        return "needs root on Linux, for mounts of its own"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "needs overlay file systems, which this kernel does not have"
    return None


pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing() or ""),
]


class Image:
    """The file system of an image, and what its Dockerfile has said so far."""

    def __init__(self, place: Path, keeper: subprocess.Popen):
        self.place, self.keeper = place, keeper
        self.user, self.folder, self.command = "root", "/", []
        self.variables = {"PATH": PATH, "HOME": "/root"}
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        self.variables |= pip

    def path(self, inside: str) -> Path:
        """The file `inside` the image, seen from here."""
        return Path(f"/proc/{self.keeper.pid}/root{self.place}/root", inside.lstrip("/"))

    def run(self, text: str, *before: str, user: str = "") -> str:
        """Run a shell command as a step does, and return what it prints."""
        enter = ["nsenter", f"--mount=/proc/{self.keeper.pid}/ns/mnt"]
        enter += [*before, "chroot", f"--userspec={user or self.user}", f"{self.place}/root"]
        shell = ["sh", "-c", f"cd {self.folder} && {text}"]
        done = subprocess.run([*enter, *shell], env=self.variables, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def make(self, dockerfile: Path, context: Path) -> None:
        """Carry out all steps of a Dockerfile on the files in `context`."""
        for what, text in read_dockerfile(dockerfile):
            if what == "RUN":
                self.run(text)
            elif what == "COPY":
                *sources, target = [word for word in text.split() if word[:2] != "--"]
                self.copy([context / source for source in sources], f"{self.folder}/{target}")
                if owner := text.partition("--chown=")[2]:
                    self.run(f"chown -R {owner.split()[0]} {self.folder}")
            elif what == "WORKDIR":
                self.folder = text
                self.path(text).mkdir(parents=True, exist_ok=True)
            elif what == "ENV":
                name, _, value = text.partition("=")
                self.variables[name] = value.replace(f"${name}", self.variables.get(name, ""))
            elif what == "USER":
                self.user, self.variables["HOME"] = text, f"/home/{text}"
            elif what == "CMD":
                self.command = yaml.safe_load(text)

    def make_by_apptainer(self, definition: Path, context: Path) -> None:
        """Carry out all steps of a definition file on the files in `context`."""
        steps = read_definition(definition)
        for line in steps["files"].splitlines():
            *sources, target = line.split()
            for source in map(context.joinpath, sources):
                into = f"{target}/{source.name}" if source.is_dir() else target
                self.copy([source], into)
        self.run(f"set -e\n{steps['post']}")
        name, _, value = steps["environment"].removeprefix("export ").partition("=")
        self.variables[name] = value.replace(f"${name}", self.variables.get(name, ""))
        self.run(steps["test"])
        self.command = ["sh", "-c", steps["runscript"], "sh"]

    def copy(self, sources: list[Path], target: str) -> None:
        self.path(target).mkdir(parents=True, exist_ok=True)
        for source in sources:
            if source.is_dir():
                shutil.copytree(source, self.path(target), symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy(source, self.path(target))


@contextmanager
def clean_root(make: Callable, tmp_path_factory):
    """An image that `make` has made of the repository; its mounts end with the block."""
    place, context = tmp_path_factory.mktemp("image"), tmp_path_factory.mktemp("context")
    copy_of_the_repository(context)
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", MOUNT, "sh", str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as keeper:
        assert keeper.stdout.readline() == "mounted\n"
        made = Image(place, keeper)
        make(made, context)
        yield made
        keeper.stdin.close()


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    with clean_root(lambda i, files: i.make(ROOT / "Dockerfile", files), tmp_path_factory) as made:
        yield made


@pytest.fixture
def apptainer(tmp_path_factory):
    definition = ROOT / "apptainer.def"
    with clean_root(
        lambda i, files: i.make_by_apptainer(definition, files), tmp_path_factory
    ) as made:
        yield made


def test_the_image_has_every_locked_package(image):
    freeze = image.run("/opt/snakemake/bin/python -m pip freeze --all --exclude-editable")
    installed = {line.replace("_", "-").lower() for line in freeze.splitlines()}
    locked = (ROOT / "requirements.txt").read_text().splitlines()
    pins = {line.rstrip(" \\") for line in locked if "==" in line and ";" not in line}
    assert len(pins) > 100 and pins <= installed
    torch = (ROOT / "requirements-torch.in").read_text().split()[-1]
    assert any(line.partition("+")[0] == torch for line in installed)


def test_the_image_runs_the_study_as_a_user(image):
    assert image.user == "ablation" and image.run("id -un").strip() == "ablation"
    assert "total" in image.run(" ".join([*image.command, "--dry-run", "--quiet", "rules"]))
    image.run("ablation --help")
    image.run("touch results-can-be-written")


def test_a_machine_with_the_image_is_set_up_without_a_network(image):
    """Then the paid time of a machine begins with its first job."""
    profile = yaml.safe_load((ROOT / "profiles/vast/config.yaml").read_text())
    image.run(profile["vast-setup"], "unshare", "--net", user="root")


def test_the_image_of_apptainer_runs_the_demo_in_the_folder_of_the_call(apptainer):
    """As any user of the machine, who can write nowhere in the image."""
    apptainer.run("mkdir -m 777 /tmp/called")
    apptainer.folder, apptainer.variables["HOME"] = "/tmp/called", "/tmp/called"
    arguments = ["--configfile", "/opt/ablation/config/demo.yaml"]
    target = "results/demo/stage1_baseline/metrics.json"
    apptainer.run(shlex.join([*apptainer.command, "--dry-run"]), user="nobody:nogroup")
    command = shlex.join([*apptainer.command, *arguments, "--", target])
    apptainer.run(command, user="nobody:nogroup")
    assert apptainer.path(f"/tmp/called/{target}").is_file()


def test_this_machine_is_as_before(image):
    assert image.path("/opt/snakemake/bin/snakemake").exists()
    made = ("/opt/snakemake", "/opt/lock", "/opt/ablation", "/study", "/home/ablation")
    assert not [place for place in made if Path(place).exists()]
