"""A webhook on loopback that records what it gets, and answers as the test says."""

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from tests.support.loopback import serving


@contextmanager
def webhook(*answers, hold=None):
    """(URL, posts) of a server that gives `answers` in turn, HTTP statuses, and then 200.

    hold: an event for which every answer waits. Each post is (path, headers, body).
    """
    posts, left = [], list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            posts.append((self.path, dict(self.headers), body))
            status = left.pop(0) if left else 200
            if hold is not None:
                hold.wait()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with serving(Handler) as address:
        try:
            yield f"{address}/secret-path", posts
        finally:
            if hold is not None:
                hold.set()


def bodies(posts):
    """The bodies of posts in JSON."""
    return [json.loads(body) for _, _, body in posts]
