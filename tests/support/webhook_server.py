"""A webhook on loopback that records what it gets, and answers as the test says."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/secret-path", posts
    finally:
        if hold is not None:
            hold.set()
        server.shutdown()
        thread.join()
        server.server_close()


def bodies(posts):
    """The bodies of posts in JSON."""
    return [json.loads(body) for _, _, body in posts]
