"""Runs on the machine: starts a job detached, reports on it and ends it. Standard library only.

`python3 onboard.py COMMAND FOLDER` reads a JSON request from stdin and prints a JSON answer. FOLDER
holds the files of one attempt: pid, output, exit.json (renamed into place when the job is over),
and keep, which lists the job's state folders for the dead-man switch, one per line.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

CHUNK = 1 << 18
SEAL = "complete"  # a file that is written last into a folder of a state, and removed first


def start(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    """Start the job once: a second call, after a lost answer, finds it started."""
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    try:
        os.mkdir(folder)
    except FileExistsError:
        return {"started": False}
    for path in request["remove"]:
        remove(path)
    for path in request["inputs"]:
        age(path)
    if request["states"]:
        write(os.path.join(folder, "keep"), "\n".join(request["states"]))
    here = [sys.executable, os.path.abspath(__file__), "run", folder]
    with open(os.path.join(folder, "output"), "wb") as output:
        runner = subprocess.Popen(
            here, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
        )
    write(os.path.join(folder, "pid"), str(runner.pid))
    assert runner.stdin is not None
    with runner.stdin as pipe:
        pipe.write(json.dumps(request).encode())
    return {"started": True}


def age(path: str) -> None:
    """Make an input older than its future outputs, by this machine's clock."""
    then = time.time() - 2
    below = [os.path.join(d, n) for d, _, names in os.walk(path) for n in names]
    for file in [*below, path]:
        with contextlib.suppress(OSError):
            os.utime(file, (then, then))


def run(folder: str, request: dict[str, Any]) -> None:
    """Run the job. The secrets of its environment came through a pipe and stay in memory."""
    began = time.monotonic()
    job = subprocess.Popen(
        ["bash", "-c", request["command"]],
        cwd=request["workdir"],
        env=dict(os.environ, **request["environment"]),
        stdin=subprocess.DEVNULL,
    )
    code = job.wait()
    done: dict[str, Any] = {
        "code": code,
        "seconds": time.monotonic() - began,
        "files": {},
        "missing": [],
        "links": [],
    }
    if code == 0:
        os.chdir(request["workdir"])
        made = {path for path in request["outputs"] if os.path.exists(path)}
        done["missing"] = [p for p in request["outputs"] if p not in made or os.path.islink(p)]
        for path in [*request["outputs"], *request["extras"]]:  # extras may be missing
            done["files"] |= {file: sha256(file) for file in files_below(path)}
        done["links"] = [path for output in request["outputs"] for path in links_below(output)]
    write(os.path.join(folder, "exit.json"), json.dumps(done))


def look(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    """Report on the job: new output, exit, GPU use, and a mark of its states."""
    answer: dict[str, Any] = {"exit": None, "alive": alive(folder), "gpu": gpu_use()}
    with contextlib.suppress(OSError):  # after `alive`: a job ends later than its exit
        answer["exit"] = json.loads(read(os.path.join(folder, "exit.json")))
    with open(os.path.join(folder, "output"), "rb") as output:
        output.seek(request["offset"])
        answer["output"] = output.read(CHUNK).decode("latin-1")
        answer["size"] = os.fstat(output.fileno()).st_size
    marks = [mark(state) for state in request["states"]]
    answer["mark"] = json.dumps(marks) if any(marks) else None
    return answer


def end(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    """End the job with SIGTERM, and with SIGKILL if it goes on."""
    for number, patience in ((signal.SIGTERM, request["grace"]), (signal.SIGKILL, 10)):
        try:
            os.killpg(int(read(os.path.join(folder, "pid"))), number)
        except (OSError, ValueError):
            break
        until = time.monotonic() + patience
        while alive(folder) and time.monotonic() < until:
            time.sleep(0.05)
    return {"alive": alive(folder)}


def snapshot(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    """Hard-link the complete parts of a state beside it; a complete folder has its seal.

    Files appear in a state by rename, so a link keeps them as they were. A folder without a seal
    is being written; one whose seal vanished while it was linked is being removed. Raises OSError
    for a part that cannot be linked, since parts that are missing here are removed elsewhere.
    """
    state, copy = request["state"], request["state"].rstrip("/") + ".home"
    shutil.rmtree(copy, ignore_errors=True)
    if not os.path.isdir(state):
        return {"there": False}
    os.makedirs(copy)
    for entry in sorted(os.scandir(state), key=lambda e: e.name):
        target = os.path.join(copy, entry.name)
        try:
            if entry.is_dir():
                if not os.path.exists(os.path.join(entry.path, SEAL)):
                    continue
                shutil.copytree(entry.path, target, copy_function=os.link)
                if not os.path.exists(os.path.join(entry.path, SEAL)):
                    shutil.rmtree(target)
            else:
                os.link(entry.path, target)
        except (OSError, shutil.Error):
            shutil.rmtree(target, ignore_errors=True)
            whole = os.path.join(entry.path, SEAL) if entry.is_dir() else entry.path
            if os.path.exists(whole) and not entry.is_symlink():
                raise
    return {"there": True, "parts": sorted(os.listdir(copy))}


def prune(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    """Free disk space: remove caches and the files of earlier attempts."""
    jobs = os.path.dirname(folder)
    for name in os.listdir(jobs):
        path = os.path.join(jobs, name)
        if os.path.isdir(path) and not alive(path):
            shutil.rmtree(path, ignore_errors=True)
    for cache in ("~/.cache/pip", "~/.cache/uv", "/var/cache/apt/archives", *request["prune"]):
        shutil.rmtree(os.path.expanduser(cache), ignore_errors=True)
    return {"free": shutil.disk_usage(jobs).free}


def alive(folder: str) -> bool:
    try:
        pid = int(read(os.path.join(folder, "pid")))
        return read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] != "Z"
    except (OSError, ValueError):
        return False


def mark(state: str) -> list[list[Any]]:
    """A value that changes with every new complete part of the state; empty without any."""
    try:
        entries = sorted(os.scandir(state), key=lambda e: e.name)
    except OSError:
        return []
    marks = []
    for entry in entries:
        path = os.path.join(entry.path, SEAL) if entry.is_dir() else entry.path
        with contextlib.suppress(OSError):
            marks.append([entry.name, os.stat(path).st_mtime_ns])
    return marks


def gpu_use() -> int | None:
    """The use of the busiest GPU in percent; None when it is not known."""
    asked = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(asked, capture_output=True, timeout=20).stdout.split()
        return max(int(percent) for percent in told)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def files_below(path: str) -> list[str]:
    """The file, or all files below the folder, without links: these do not leave the machine."""
    return [p for p in places_below(path) if os.path.isfile(p) and not os.path.islink(p)]


def links_below(path: str) -> list[str]:
    """The links at `path` or below it."""
    return [place for place in places_below(path) if os.path.islink(place)]


def places_below(path: str) -> list[str]:
    """`path`, and the files, links and folders below it; no link is followed."""
    walk = os.walk(path) if not os.path.islink(path) else ()
    below = [os.path.join(d, name) for d, folders, names in walk for name in folders + names]
    return sorted([path, *below])


def sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def remove(path: str) -> None:
    """Remove a file, a link or a folder, if it exists."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


def write(path: str, text: str) -> None:
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".part", path)


COMMANDS: dict[str, Callable[[str, dict[str, Any]], dict[str, Any] | None]] = {
    "start": start,
    "run": run,
    "look": look,
    "end": end,
}
COMMANDS |= {"snapshot": snapshot, "prune": prune}

if __name__ == "__main__":
    answer = COMMANDS[sys.argv[1]](sys.argv[2], json.load(sys.stdin))
    if answer is not None:
        print(json.dumps(answer))
