"""A fake of the hub's upload API on loopback, for the real client of huggingface_hub.

It has the endpoints that `create_repo`, `list_repo_files`, `hf_hub_download`, `create_commit` and
`model_info` call, with the answers of the service: large files go by the LFS batch protocol, in one
PUT or in parts, to addresses without a token, and a commit of a file that was never stored, or
whose parent is not the last commit, is refused. The Xet protocol is not spoken; a test sets
HF_HUB_DISABLE_XET.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.support.loopback import serving

ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
LARGE = (".safetensors",)
PART = 1 << 20  # files above it are sent in parts


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer:
    """Model repositories, each {file: content} with a list of commits.

    calls: (method, path) of every request. puts: (sha256, part) of every upload of content.
    refuse: {(method, part of a path)}: such a request is answered by 403. meanwhile: called once,
    before the next commit, as somebody else who pushes.
    """

    def __init__(self, token: str, owners: tuple[str, ...] = ("me",)):
        self.token, self.owners = token, owners
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.commits: dict[str, list[str]] = {}
        self.cards: dict[str, dict] = {}  # {model of somebody else: its card's data}
        self.stored: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.calls: list[tuple[str, str]] = []
        self.puts: list[tuple[str, int | None]] = []
        self.refuse: set[tuple[str, str]] = set()
        self.meanwhile: Callable[[], object] | None = None
        self.endpoint = ""

    def checkout(self, repository: str, folder: Path) -> Path:
        """Write the files of a repository into a folder, as a download would."""
        for name, content in self.repositories[repository].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    def head(self, repository: str) -> str:
        """The hash of the last commit."""
        return _sha256(str(self.commits[repository]).encode())[:40]

    # ---- the API: each returns (status, answer) --------------------------------------------------

    def create(self, body: dict):
        owner, name = body["organization"], body["name"]
        repository = f"{owner}/{name}"
        if owner not in self.owners:
            error = f'You don\'t have the rights to create a model under the namespace "{owner}"'
            return 403, {"error": error}
        url = f"{self.endpoint}/{repository}"
        if repository in self.repositories:
            return 409, {"error": "You already created this model repo", "url": url}
        assert body.get("type", "model") == "model"
        self.private[repository] = body.get("visibility") == "private"
        self.repositories[repository] = {".gitattributes": ATTRIBUTES}
        self.commits[repository] = ["initial commit"]
        return 200, {"url": url, "name": repository, "id": "0" * 24}

    def tree(self, repository: str):
        entries = []
        for path, content in self.repositories[repository].items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
            if path.endswith(LARGE):
                entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 135}
            entries.append(entry)
        return 200, entries

    def validate(self, body: dict):
        """The hub reads the front matter of a README.md before a commit."""
        front = re.match(r"---\n(.*?)\n---\n", body["content"], re.S)
        data = yaml.safe_load(front[1]) if front else {}
        known = isinstance(data.get("license", "mit"), str) and "tags" in data
        errors = [] if known else [{"message": '"license" must be a string'}]
        return (200 if known else 400), {"errors": errors, "warnings": []}

    def preupload(self, repository: str, body: dict):
        there, files = self.repositories[repository], []
        for file in body["files"]:
            assert len(base64.b64decode(file["sample"])) <= 512
            large = file["path"].endswith(LARGE) or file["size"] > 10 << 20
            answer = {"path": file["path"], "uploadMode": "lfs" if large else "regular"}
            answer["shouldIgnore"] = False
            if (content := there.get(file["path"])) is not None:
                answer["oid"] = (_sha256 if large else git_sha1)(content)
            files.append(answer)
        return 200, {"files": files}

    def batch(self, repository: str, body: dict):
        assert body["operation"] == "upload" and body["hash_algo"] == "sha256"
        objects = []
        for wanted in body["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            answer = {"oid": oid, "size": size}
            if oid not in self.stored:
                upload = {"href": f"{self.endpoint}/presigned/{oid}", "header": {}}
                if size > PART and "multipart" in body["transfers"]:
                    count = -(-size // PART)
                    header = {
                        str(n): f"{self.endpoint}/presigned/{oid}?part={n}"
                        for n in range(1, count + 1)
                    }
                    upload["header"] = {"chunk_size": str(PART), **header}
                    upload["href"] = f"{self.endpoint}/api/complete_multipart?oid={oid}"
                verify = {"href": f"{self.endpoint}/{repository}.git/info/lfs/objects/verify"}
                answer["actions"] = {"upload": upload, "verify": verify | {"header": {}}}
            objects.append(answer)
        return 200, {"transfer": "basic", "objects": objects}

    def store(self, oid: str, part: int | None, content: bytes):
        self.puts.append((oid, part))
        if part is None:
            if _sha256(content) != oid:
                return 400, {"error": "XAmzContentSHA256Mismatch"}
            self.stored[oid] = content
        else:
            self.parts.setdefault(oid, {})[part] = content
        return 200, None

    def complete(self, body: dict):
        parts = self.parts.pop(body["oid"])
        etags = {int(p["partNumber"]): p["etag"] for p in body["parts"]}
        assert etags == {n: _etag(content) for n, content in parts.items()}
        content = b"".join(parts[n] for n in sorted(parts))
        if _sha256(content) != body["oid"]:
            return 400, {"error": "the parts are another file"}
        self.stored[body["oid"]] = content
        return 200, {}

    def verify(self, body: dict):
        found = self.stored.get(body["oid"])
        if found is None or len(found) != body["size"]:
            return 404, {"error": "not stored"}
        return 200, {}

    def commit(self, repository: str, lines: list[dict]):
        head, *operations = lines
        if self.meanwhile:
            self.meanwhile, push = None, self.meanwhile
            push()
        if (parent := head["value"].get("parentCommit")) not in (None, self.head(repository)):
            assert re.fullmatch("[0-9a-f]{40}", parent)
            return 412, {"error": "A commit has happened since. Please refresh and try again."}
        assert head["key"] == "header" and head["value"]["summary"]
        new = dict(self.repositories[repository])
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.stored:
                    return 400, {"error": f"Object {value['oid']} was never uploaded"}
                new[value["path"]] = self.stored[value["oid"]]
            elif operation["key"] == "deletedFile":
                del new[value["path"]]
            else:
                raise AssertionError(operation["key"])
        self.repositories[repository] = new  # whole or not at all
        self.commits[repository].append(head["value"]["summary"])
        oid = self.head(repository)
        url = f"{self.endpoint}/{repository}/commit/{oid}"
        return 200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""}

    def info(self, repository: str):
        if repository in self.cards:
            return 200, {"id": repository, "cardData": self.cards[repository], "siblings": []}
        if repository not in self.commits:
            return 404, {"error": "Repository not found"}
        return 200, {"id": repository, "sha": self.head(repository), "siblings": []}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer()

    do_POST = do_PUT = do_HEAD = do_GET

    def _answer(self):
        content = self._content()
        url = urlsplit(self.path)
        self.hub.calls.append((self.command, url.path))
        if any(m == self.command and part in url.path for m, part in self.hub.refuse):
            return self._send(403, {"error": "Forbidden: your storage is full"})
        presigned = url.path.startswith(("/presigned/", "/api/complete_multipart"))
        authorization = self.headers.get("authorization")
        if presigned:
            assert authorization is None, "a token was sent to the storage"
        elif self.command == "POST" and authorization != f"Bearer {self.hub.token}":
            return self._send(401, {"error": "Invalid username or password."})
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/[0-9a-f]{40}/(.+)", url.path):
            return self._download(self.hub.repositories[found[1]][found[2]])
        status, answer = self._route(url.path, parse_qs(url.query), content)
        etag = _etag(content) if url.path.startswith("/presigned/") else None
        self._send(status, answer, etag)

    def _content(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _route(self, path: str, query: dict, content: bytes):
        hub, name = self.hub, r"([\w.-]+/[\w.-]+)"
        if self.command == "PUT" and (found := re.fullmatch(r"/presigned/(\w{64})", path)):
            part = query.get("part")
            return hub.store(found[1], int(part[0]) if part else None, content)
        if found := re.fullmatch(rf"/api/models/{name}/commit/main", path):
            return hub.commit(found[1], [json.loads(line) for line in content.splitlines()])
        if self.command == "POST":
            body = json.loads(content)
            if path == "/api/repos/create":
                return hub.create(body)
            if path == "/api/validate-yaml":
                return hub.validate(body)
            if path == "/api/complete_multipart":
                return hub.complete(body)
            if found := re.fullmatch(rf"/api/models/{name}/preupload/main", path):
                return hub.preupload(found[1], body)
            if found := re.fullmatch(rf"/{name}\.git/info/lfs/objects/batch", path):
                return hub.batch(found[1], body)
            if re.fullmatch(rf"/{name}\.git/info/lfs/objects/verify", path):
                return hub.verify(body)
        if found := re.fullmatch(rf"/api/models/{name}/tree/[0-9a-f]{{40}}", path):
            return hub.tree(found[1])
        if found := re.fullmatch(rf"/api/models/{name}(/revision/[\w.-]+)?", path):
            return hub.info(found[1])
        return 404, {"error": f"the fake has no {self.command} {path}"}

    def _download(self, content: bytes):
        self.send_response(200)
        self.send_header("x-repo-commit", "0" * 40)
        self.send_header("etag", f'"{git_sha1(content)}"')
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def _send(self, status: int, answer, etag: str | None = None):
        content = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        if status == 404 and self.path.startswith("/api/models/"):
            self.send_header("x-error-code", "RepoNotFound")
        self.send_header("content-length", str(len(content)))
        if etag:
            self.send_header("etag", etag)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def hub_server(token: str) -> Iterator[HubServer]:
    """The fake, serving on loopback until the block ends; `endpoint` is its address."""
    hub = HubServer(token)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with serving(handler) as hub.endpoint:
        yield hub
