"""Runs on the machine: is the dead-man switch armed? Standard library only.

`python3 armed.py FOLDER` finds the process of the switch that was started in FOLDER, and makes a
call to the market with the variables of that process, so with its key. The call changes nothing. It
prints a JSON object: `armed`, and `why` if that is false; `armed` is null if the market did not
answer, which says nothing about the switch.
"""

import importlib
import json
import os
import sys
import urllib.error
from typing import Any


def switch(folder: str) -> str | None:
    """The folder in /proc of the switch; one that was stopped by a signal does not count."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        place = f"/proc/{name}"
        try:
            command = read(f"{place}/cmdline").split(b"\0")
            state = read(f"{place}/stat").rpartition(b")")[2].split()[0]
            here = os.path.samefile(f"{place}/cwd", folder)
        except OSError:  # it has ended, or is the kernel's
            continue
        if here and b"deadman.py" in command and state not in b"TtZX":
            return place
    return None


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def check(folder: str) -> dict[str, Any]:
    """Whether the switch runs, has its variables, and its key is accepted."""
    place = switch(folder)
    if place is None:
        return {"armed": False, "why": "its process does not run"}
    pairs = (pair.partition(b"=") for pair in read(f"{place}/environ").split(b"\0"))
    os.environ.update({os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs if name})
    sys.path.insert(0, folder)
    try:
        importlib.import_module("machine_control").check()
    except urllib.error.HTTPError as error:
        refused = 400 <= error.code < 500 and error.code != 429
        return {"armed": False if refused else None, "why": f"the market answers {error.code}"}
    except OSError as error:
        return {"armed": None, "why": f"the market does not answer: {error}"}
    except KeyError as error:
        return {"armed": False, "why": f"its process has no variable {error}"}
    return {"armed": True, "why": ""}


if __name__ == "__main__":
    print(json.dumps(check(sys.argv[1])))
