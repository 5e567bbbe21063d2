"""Promises of notifications: one message of each kind in a run, soon, without secrets."""

import socket
import threading
import time
from types import SimpleNamespace

import pytest

from ablation.workflow import notifications
from ablation.workflow.notifications import (
    BUDGET,
    FAILED,
    FORM,
    PATIENCE,
    PAUSES,
    TOKEN,
    URL,
    Message,
    Notifier,
    deliver,
    webhook_of,
)
from tests.support.webhook_server import bodies, webhook

SECRET = "secret-path"
MESSAGE = Message(FAILED, "mine", "Failed: base <1 & 2>.", {"seconds": 3})


def job(rule, **wildcards):
    return SimpleNamespace(
        rule=SimpleNamespace(name=rule), wildcards_dict=wildcards, is_group=lambda: False
    )


def workflow(*failed, finished=0, touch=False):
    """What a notification reads of Snakemake's workflow."""
    scheduler = SimpleNamespace(failed=set_of(failed), finished_jobs=finished)
    return SimpleNamespace(scheduler=scheduler, touch=touch)


def set_of(jobs):
    return {id(job): job for job in jobs}.values()  # namespaces cannot be hashed


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(notifications, "PAUSES", (0.0, 0.01, 0.01, 0.01))


def notifier(url, **variables):
    made = Notifier()
    environment = {URL: url, **variables}
    assert made.take(environment) == "" and environment == {}
    made.begin("mine")
    return made


# ---- forms ---------------------------------------------------------------------------------------


def test_the_plain_form_has_the_event_and_the_facts():
    with webhook() as (url, posts):
        deliver(webhook_of(url), MESSAGE)
    expected = {"event": "failed", "study": "mine", "text": MESSAGE.text, "seconds": 3}
    assert bodies(posts) == [expected]
    assert posts[0][1]["Content-Type"] == "application/json"


def test_the_slack_form_is_one_text_whose_signs_are_escaped():
    with webhook() as (url, posts):
        deliver(webhook_of(url, "slack"), MESSAGE)
    text = "Study mine has failed. Failed: base &lt;1 &amp; 2&gt;."
    assert bodies(posts) == [{"text": text}]


def test_the_ntfy_form_has_a_title_a_priority_and_the_text_as_body():
    with webhook() as (url, posts):
        deliver(webhook_of(url, "ntfy", "tk_token"), MESSAGE)
    ((_, headers, body),) = posts
    assert body == MESSAGE.text.encode()
    assert headers["Title"] == "Study mine has failed" and headers["Priority"] == "high"
    assert headers["Authorization"] == "Bearer tk_token"


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("https://hooks.slack.com/services/T/B/X", "slack"),
        ("https://ntfy.sh/topic", "ntfy"),
        ("https://ntfy.example.org/topic", "ntfy"),
        ("https://example.org/hooks.slack.com", "json"),
        ("https://hooks.slack.com.example.org/", "json"),
    ],
)
def test_the_form_follows_from_the_host(url, form):
    assert webhook_of(url).form == form and webhook_of(url, "json").form == "json"


@pytest.mark.parametrize(
    "url", ["secret", "ftp://h/secret", "https:///secret", "http://[secret", "http://h:x/secret"]
)
def test_a_url_that_cannot_be_used_is_refused_without_its_text(url):
    made, environment = Notifier(), {URL: url}
    problem = made.take(environment)
    assert "ABLATION_WEBHOOK" in problem and "secret" not in problem and not environment
    assert "one of json, slack, ntfy" in made.take({URL: "https://h/x", FORM: "discord"})


# ---- what is sent --------------------------------------------------------------------------------


def test_a_run_sends_each_kind_once(capsys):
    with webhook() as (url, posts):
        made = notifier(url)
        made.send(BUDGET, "$5.00 spent")
        made.send(BUDGET, "$5.00 spent")
        for _ in range(2):
            made.failed(workflow(job("stage3_finetune", recipe="3B", seed="31")), "a.log")
        made.begin("mine")  # another run of the same process
        made.finished(workflow(finished=7))
    assert sorted(b["event"] for b in bodies(posts)) == ["budget", "failed", "finished"]
    failed = next(b for b in bodies(posts) if b["event"] == "failed")
    assert failed["failed"] == ["stage3_finetune recipe=3B seed=31"]
    assert failed["text"].endswith("Log: a.log") and "recipe=3B seed=31" in failed["text"]
    assert next(b for b in bodies(posts) if b["event"] == "finished")["jobs"] == 7
    assert capsys.readouterr().err == ""


def test_many_failed_jobs_are_counted_and_a_stopped_run_says_so():
    with webhook() as (url, posts):
        notifier(url).failed(workflow(*(job(f"r{n}") for n in range(9))), None)
        notifier(url).failed(workflow(), None)
    many, stopped = bodies(posts)
    assert "r4 and 4 more" in many["text"] and len(many["failed"]) == 9
    assert stopped["text"].startswith("It was stopped.")


def test_nothing_is_sent_without_a_webhook_or_by_touch():
    with webhook() as (url, posts):
        notifier(url).finished(workflow(touch=True))
        notifier(url).failed(workflow(touch=True), None)
        nothing = Notifier()
        assert nothing.take({}) == "" and nothing.webhook is None
        nothing.finished(None)
        nothing.failed(None, None)
        nothing.send(BUDGET, "x")
    assert posts == []


def test_no_job_inherits_the_webhook():
    environment = {URL: "https://h/secret", FORM: "json", TOKEN: "t", "PATH": "/bin"}
    made = Notifier()
    made.take(environment)
    assert environment == {"PATH": "/bin"} and "secret" not in repr(made.webhook)
    made.take(environment)  # the Snakefile is read once more
    assert made.webhook.host == "h"


# ---- faults --------------------------------------------------------------------------------------


def test_an_overloaded_server_is_asked_again_until_it_takes_the_message(capsys):
    with webhook(503, 429) as (url, posts):
        notifier(url).finished(workflow())
    assert len(posts) == 3 and capsys.readouterr().err == ""


@pytest.mark.parametrize(("answers", "expected"), [((404,), 1), ((302,), 1), ((503,) * 9, 4)])
def test_a_server_that_refuses_is_named_without_the_path(answers, expected, capsys):
    with webhook(*answers) as (url, posts):
        notifier(url).finished(workflow())
    error = capsys.readouterr().err
    assert len(posts) == expected and f"HTTP {answers[0]}" in error and "127.0.0.1" in error
    assert SECRET not in error and len(error.splitlines()) == 1


def test_a_server_that_is_down_is_tried_again_and_named_without_the_path(capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/{SECRET}"
    notifier(url).finished(workflow())
    error = capsys.readouterr().err
    assert "ConnectionError" in error and SECRET not in error


def test_a_server_that_never_answers_delays_the_end_by_the_patience_and_gets_one_post(
    capsys, monkeypatch
):
    monkeypatch.setattr(notifications, "TIMEOUT", 0.2)
    with webhook(hold=threading.Event()) as (url, posts):
        notifier(url).finished(workflow())
        assert len(posts) == 1  # it may have arrived
    assert "ReadTimeout" in capsys.readouterr().err
    monkeypatch.setattr(notifications, "TIMEOUT", 30.0)
    monkeypatch.setattr(notifications, "PATIENCE", 0.2)
    with webhook(hold=threading.Event()) as (url, _):
        began = time.monotonic()
        notifier(url).finished(workflow())
        assert time.monotonic() - began < 5
    error = capsys.readouterr().err
    assert "has not answered" in error and SECRET not in error


def test_the_end_of_a_run_waits_for_seconds_at_most():
    assert sum(PAUSES) < PATIENCE <= 10
