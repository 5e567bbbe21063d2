"""A fake of the Hugging Face hub without a network: repositories in the layout of its cache.

Uploads by the real client go to `tests.support.hub_server`.

Names, blobs and hashes are those of huggingface_hub: the hash of a large file is the SHA-256 of its
content, and that of a small file is the SHA-1 of its git blob.
"""

import hashlib
from pathlib import Path
from types import SimpleNamespace

from huggingface_hub import RepoFile

LARGE = {".safetensors", ".parquet"}


class FakeHub:
    """Repositories with one commit each; `cache` is the folder of the hub's cache."""

    def __init__(self, cache: Path):
        self.cache = cache
        self.calls: list[tuple] = []  # (kind of call, repository, ...)
        self.repositories: dict[tuple[str, str, str], dict[str, bytes]] = {}

    def add(self, name: str, files: dict[str, bytes], kind: str = "model", cached=True) -> str:
        """Add a repository and return its commit. If `cached`, its files are in the cache too."""
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

    # ---- the functions of huggingface_hub that ablation.data.hub calls ------------------------

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
