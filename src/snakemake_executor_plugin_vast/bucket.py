"""Runs on the machine: moves a state to a bucket and back, through fsspec.

`python bucket.py COMMAND`, a JSON request on stdin: the state's `uri`, and the `environment` that
opens it. A folder counts in the bucket as everywhere: while it holds its seal.
"""

import json
import os
import sys

SEAL = "complete"  # written last into a folder of a state, removed first


def save(uri, request):
    """Make the bucket hold what the folder `copy` holds. What is whole there is not sent again."""
    fs, root, there = opened(uri)
    here = {name: os.path.getsize(path) for name, path in files_below(request["copy"])}
    for part in {name.partition("/")[0] for name in (*here, *there)}:
        new, old = below(part, here), below(part, there)
        if f"{part}/{SEAL}" in old and new == old:
            continue
        remove(fs, root, [name for name in old if is_seal(name)])
        remove(fs, root, [name for name in old if name not in new and not is_seal(name)])
        for seals in (False, True):
            names = [name for name in new if is_seal(name) == seals]
            if names:
                ends = [f"{request['copy']}/{n}" for n in names], [f"{root}/{n}" for n in names]
                fs.put(*ends)


def load(uri, request):
    """Bring what is whole in the bucket into the folder `state`."""
    fs, root, there = opened(uri)
    for seals in (False, True):
        for name in there:
            part = name.partition("/")[0]
            if is_seal(name) == seals and (part == name or f"{part}/{SEAL}" in there):
                path = f"{request['state']}/{name}"
                os.makedirs(os.path.dirname(path), exist_ok=True)
                fs.get_file(f"{root}/{name}", path)


def drop(uri, request):
    """Remove a state that nobody needs any more, seals first."""
    fs, root, there = opened(uri)
    for seals in (True, False):
        remove(fs, root, [name for name in there if is_seal(name) == seals])


def opened(uri):
    """(file system, root, {name: bytes} of what is there)"""
    import fsspec

    fs, root = fsspec.url_to_fs(uri)
    fs.auto_mkdir = True  # a mounted folder has folders, buckets do not
    root = root.rstrip("/")
    try:
        found = fs.find(root, detail=True)
    except FileNotFoundError:
        found = {}
    return fs, root, {path[len(root) + 1 :]: facts["size"] for path, facts in found.items()}


def remove(fs, root, names):
    if names:
        fs.rm([f"{root}/{name}" for name in names])


def is_seal(name):
    return name.count("/") == 1 and name.endswith(f"/{SEAL}")


def below(part, names):
    return {n: size for n, size in names.items() if n == part or n.startswith(f"{part}/")}


def files_below(folder):
    for place, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(place, name)
            yield os.path.relpath(path, folder), path


if __name__ == "__main__":
    request = json.load(sys.stdin)
    os.environ.update(request["environment"])  # before fsspec reads it
    {"save": save, "load": load, "drop": drop}[sys.argv[1]](request["uri"], request)
