"""Sends one message to a webhook when a run has finished, has failed or has reached its budget.

The webhook comes from the environment alone, and its URL counts as a secret: anyone who has it can
write to its channel. The variables are taken out of the environment, so that no job inherits them,
and messages name the host at most.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ablation.console.printable import printable

URL, FORM, TOKEN = "ABLATION_WEBHOOK", "ABLATION_WEBHOOK_FORM", "ABLATION_WEBHOOK_TOKEN"
FINISHED, FAILED, BUDGET = "finished", "failed", "budget"
PAUSES = (0.0, 0.5, 1.0, 2.0)  # seconds before each attempt at a delivery
TIMEOUT = 3.0  # seconds for a connection, and for an answer
PATIENCE = 8.0  # seconds for which the end of a run waits for all deliveries
RETRIED = (408, 429, 500, 502, 503, 504)
NAMED_JOBS = 5  # failed jobs that a message names
TITLES = {FINISHED: "has finished", FAILED: "has failed", BUDGET: "has reached its budget"}
TAGS = {FINISHED: "white_check_mark", FAILED: "x", BUDGET: "moneybag"}  # ntfy shows them as icons


@dataclass(frozen=True)
class Message:
    """What happened to a run; `facts` are further keys of the JSON form."""

    event: str
    study: str
    text: str
    facts: dict[str, Any]

    @property
    def title(self) -> str:
        return f"Study {self.study} {TITLES[self.event]}"


# ---- forms: each returns the arguments of `requests.post`


def _json(message: Message) -> dict[str, Any]:
    named = {"event": message.event, "study": message.study, "text": message.text}
    return {"json": named | message.facts}


def _slack(message: Message) -> dict[str, Any]:
    text = f"{message.title}. {message.text}"
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, entity)
    return {"json": {"text": text}}


def _ntfy(message: Message) -> dict[str, Any]:
    priority = "default" if message.event == FINISHED else "high"
    headers = {"Title": message.title, "Tags": TAGS[message.event], "Priority": priority}
    return {"data": message.text.encode(), "headers": headers}


FORMS: dict[str, Callable[[Message], dict[str, Any]]] = {
    "json": _json,
    "slack": _slack,
    "ntfy": _ntfy,
}


@dataclass(frozen=True)
class Webhook:
    """Where messages go, and in which of `FORMS`."""

    url: str
    form: str
    token: str = ""

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    def __repr__(self) -> str:
        return f"Webhook({self.host})"


def webhook_of(url: str, form: str = "", token: str = "") -> Webhook:
    """The webhook of these values; without a form, that of its host. Raises ValueError."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port  # which is a number, or raises ValueError
    except ValueError:
        host = ""
    if not host or parts.scheme not in ("http", "https"):
        raise ValueError(f"{URL}: `https://HOST/...` was expected; no message will be sent")
    if not form:
        of_host = "ntfy" if host.startswith("ntfy.") else "json"
        form = "slack" if host == "hooks.slack.com" else of_host
    if form not in FORMS:
        raise ValueError(
            f"{FORM}: {form!r} found, one of {', '.join(FORMS)} was expected; no message will be "
            "sent"
        )
    return Webhook(url, form, token)


class Notifier:
    """Sends each kind of message once in a run, and never raises."""

    def __init__(self) -> None:
        self.webhook: Webhook | None = None
        self.study, self._began = "", time.monotonic()
        self._sent: set[str] = set()
        self._deliveries: list[threading.Thread] = []

    def take(self, environment: MutableMapping[str, str]) -> str:
        """Take the webhook out of `environment`. Returns what is wrong with it, or nothing."""
        url, form, token = (environment.pop(name, "") for name in (URL, FORM, TOKEN))
        if url:
            try:
                self.webhook = webhook_of(url, form, token)
            except ValueError as error:
                return str(error)
        return ""

    def begin(self, study: str, workflow: Any = None) -> None:
        """A run of `study` begins; Snakemake's `workflow` calls back when it ends.

        It calls neither function for a dry run, nor if there is nothing to do.
        """
        self.study, self._began, self._sent = study, time.monotonic(), set()
        if self.webhook and workflow is not None:
            workflow.onsuccess(lambda log: self.finished(workflow))
            workflow.onerror(lambda log: self.failed(workflow, log))

    def send(self, event: str, text: str, **facts: Any) -> None:
        """Begin to deliver a message, unless this run has sent one of this kind."""
        if self.webhook is None or event in self._sent:
            return
        self._sent.add(event)
        facts = {"seconds": round(time.monotonic() - self._began)} | facts
        message = Message(event, self.study, text, facts)
        thread = threading.Thread(target=deliver, args=(self.webhook, message), daemon=True)
        self._deliveries.append(thread)
        thread.start()

    def end(self, event: str, text: str, **facts: Any) -> None:
        """Send the last message of a run, and wait for all deliveries for at most `PATIENCE`."""
        self.send(event, text, **facts)
        until = time.monotonic() + PATIENCE
        for thread in self._deliveries:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                _say(self.webhook, f"has not answered for {PATIENCE:.0f} seconds")
        self._deliveries = []

    def finished(self, workflow: Any) -> None:
        """The run has made everything. `workflow` is Snakemake's own."""
        if self.webhook and not workflow.touch:
            done = workflow.scheduler.finished_jobs
            self.end(FINISHED, f"{done} jobs in {self._duration()}.", jobs=done)

    def failed(self, workflow: Any, log: str | None) -> None:
        """The run has ended early, because jobs failed or because it was stopped."""
        if not self.webhook or workflow.touch:
            return
        names = sorted(map(_name, workflow.scheduler.failed))
        more = f" and {len(names) - NAMED_JOBS} more" if len(names) > NAMED_JOBS else ""
        which = f"Failed: {', '.join(names[:NAMED_JOBS])}{more}." if names else "It was stopped."
        where = f" Log: {log}" if log else ""
        self.end(FAILED, f"{which} After {self._duration()}.{where}", failed=names)

    def _duration(self) -> str:
        minutes, seconds = divmod(round(time.monotonic() - self._began), 60)
        hours, minutes = divmod(minutes, 60)
        if hours:
            return f"{hours} h {minutes} min"
        return f"{minutes} min" if minutes else f"{seconds} s"


def _name(job: Any) -> str:
    """The rule of a job of Snakemake, with its wildcards."""
    rules: Iterable[str] = job.rules if job.is_group() else [job.rule.name]
    wildcards = {} if job.is_group() else job.wildcards_dict
    values = " ".join(f"{name}={value}" for name, value in sorted(wildcards.items()))
    return " ".join(filter(None, ["+".join(rules), values]))


def deliver(webhook: Webhook, message: Message) -> None:
    """Post a message, and post it again while the server cannot be reached or is overloaded.

    A post that had no answer in time is not repeated, because it may have arrived.
    """
    import requests  # takes a fifth of a second, and few runs need it

    arguments = FORMS[webhook.form](message)
    if webhook.token:
        headers = arguments.get("headers", {}) | {"Authorization": f"Bearer {webhook.token}"}
        arguments = arguments | {"headers": headers}
    problem = ""
    for pause in PAUSES:
        time.sleep(pause)
        try:
            with requests.post(
                webhook.url, timeout=TIMEOUT, allow_redirects=False, stream=True, **arguments
            ) as answer:
                status = answer.status_code
        except (requests.ConnectTimeout, requests.ConnectionError) as error:
            problem = type(error).__name__  # its text has the URL
        except Exception as error:
            problem = type(error).__name__
            break
        else:
            if status < 300:
                return
            problem = f"HTTP {status}"
            if status not in RETRIED:
                break
    _say(webhook, f"did not take the message `{message.event}` ({problem})")


def _say(webhook: Webhook | None, text: str) -> None:
    print(printable(f"The webhook at {webhook.host if webhook else ''} {text}."), file=sys.stderr)


NOTIFIER = Notifier()  # of this process, which is one run
