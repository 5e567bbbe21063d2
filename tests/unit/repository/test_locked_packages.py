"""Promises of the lock files, and of everything that installs from them. No network."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from snakemake_executor_plugin_vast import ExecutorSettings

from tests.support.dockerfile import read_dockerfile

ROOT = Path(__file__).resolve().parents[3]
LOCKS = sorted(ROOT.glob("requirements*.txt"))
EVERYWHERE, CUDA, CPU, BUILD = (
    ROOT / f"requirements{more}.txt" for more in ("", "-torch", "-torch-cpu", "-build")
)


def as_pip_reads(file):
    """The requirements that pip parses from a file."""
    from pip._internal.network.session import PipSession
    from pip._internal.req.constructors import install_req_from_parsed_requirement
    from pip._internal.req.req_file import parse_requirements

    parsed = parse_requirements(str(file), session=PipSession())
    return [install_req_from_parsed_requirement(line) for line in parsed]


def versions(file):
    """{package: its versions} of a lock file."""
    found = {}
    for one in as_pip_reads(file):
        found.setdefault(one.req.name, set()).add(str(one.specifier).removeprefix("=="))
    return found


# ---- the lock files ------------------------------------------------------------------------------


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.name)
def test_every_package_is_pinned_and_hashed(file):
    """pip then refuses a package whose file is another one than at the time of `make lock`."""
    found = as_pip_reads(file)
    assert found and all(one.is_pinned and one.has_hash_options for one in found)
    assert "//" not in file.read_text(), "the addresses of registries are a matter of pip"


def test_torch_brings_no_package_without_a_hash():
    """Everything that the CUDA build needs is in its lock or in that of the other packages."""
    brought = versions(CUDA)
    assert {"torch", "triton", "nvidia-cudnn-cu13", "cuda-toolkit"} <= set(brought)
    assert not set(brought) & set(versions(EVERYWHERE))
    from importlib.metadata import requires

    needed = {re.split(r"[^\w.-]", line)[0].lower() for line in requires("torch") or ()}
    optional = {"optree", "opt-einsum", "pyyaml"}
    assert needed - optional <= set(brought) | set(versions(EVERYWHERE))


def test_both_builds_of_torch_have_the_same_version():
    (cuda,), (cpu,) = versions(CUDA)["torch"], versions(CPU)["torch"]
    assert cpu == f"{cuda}+cpu" and list(versions(CPU)) == ["torch"]
    assert f"torch=={cuda}\n" in (ROOT / "requirements-torch.in").read_text()


# ---- who installs them ---------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path):
    """A function that runs tools/install.sh, and returns what it asks pip to install.

    torch: the version that Python finds already.
    cpu: whether pip finds the locked CPU build.
    """
    folder = tmp_path / "checkout"
    for file in [*LOCKS, ROOT / "tools/install.sh"]:
        (folder / file.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / file.relative_to(ROOT))
    (folder / "packages/a-plugin").mkdir(parents=True)
    for name in ("pyproject.toml", "packages/a-plugin/pyproject.toml"):
        (folder / name).touch()

    def run(torch="", cpu=True, driver=False, command="sh tools/install.sh python3 -q"):
        programs = tmp_path / "programs"
        programs.mkdir(exist_ok=True)
        (tmp_path / "told").write_text("")
        (programs / "python3").write_text(f"""#!/bin/sh
case "$*" in
*getsitepackages*) echo {tmp_path} ;;
*sys.prefix*) echo {tmp_path}/prefix ;;
-c*) echo "$@" | grep -q "!= '{torch}'" ;;
*venv*) for last; do :; done; mkdir -p $last/bin && cp "$0" $last/bin/python ;;
*) echo "$@" >> {tmp_path}/told
   case "$*" in
   *-cpu.txt) {str(cpu).lower()} ;;
   *--target*) mkdir -p {tmp_path}/prefix/build-backend ;;
   esac ;;
esac
""")
        (programs / "python3").chmod(0o755)
        if driver:
            (programs / "nvidia-smi").symlink_to("/bin/true")
        environment = {"PATH": f"{programs}:/bin"}
        subprocess.run(["bash", "-c", command], check=True, cwd=folder, env=environment)
        told = (tmp_path / "told").read_text().splitlines()
        assert all(" install --no-deps -q " in line or "--quiet" in line for line in told)
        words = [re.sub(r".* (-q|--quiet) ", "", line) for line in told]
        return [re.sub(r"--target \S+", "--target FOLDER", line) for line in words]

    return run


BACKEND = f"--target FOLDER --require-hashes -r {BUILD.name}"
ALL = "--require-hashes -r requirements.txt"
OURS = [BACKEND] + [
    f"--no-build-isolation --editable {folder}" for folder in ("packages/a-plugin", ".")
]
CPU_LOCK, CUDA_LOCK = (f"--require-hashes -r {file.name}" for file in (CPU, CUDA))


@pytest.mark.parametrize(
    "facts, torch",
    [
        ({}, [CPU_LOCK]),
        ({"cpu": False}, [CPU_LOCK, CUDA_LOCK]),
        ({"driver": True}, [CUDA_LOCK]),
        ({"torch": "2.12.1", "driver": True}, [CUDA_LOCK]),
        ({"torch": "LOCKED", "driver": True}, []),
    ],
    ids=["CPU build", "no CPU build found", "driver", "another version", "of the image"],
)
def test_every_package_is_installed_by_its_hash(installed, facts, torch):
    if facts.get("torch") == "LOCKED":
        facts = facts | {"torch": versions(CUDA)["torch"].pop()}
    assert installed(**facts) == [*torch, ALL, *OURS]


def test_a_rented_machine_gets_the_locked_packages_and_this_repository(installed, tmp_path):
    profile = yaml.safe_load((ROOT / "profiles/vast/config.yaml").read_text())
    command = profile["vast-setup"].replace("/opt/snakemake", str(tmp_path / "env"))
    assert installed(driver=True, command=command) == [CUDA_LOCK, ALL, *OURS]


def test_the_build_backend_is_installed_once_and_again_when_its_lock_changes(installed, tmp_path):
    """A machine with an image that has it would otherwise need a package registry."""
    assert BACKEND in installed()
    assert BACKEND not in installed()
    with open(tmp_path / "checkout" / BUILD.name, "a") as lock:
        lock.write("# changed\n")
    assert BACKEND in installed()


def test_make_and_conda_install_what_is_locked(installed, tmp_path):
    makefile = (ROOT / "Makefile").read_text()
    assert "sh tools/install.sh $(BIN)/python 2> $(VENV)/install.log && " in makefile
    others = re.findall(r"^\t.*(?:\$\(PIP\)|pip install).*$", makefile, re.M)
    assert others and all("--require-hashes" in line for line in others)
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert all(isinstance(one, str) for one in conda["dependencies"]), "pip would install unhashed"
    script = (ROOT / "environment.post-deploy.sh").read_text().replace("python\n", "python3 -q\n")
    assert installed(command=script) == [CPU_LOCK, ALL, *OURS]


def test_conda_makes_a_new_environment_when_the_lock_changes():
    """Snakemake hashes the script, not what the script reads."""
    content = b"".join(file.read_bytes() for file in (EVERYWHERE, CUDA, CPU))
    script = (ROOT / "environment.post-deploy.sh").read_text()
    assert f"# lock {hashlib.sha256(content).hexdigest()}\n" in script, "run `make lock`"


# ---- the image -----------------------------------------------------------------------------------


def test_the_image_is_made_from_the_lock():
    steps = read_dockerfile(ROOT / "Dockerfile")
    defaults = dict(text.split("=", 1) for what, text in steps if what == "ARG" and "=" in text)
    profile = yaml.safe_load((ROOT / "profiles/vast/config.yaml").read_text())
    assert defaults["BASE"] == profile["vast-image"] == ExecutorSettings().image
    (version,) = versions(CUDA)["torch"]
    assert defaults["BASE"].startswith(f"pytorch/pytorch:{version}-cuda")
    assert set(re.findall(r"torch-([\d.]+)", (ROOT / "Dockerfile").read_text())) == {version}
    copied = " ".join(text for what, text in steps if what == "COPY").split()
    read = re.findall(r"-r (\S+\.txt)", (ROOT / "tools/install.sh").read_text())
    assert {*read, "tools/install.sh"} <= set(copied)


def test_the_image_runs_as_a_user_unless_a_market_logs_in_as_root():
    steps = read_dockerfile(ROOT / "Dockerfile")
    stages = [number for number, (what, _) in enumerate(steps) if what == "FROM"]
    assert steps[stages[0]][1].endswith(" AS machine") and steps[stages[-1]][1] == "machine"
    users = [(number, text) for number, (what, text) in enumerate(steps) if what == "USER"]
    assert [text for _, text in users] == ["ablation"] and users[0][0] > stages[-1]


def test_nothing_that_git_ignores_is_in_the_image():
    """Among it are keys (.env) and results."""
    ignored = (
        (ROOT / ".gitignore").read_text().replace("/results/*\n!/results/README.md", "/results/")
    )
    ignored = ignored.split()
    expected = {
        i.strip("/") if "/" in i.strip("/") or i[0] == "/" else f"**/{i.strip('/')}"
        for i in ignored
    }
    assert set((ROOT / ".dockerignore").read_text().split()) == expected | {".git"}
