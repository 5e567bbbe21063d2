"""A fake of Zenodo's deposit API on loopback: drafts, a bucket that is filled by PUT, metadata."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from tests.support.loopback import serving


class ZenodoServer:
    """Drafts, {id: {files, metadata, submitted}}; `full_after` files a PUT is refused.

    down: whether a GET is answered by 503, as by a service that is overloaded.
    """

    def __init__(self, token: str):
        self.token, self.address = token, ""
        self.drafts: dict[int, dict] = {}
        self.puts: list[str] = []
        self.full_after: int | None = None
        self.down = False
        self.buckets = ""  # another address for buckets

    def answer(self, number: int) -> dict:
        draft, here = self.drafts[number], f"{self.address}/api/deposit/depositions/{number}"
        files = [
            {"filename": n, "filesize": len(c), "checksum": hashlib.md5(c).hexdigest()}
            for n, c in draft["files"].items()
        ]
        return {
            "id": number,
            "state": "unsubmitted",
            "submitted": draft["submitted"],
            "files": files,
            "metadata": draft["metadata"],
            "links": {
                "self": here,
                "bucket": f"{self.buckets or self.address}/api/files/bucket-{number}",
                "html": f"{self.address}/deposit/{number}",
                "publish": f"{here}/actions/publish",
            },
        }

    def route(self, method: str, path: str, content: bytes):
        if self.down and method == "GET":
            return 503, {"message": "Service unavailable"}
        if (method, path) == ("POST", "/api/deposit/depositions"):
            assert json.loads(content) == {}
            number = 100 + len(self.drafts)
            self.drafts[number] = {"files": {}, "metadata": {}, "submitted": False}
            return 201, self.answer(number)
        if found := re.fullmatch(r"/api/deposit/depositions/(\d+)", path):
            number = int(found[1])
            if number not in self.drafts:
                return 404, {"status": 404, "message": "PID does not exist."}
            if method == "PUT":
                metadata = json.loads(content)["metadata"]
                missing = {"upload_type", "title", "creators", "description"} - set(metadata)
                if missing:
                    return 400, {"message": "Validation error.", "errors": sorted(missing)}
                self.drafts[number]["metadata"] = metadata
            return 200, self.answer(number)
        if method == "PUT" and (found := re.fullmatch(r"/api/files/bucket-(\d+)/([^/]+)", path)):
            files = self.drafts[int(found[1])]["files"]
            if self.full_after is not None and len(files) >= self.full_after:
                return 403, {"message": "Quota exceeded"}
            name = unquote(found[2])
            files[name] = content
            self.puts.append(name)
            return 201, {"key": name, "checksum": f"md5:{hashlib.md5(content).hexdigest()}"}
        return 404, {"message": f"the fake has no {method} {path}"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    zenodo: ZenodoServer

    def log_message(self, *_):
        pass

    def do_GET(self):
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        assert "access_token" not in self.path  # addresses stand in logs
        if self.headers.get("authorization") != f"Bearer {self.zenodo.token}":
            status, answer = 401, {"message": "Unauthorized"}
        else:
            status, answer = self.zenodo.route(self.command, urlsplit(self.path).path, content)
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_PUT = do_GET


@contextmanager
def zenodo_server(token: str) -> Iterator[ZenodoServer]:
    """The fake, serving until the block ends; `address` is its address."""
    zenodo = ZenodoServer(token)
    handler = type("Handler", (_Handler,), {"zenodo": zenodo})
    with serving(handler) as zenodo.address:
        yield zenodo
