"""Promise: an interrupted job says in three lines what happened, what is kept and how to go on."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ablation.console.progress import copy_output_to
from ablation.provenance.endings import told_in_three_lines
from ablation.training.checkpoints import claimed

ENDINGS = {
    "Ctrl-C": (KeyboardInterrupt, (), "stopped by Ctrl-C"),
    "full disk": (OSError, (errno.ENOSPC, "No space left on device"), "the disk is full"),
    "quota": (OSError, (errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
    "full disk in torch": (RuntimeError, ("PytorchStreamWriter failed",), "the disk is full"),
    "GPU": (
        torch.OutOfMemoryError,
        ("CUDA out of memory.\nMore",),
        "the GPU has too little memory",
    ),
    "memory": (MemoryError, (), "this machine has too little memory"),
}


@pytest.mark.parametrize(("kind", "found", "told"), ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("saved", [0, 150])
def test_an_ending_in_three_lines(tmp_path, kind, found, told, saved):
    home = tmp_path / "state"
    if saved:
        (home / f"checkpoint-{saved}").mkdir(parents=True)
        (home / f"checkpoint-{saved}/complete").touch()
    with (
        pytest.raises(SystemExit) as ended,
        copy_output_to(str(tmp_path / "log")),
        told_in_three_lines("stage3_finetune"),
        claimed(home),
    ):
        raise kind(*found)
    lines = ended.value.code.splitlines()
    assert len(lines) == 3 and lines[0].startswith(f"stage3_finetune: {told}")
    assert (f"kept up to step {saved}" if saved else "No step") in lines[1]
    assert lines[2].endswith("The same command goes on.")
    assert (tmp_path / "log").read_text() == ended.value.code + "\n"  # no traceback


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has this full disk")
@pytest.mark.parametrize("weights", [10, 10**6])
def test_torch_saves_to_a_full_disk(weights):
    with pytest.raises(SystemExit, match="the disk is full"), told_in_three_lines("base"):
        torch.save({"weight": torch.zeros(weights)}, "/dev/full")


@pytest.mark.parametrize(
    "error",
    [ValueError("a mistake"), TypeError("f() got an unexpected positional argument")],
)
def test_errors_of_the_code_keep_their_traceback(error):
    with pytest.raises(type(error)) as found, told_in_three_lines("base"):
        raise error
    assert found.value is error


INTERRUPTED = """
import sys
from ablation.console.progress import copy_output_to
from ablation.provenance.endings import told_in_three_lines
with copy_output_to(sys.argv[1]), told_in_three_lines("base"):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_ctrl_c_in_a_process_prints_no_traceback(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "log")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as job:
        assert job.stdout.readline() == "ready\n"
        job.send_signal(signal.SIGINT)
        error = job.stderr.read()
    assert job.returncode == 1 and len(error.splitlines()) == 3
    assert "base: stopped by Ctrl-C" in error and "Traceback" not in error


STOPPED_TWICE = """
import os, signal, sys
from contextlib import contextmanager
from ablation.console.progress import copy_output_to
from ablation.provenance.endings import told_in_three_lines

@contextmanager
def ended_by_its_snakemake():
    try:
        yield
    finally:
        os.kill(os.getpid(), signal.SIGTERM)

with copy_output_to(sys.argv[1]), ended_by_its_snakemake(), told_in_three_lines("base"):
    os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_second_signal_does_not_cut_off_the_message_of_the_first(tmp_path):
    """A job that a person runs by hand gets Ctrl-C, and its scheduler may send SIGTERM as well."""
    log = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", STOPPED_TWICE, str(log)], capture_output=True)
    lines = log.read_text().splitlines()
    assert done.returncode == 1 and len(lines) == 3 and "stopped by Ctrl-C" in lines[0]


DROPPED = """
import os, signal, sys, time
from ablation.provenance.endings import told_in_three_lines

class Leaf:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(10):
            pass

with told_in_three_lines("base"):
    Leaf()  # Python writes that it ignores the error, and goes on
    print("goes on", flush=True)
    time.sleep(60)
"""


def test_a_stop_that_python_drops_comes_again():
    """As in a training on a GPU, which went on for 20 s and was killed then."""
    done = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True)
    assert done.stdout == "goes on\n" and "Exception ignored in" in done.stderr
    assert done.returncode == 1 and "base: stopped by SIGTERM" in done.stderr.splitlines()[-3]


ON_A_GPU = """
import os, signal, sys
from types import ModuleType, SimpleNamespace
from ablation.provenance.endings import told_in_three_lines

torch = sys.modules["torch"] = ModuleType("torch")
torch.cuda = SimpleNamespace(
    is_initialized=lambda: True, synchronize=lambda: print("waited for the GPU")
)
with told_in_three_lines("base"):
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_stopped_job_lets_the_gpu_finish():
    done = subprocess.run([sys.executable, "-c", ON_A_GPU], capture_output=True, text=True)
    assert done.stdout == "waited for the GPU\n" and "stopped by SIGTERM" in done.stderr
