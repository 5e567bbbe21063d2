"""How a machine gets its programs: the start script, logins, and the image. No network."""

import os
import random
import shutil
import string
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import snakemake_executor_plugin_vast as plugin
from snakemake_executor_plugin_vast.driver import machines
from snakemake_executor_plugin_vast.machine import transport
from snakemake_executor_plugin_vast.market import vast
from snakemake_executor_plugin_vast.settings import SETUP, ExecutorSettings, check_image
from snakemake_interface_common.exceptions import WorkflowError
from vast_support.stand_ins import ManualClock

SITE = machines.Site(
    workdir="/study", image="i", setup=(), activate="", smoke="", sources=list, silent=1800,
    later=7200, longest=86400,
)  # fmt: skip
KEY = "ssh-ed25519 " + "A" * 68
LIMIT = 4048  # characters, by the documentation of Vast.ai


def start_script(workdir):
    site, control = replace(SITE, workdir=str(workdir)), vast.Vast("k").machine_control()
    return machines.start_script(site, KEY, control, ManualClock(), 30.0)


def long_path(folder, length):
    """A path that cannot be compressed well."""
    drawn = random.Random(length).choices(string.ascii_letters + string.digits, k=length)
    return Path(folder, *("".join(drawn[at : at + 200]) for at in range(0, length, 200)))


@pytest.fixture
def programs(tmp_path):
    """A function that writes shell scripts into a folder which is the PATH of a machine."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in (
        "sh",
        "bash",
        "cat",
        "grep",
        "mkdir",
        "rm",
        "touch",
        "timeout",
        "base64",
        "gunzip",
        "gzip",
    ):
        (folder / name).symlink_to(shutil.which(name))

    def write(**scripts):
        for name, text in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        return folder

    return write


def run(script, programs, home):
    """Run a shell script as a machine does, and return the standard error."""
    environment = {"PATH": str(programs), "HOME": str(home)}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, cwd=home
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


# ---- the start script ----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [10, 200, 600, 1000])
def test_a_start_script_of_any_length_arms_the_switch(tmp_path, programs, length):
    """Vast refuses a longer script, and so it is packed where that is needed."""
    workdir, home = long_path(tmp_path, length), tmp_path / "home"
    home.mkdir()
    script = start_script(workdir)
    assert len(script) <= LIMIT
    folder = programs(nohup=f'echo "$@" > {home}/started', rsync="")
    run(f"{script}\nwait", folder, home)
    jobs = workdir / ".snakemake/vast/jobs"
    for module in ("deadman", "machine_control"):
        compile((jobs / f"{module}.py").read_text(), module, "exec")
    assert KEY in (home / ".ssh/authorized_keys").read_text()
    assert (home / "started").read_text().startswith("python3 deadman.py .")


@pytest.mark.parametrize("before", ["", "ssh-rsa OTHER", "ssh-rsa OTHER\n"])
def test_the_start_script_adds_the_key_on_a_line_of_its_own(tmp_path, programs, before):
    """The service may leave authorized_keys without a newline at its end."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/authorized_keys").write_text(before)
    for _ in range(2):  # a machine runs it at each start
        run(start_script(tmp_path / "w"), programs(nohup="", rsync=""), tmp_path)
    keys = (tmp_path / ".ssh/authorized_keys").read_text().split("\n")
    assert [key for key in keys if key] == [*before.splitlines(), KEY]


def test_a_path_that_is_too_long_for_any_start_script_is_refused():
    with pytest.raises(ValueError, match=f"at most {LIMIT} were expected; nothing was rented"):
        start_script(long_path("/", 3900))


def apt_of(tmp_path, failures):
    """An apt-get that fails so many times and then installs rsync; it writes down its calls."""
    return f"""
echo "$@" >> {tmp_path}/apt
[ $(wc -l < {tmp_path}/apt) -gt {failures} ] || exit 100
case "$*" in *install*) echo > {tmp_path}/programs/rsync; chmod +x {tmp_path}/programs/rsync;; esac
"""


def test_an_image_with_rsync_calls_no_package_manager(tmp_path, programs):
    folder = programs(nohup="", rsync="", **{"apt-get": apt_of(tmp_path, 0)})
    run(start_script(tmp_path / "w"), folder, tmp_path)
    assert not (tmp_path / "apt").exists()


def test_apt_waits_for_its_lock_and_is_tried_again(tmp_path, programs):
    """On a machine that starts, another apt may hold the lock, and no name may resolve yet."""
    for name in ("wc", "chmod"):
        programs().joinpath(name).symlink_to(shutil.which(name))
    folder = programs(nohup="", sleep="", **{"apt-get": apt_of(tmp_path, 2)})
    run(start_script(tmp_path / "w"), folder, tmp_path)
    assert shutil.which("rsync", path=str(folder))
    calls = (tmp_path / "apt").read_text().splitlines()
    assert len(calls) == 4 and "DPkg::Lock::Timeout=" in calls[-1]
    run(machines.rsync_installed(str(tmp_path / "w/.snakemake/vast/jobs")), folder, tmp_path)


def test_an_apt_that_never_succeeds_is_given_up_and_the_machine_with_it(tmp_path, programs):
    """Else the driver would wait at the full price until the time for the setup is over."""
    bounded = 'echo "$3" > bound; shift 3; exec "$@"'
    over = "kill $PPID"  # where it would wait, the time is over
    programs().joinpath("timeout").unlink()
    folder = programs(nohup="", sleep=over, timeout=bounded, **{"apt-get": "exit 100"})
    workdir = tmp_path / "w"
    run(start_script(workdir), folder, tmp_path)
    jobs = workdir / ".snakemake/vast/jobs"
    assert 0 < float((jobs / "bound").read_text()) <= 600
    with pytest.raises(AssertionError, match="apt-get could not install rsync"):
        run(machines.rsync_installed(str(jobs)), folder, tmp_path)
    folder.joinpath("rsync").symlink_to(shutil.which("true"))
    run(start_script(workdir), folder, tmp_path)  # a machine runs it at each start
    run(machines.rsync_installed(str(jobs)), folder, tmp_path)


# ---- logins --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["/opt/conda/bin", "/venv/main/bin"])
def test_a_login_finds_the_python_of_the_image(tmp_path, monkeypatch, place):
    """Images with conda, and those of Vast, put it on a PATH that ssh sessions do not get."""
    root = tmp_path / "root"
    python = Path(f"{root}{place}/python3")
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho the image\n")
    python.chmod(0o755)
    ssh = tmp_path / "ssh"  # a session whose file system is below `root`
    ssh.write_text(f"""#!/bin/bash
text=${{@: -1}}
for folder in /opt/conda /venv/main; do text=${{text//$folder/{root}$folder}}; done
exec env -i PATH={tmp_path}/none /bin/sh -c "$text"
""")
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    keys = transport.Keyring(tmp_path / "keys")
    machine = transport.Transport(keys, "m", ("host", 22))
    assert machine.command("python3 --version") == "the image\n"
    keys.forget()


def test_the_setup_uses_the_packages_of_an_image_whose_python_is_in_an_environment(tmp_path):
    """A virtual environment made from another one does not see its packages, such as PyTorch."""
    image, made = tmp_path / "main", tmp_path / "made"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", image], check=True)
    (packages,) = image.glob("lib/python3*/site-packages")
    (packages / "pip").mkdir()
    (packages / "pip/__init__.py").touch()
    (packages / "pip/__main__.py").write_text("import sys; print(*sys.argv[1:])\n")
    setup = SETUP.format(environment=made, version="9.27.1")
    environment = {"PATH": f"{image}/bin:/bin", "PIP_NO_INDEX": "1"}
    done = subprocess.run(
        ["sh", "-c", setup], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "install -q snakemake==9.27.1\n"), done.stderr
    assert list(made.glob("lib/python3*/site-packages/image.pth"))


# ---- the image -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image",
    ["pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime", "host:5000/me/study:torch-2.13.0-cuda12.6"],
)
def test_an_image_with_another_pytorch_is_refused_before_anything_is_rented(
    tmp_path, monkeypatch, image
):
    """Else each machine would download gigabytes at full price, or run another version."""
    (tmp_path / "requirements-torch.txt").write_text("numpy==2.0\ntorch==2.12.1 \\\n    --hash=x\n")
    executor = object.__new__(plugin.Executor)
    executor.pool, executor.workdir, executor.settings = None, tmp_path, ExecutorSettings()
    executor.settings.image = image
    monkeypatch.setattr(plugin, "check_programs", lambda: None)
    with pytest.raises(WorkflowError, match=r"2\.13\.0, but requirements-torch\.txt pins 2\.12\.1"):
        executor._open_pool()
    assert executor.pool is None


@pytest.mark.parametrize(
    "image, pin",
    [
        ("pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime", "torch==2.13.0"),
        ("pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime", "torch==2.13.0+cpu"),
        ("pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime", "torch>=2.12"),
        ("nvidia/cuda:12.6.0-runtime", "torch==2.12.1"),
        ("me/study:latest", "torch==2.12.1"),
    ],
)
def test_an_image_that_may_have_the_pinned_pytorch_is_accepted(tmp_path, image, pin):
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow/requirements.txt").write_text(f"{pin}\n")
    check_image(image, tmp_path)
