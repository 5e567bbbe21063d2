"""The hub without a network: repositories in its cache's layout, and an API that lists them.

Names, blobs and hashes are as huggingface_hub lays them out: a large file is known by the sha256 of
its content, a small one by the sha1 that git gives it.
"""

import hashlib
from pathlib import Path
from types import SimpleNamespace

from huggingface_hub import RepoFile

LARGE = {".safetensors", ".parquet"}


class FakeHub:
    """Repositories below `cache`; `reachable` ones can also be listed and downloaded."""

    def __init__(self, cache: Path):
        self.cache, self.calls = cache, []
        self.repositories: dict[tuple[str, str, str], dict[str, bytes]] = {}

    def add(self, name: str, files: dict[str, bytes], kind: str = "model", cached=True) -> str:
        """A repository of one commit, which is returned; `cached`: its files are on this disk."""
        commit = hashlib.sha1(name.encode() + b"".join(files.values())).hexdigest()
        self.repositories[name, kind, commit] = files
        if cached:
            self.download(name, kind, commit, list(files))
        return commit

    def add_folder(self, name: str, folder: Path, kind: str = "model", cached=True) -> str:
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        content = {name: path.read_bytes() for name, path in sorted(files.items())}
        return self.add(name, content, kind, cached)

    def download(self, name: str, kind: str, commit: str, wanted: list[str]) -> str:
        home = self.cache / f"{kind}s--{name.replace('/', '--')}"
        for file in wanted:
            content = self.repositories[name, kind, commit][file]
            blob = home / "blobs" / _etag(file, content)
            link = home / "snapshots" / commit / file
            for path in (blob, link):
                path.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(content)
            link.unlink(missing_ok=True)
            link.symlink_to(blob)
        return str(home / "snapshots" / commit)

    # ---- what ablation.hub asks huggingface_hub for ----------------------------------------------

    def snapshot_download(self, name, *, repo_type, revision, allow_patterns):
        self.calls.append(("download", name, tuple(allow_patterns)))
        return self.download(name, repo_type, revision, allow_patterns)

    def list_repo_tree(self, name, *, recursive, revision, repo_type):
        self.calls.append(("list", name))
        for file, content in self.repositories[name, repo_type, revision].items():
            lfs = {"size": len(content), "oid": _sha256(content), "pointerSize": 130}
            large = Path(file).suffix in LARGE
            entry = {"path": file, "size": len(content), "oid": _git_sha1(content)}
            yield RepoFile(**entry, lfs=lfs if large else None, type="file")

    def repo_info(self, name, *, repo_type, revision=None):
        self.calls.append(("info", name, revision))
        commits = [c for n, k, c in self.repositories if (n, k) == (name, repo_type)]
        return SimpleNamespace(sha=commits[-1])


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _etag(file: str, content: bytes) -> str:
    return (_sha256 if Path(file).suffix in LARGE else _git_sha1)(content)
