"""The fake as tests hold it: start and stop it, look inside, let things go wrong."""

import itertools
import json
import math
import re
import shutil
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .api import ROUTES, Api, Refusal
from .faults import Plan
from .machine import Machine, faketime, what_is_missing
from .market import Clock, Offer, default_offers
from .world import Instance, World

# What POST /fake/<name> may call, with the body as keyword arguments.
CONTROLS = (
    *("fault", "clear", "advance", "outbid", "set_min_bid", "vanish", "come_back", "take"),
    *("cut_ssh", "mend_ssh", "trickle", "exit", "forget_keys", "refresh_keys"),
)


@dataclass(frozen=True)
class Request:
    """One call of the API, as it was answered; status 0: no answer was sent."""

    when: float
    name: str
    method: str
    path: str
    body: dict
    status: int
    agent: str = ""  # how the client names itself


class FakeVast:
    """A whole service. A context manager: at its end every machine and thread of it is gone.

    `time_scale`: its seconds in one real second; 0 stands still but for `advance`.
    `limits`: enforce the rate limits (in its own seconds). `visible`: folders that machines may
    read beside the Python environment. `machines` False: the API alone, which needs no root.
    `jitter`: by how many of its seconds requests are late, in turn, and from the first one again.
    `card`: dollars that the account's card is charged whenever the balance reaches zero.
    `daily_searches`: more of them in a day are refused until midnight UTC.
    """

    market = "vast"  # how the executor names it
    key = "master-key-of-the-fake"
    routes, api_class, world_class = ROUTES, Api, World

    def __init__(
        self,
        time_scale: float = 60.0,
        offers: Iterable[Offer] | None = None,
        balance: float = 100.0,
        boot_seconds: tuple[float, float, float] = (1, 2, 20),
        limits: bool = True,
        visible: tuple = (),
        machines: bool = True,
        port: int = 0,
        daily_searches: float = math.inf,
        jitter: Iterable[float] = (0.0,),
        card: float = 0.0,
    ):
        if machines and (missing := what_is_missing()):
            raise RuntimeError(missing)
        self._home = Path(tempfile.mkdtemp(prefix="fake-vast-"))
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", port), type("H", (Handler,), {"fake": self})
        )
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.requests: list[Request] = []
        self._late, self._queue = itertools.cycle(jitter), threading.Lock()
        clock = Clock(time_scale)
        self.plan = Plan(clock.now)
        market = list(self.default_offers() if offers is None else offers)
        self.world = self.world_class(
            self._home, market, clock, balance, boot_seconds, visible, machines, card
        )
        self.api = self.api_class(self.world, self.plan, self.key, self.url, limits, daily_searches)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Nothing of the fake is left after this: server, machines, threads, files."""
        self._server.shutdown()
        self._server.server_close()
        self.world.close()
        self._thread.join()
        shutil.rmtree(self._home, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {"VAST_URL": self.url, "VAST_API_KEY": self.key}

    @staticmethod
    def default_offers() -> list[Offer]:
        return default_offers()

    def route(self, method: str, path: str) -> tuple[str | None, str | None]:
        """Name of the endpoint and the id in its path; (None, None): there is none."""
        for its_method, pattern, name in self.routes:
            if its_method == method and (match := re.fullmatch(pattern + "/?", path)):
                return name, match[1] if match.groups() else None
        return None, None

    def name_of(self, instance: Instance) -> str:
        """What the service calls a machine."""
        return str(instance.id)

    def travel(self) -> None:
        """Let the time pass that the next request takes to arrive."""
        with self._queue:
            late = next(self._late)
        if self.world.clock.scale:
            time.sleep(self.world.clock.real(late))
        else:
            self.world.advance(late)

    # ---- looking ---------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.world.clock.now()

    @property
    def instances(self) -> list[Instance]:
        """Those that are not destroyed, oldest first."""
        with self.world.changed:
            self.world.catch_up()
            return self.world.live()

    def instance(self, number: int) -> Instance:
        return self.world.instances[number]

    def machine(self, number: int) -> Machine:
        return self.world.instances[number].machine

    @property
    def spent(self) -> float:
        """Dollars so far: GPUs, storage and transfers."""
        with self.world.changed:
            self.world.catch_up()
            return self.world.spent

    def calls(self, name: str) -> list[Request]:
        return [request for request in self.requests if request.name == name]

    def wait(self, condition: Callable[[], object], timeout: float = 20.0, what: str = ""):
        """What `condition()` gives once it is true; TimeoutError after `timeout` real seconds."""
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(what or "the condition did not come true")
            with self.world.changed:
                self.world.changed.wait(0.02)  # files and processes do not notify
        return found

    def upon(self, condition: Callable[[], object], action: Callable[[], None]) -> None:
        """In the background: `action` as soon as `condition` is true, unless the fake is closed."""

        def watch() -> None:
            self.wait(lambda: self.world.closed or condition(), float("inf"))
            if not self.world.closed:
                action()

        threading.Thread(target=watch, daemon=True).start()

    # ---- time, market, faults --------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let this much of the service's time pass at once."""
        self.world.advance(seconds)

    def fault(
        self, point: str, times: int | None = 1, seconds: float | None = None, **effect
    ) -> None:
        """Plan a fault: `times` times (None: until cleared), or for `seconds` of the service.

        Points and effects are listed in faults.py.
        """
        if "clock_offset" in effect and not faketime():
            raise RuntimeError("a clock that is off needs libfaketime: apt-get install faketime")
        self.plan.add(point, times, seconds, effect)

    def clear(self, point: str | None = None) -> None:
        self.plan.clear(point)

    def take(self, offer: int, taken: bool = True) -> None:
        """Somebody else rents the offer, or no longer. Stopped machines of ours wait for that."""
        with self.world.changed:
            self.world.catch_up()
            self.world.offers[offer].taken = taken
            for instance in self.world.live():
                waits = instance.intended_status == "running" and instance.price is None
                if not taken and waits and instance.offer.id == offer:
                    self.world.start(instance)

    def set_min_bid(self, offer: int, price: float) -> None:
        """The price of interruptible rent moves: who bids less is stopped, who bids more starts."""
        with self.world.changed:
            self.world.catch_up()
            self.world.bid(self.world.offers[offer], price)
            self.world.changed.notify_all()

    def outbid(self, number: int) -> None:
        instance = self.instance(number)
        if instance.price is None:
            raise ValueError(f"{number} is rented on demand: it cannot be outbid")
        self.set_min_bid(instance.offer.id, instance.price + 0.01)

    def vanish(self, number: int, says: str = "offline", silently: bool = False) -> None:
        """The host is gone. `says`: the status shown; `silently`: connections hang."""
        with self.world.changed:
            self.world.catch_up()
            self.world.vanish(self.instance(number), says, silently)

    def come_back(self, number: int) -> None:
        with self.world.changed:
            self.world.catch_up()
            self.world.come_back(self.instance(number))

    def exit(self, number: int, message: str = "container exited with code 1") -> None:
        """The container ends by itself: no process is left, and the contract goes on."""
        with self.world.changed:
            self.world.catch_up()
            self.world.exit(self.instance(number), message)

    def cut_ssh(self, number: int, how: str = "refuse", wires: Iterable[str] = ("proxy", "direct")):
        """Its processes live on. `how`: 'refuse' (and reset), 'reset' once, or 'hang'."""
        for name in wires:
            wire = getattr(self.machine(number), name)
            {"refuse": wire.close, "reset": wire.cut, "hang": wire.hang}[how]()

    def trickle(self, number: int, after: int) -> None:
        """One connection of each wire sends `after` bytes from now on, and then hardly any."""
        for wire in self.machine(number).wires:
            wire.trickle(after)

    def mend_ssh(self, number: int) -> None:
        machine = self.machine(number)
        for wire in machine.wires:
            wire.cut()  # what hung has timed out somewhere
        machine.wires_up()

    def forget_keys(self, number: int) -> None:
        """authorized_keys is rewritten without ours: logins fail until a key is attached again."""
        self.machine(number).forget_keys()

    def refresh_keys(self, number: int) -> None:
        """authorized_keys is rewritten with the account's and the attached keys, as after hours."""
        self.machine(number).refresh_keys()

    def state(self) -> dict:
        """A summary, for people."""
        with self.world.changed:
            self.world.catch_up()
            world = self.world
            return {
                "now": self.now,
                "spent": world.spent_on | {"transfers": world.transfers()},
                "balance": world.balance,
                "instances": [self.api.view(instance) for instance in world.live()],
                "requests": len(self.requests),
            }


class Handler(BaseHTTPRequestHandler):
    """One connection. Faults strike before the request is looked at, or after it was done."""

    protocol_version = "HTTP/1.1"
    fake: FakeVast

    def log_message(self, *arguments) -> None:
        pass

    def go(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            body = None
        if parts.path.startswith("/fake/"):
            return self.control(parts.path, query, body)
        name, argument = self.fake.route(self.command, parts.path)
        if name is None:
            return self.send(*self.fake.api.unknown(self.path))
        self.fake.travel()
        effect = self.fake.plan.take(name, "api")
        status = 0
        if effect.get("drop"):
            self.cut()
        elif "status" in effect:
            status, reply = self.fake.api.failure(effect)
        else:
            status, reply = self.answer(name, parts.path, argument, query, body, effect)
            if effect.get("lose_reply"):
                status = 0
                self.cut()
        agent = self.headers.get("User-Agent", "")
        self.fake.requests.append(
            Request(self.fake.now, name, self.command, self.path, body or {}, status, agent)
        )
        if status:
            headers = self.fake.api.headers(status)
            self.send(status, reply, effect.get("location"), headers)

    def answer(self, name, path, argument, query, body, effect) -> tuple[int, dict | str]:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        token = token or query.get("api_key", "")
        world = self.fake.world
        try:
            with world.changed:
                reply = self.fake.api.answer(
                    name, path, argument, query, body, token, self.client_address[0], effect
                )
                world.changed.notify_all()
                return reply if isinstance(reply, tuple) else (200, reply)
        except Refusal as refusal:
            return refusal.status, refusal.body

    def control(self, path: str, query: dict, body) -> None:
        """GET /fake/, POST /fake/<control> for people; logs/<id>, results/<n> for clients."""
        name = path.removeprefix("/fake/").strip("/")
        if result := re.fullmatch(r"results/(\d+)", name):
            return self.send(200, self.fake.api.results[int(result[1])])
        if log := re.fullmatch(r"logs/(\d+)", name):
            file = self.fake.machine(int(log[1])).path("/var/log/onstart.log")
            lines = file.read_text(errors="replace").splitlines() if file.exists() else []
            return self.send(200, "\n".join(lines[-int(query.get("tail", 1000)) :]))
        if self.command == "GET" and not name:
            return self.send(200, self.fake.state())
        if self.command == "POST" and name in CONTROLS:
            try:
                getattr(self.fake, name)(**(body or {}))
            except (TypeError, ValueError, KeyError) as error:
                return self.send(400, {"success": False, "msg": f"{name}: {error}"})
            return self.send(200, {"success": True})
        self.send(404, {"success": False, "msg": f"controls: {', '.join(CONTROLS)}"})

    def send(
        self, status: int, body: dict | str, location: str | None = None, more: dict | None = None
    ) -> None:
        text = isinstance(body, str)
        data = (body if text else json.dumps(body)).encode()
        self.send_response(status)
        kind = "text/html" if data.startswith(b"<") else "text/plain"
        self.send_header("Content-Type", kind if text else "application/json")
        for name, value in (more or {}).items():
            self.send_header(name, value)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with suppress(ConnectionError):  # the client may be gone
            self.wfile.write(data)

    def cut(self) -> None:
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = go
