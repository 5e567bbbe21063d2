"""A headless Chromium that tells what a page logged and asked for: DevTools over a pipe.

No port, no driver and no package is needed, only Debian's `chromium` (or any other on the PATH).
"""

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# What axe finds serious in one document; documents in frames are looked at by themselves.
SERIOUS = """axe.run(document, {iframes: false}).then(found => found.violations
  .filter(one => ['serious', 'critical'].includes(one.impact))
  .map(one => [one.id, one.nodes.map(node => node.html)]))"""
HERE = ("file:", "data:", "blob:", "about:", "chrome:")  # what is no request to another machine


def installed() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


def axe():
    """The source of axe-core, from the package in requirements-dev.txt that carries it."""
    found = importlib.util.find_spec("axe_playwright_python")
    if not found:
        pytest.skip("no axe: pip install --no-deps -r requirements-dev.txt")
    return (Path(found.origin).parent / "axe.min.js").read_text() + ";0"


class Browser:
    """One tab. `errors`: what was logged as an error or thrown, `requests`: what left the file."""

    def __init__(self, size=(1500, 950)):
        self.errors, self.requests, self.contexts = [], [], {}
        self._number, self._rest, self._sessions = 0, b"", set()
        self._profile = tempfile.mkdtemp()
        chromium_reads, self._to = os.pipe()
        self._from, chromium_writes = os.pipe()
        options = [
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            "--remote-debugging-pipe",
            f"--user-data-dir={self._profile}",
            f"--window-size={size[0]},{size[1]}",
            "--host-resolver-rules=MAP * ~NOTFOUND",
        ]
        # Chromium reads commands from descriptor 3 and writes answers to 4
        shell = f'exec "$@" 3<&{chromium_reads} 4>&{chromium_writes}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", installed(), *options, "about:blank"],
            pass_fds=(chromium_reads, chromium_writes),
            stderr=subprocess.DEVNULL,
        )
        os.close(chromium_reads)
        os.close(chromium_writes)
        self._tab = None
        tab = self._ask("Target.createTarget", url="about:blank")
        found = self._ask("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        self._tab = found["sessionId"]
        self._watch(self._tab)

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        shutil.rmtree(self._profile, ignore_errors=True)

    def resize(self, width: int, height: int) -> None:
        """Also to less than a window may have."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **size)

    def open(self, file: Path) -> None:
        self._ask("Page.navigate", url=file.resolve().as_uri())
        self.wait("document.readyState == 'complete'")

    def run(self, script: str, frame: bool = False):
        """The value of an expression in the page, or in the frame that was loaded last."""
        where, session = {}, self._tab
        if frame:
            session, context = list(self.contexts.values())[-1]
            where = {"contextId": context}
        done = self._ask(
            "Runtime.evaluate",
            session,
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            **where,
        )
        assert "exceptionDetails" not in done, (script, done["exceptionDetails"])
        return done["result"].get("value")

    def wait(self, script: str, frame: bool = False, seconds: float = 60.0):
        """The first value of an expression that is true; AssertionError when none comes."""
        script = f"(found => found instanceof Node || found)({script})"  # a node is no JSON
        end = time.monotonic() + seconds
        while True:
            try:
                value = self.run(script, frame)
            except (AssertionError, RuntimeError):  # a frame that is just being replaced
                value = None
            if value:
                return value
            assert time.monotonic() < end, f"never true: {script}"
            self.run("new Promise(done => setTimeout(done, 30))")

    # ---- the protocol ---------------------------------------------------------------------------

    def _watch(self, session: str) -> None:
        self._sessions.add(session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable", session)
        wanted = {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": True}
        self._ask("Target.setAutoAttach", session, **wanted)

    def _ask(self, method: str, session: str | None = None, **parameters) -> dict:
        self._number += 1
        number, session = self._number, session or self._tab
        asked = {"id": number, "method": method, "params": parameters}
        asked |= {"sessionId": session} if session else {}
        os.write(self._to, json.dumps(asked).encode() + b"\0")
        new_frames = []
        while True:
            told = self._read()
            if told.get("id") == number:
                for frame in new_frames:
                    self._watch(frame)
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']}")
                return told["result"]
            if told.get("method") == "Target.attachedToTarget" and self._tab:
                new_frames.append(told["params"]["sessionId"])
            self._note(told)

    def _read(self) -> dict:
        while b"\0" not in self._rest:
            more = os.read(self._from, 1 << 20)
            if not more:
                raise RuntimeError("Chromium has ended")
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)

    def _note(self, told: dict) -> None:
        method, told_of = told.get("method"), told.get("params", {})
        if method == "Runtime.consoleAPICalled" and told_of["type"] in ("error", "assert"):
            self.errors.append([a.get("value", a.get("description")) for a in told_of["args"]])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(told_of["exceptionDetails"])
        elif method == "Log.entryAdded" and told_of["entry"]["level"] == "error":
            self.errors.append(told_of["entry"])
        elif method == "Network.requestWillBeSent":
            if not told_of["request"]["url"].startswith(HERE):
                self.requests.append(told_of["request"]["url"])
        elif method == "Runtime.executionContextCreated":
            context = told_of["context"]
            key = (told.get("sessionId"), context["id"])
            if context["auxData"].get("isDefault"):
                self.contexts[key] = (told.get("sessionId"), context["id"])
        elif method == "Runtime.executionContextDestroyed":
            key = (told.get("sessionId"), told_of["executionContextId"])
            self.contexts.pop(key, None)
