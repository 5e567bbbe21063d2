"""Python reads this as it starts, in the processes of a study's tests.

They collect garbage seldom: a fifth of importing torch and transformers is the collector's walks
through what was just imported. Scripts of Snakemake's jobs run in forks of a server that has
imported torch (`tests/preloaded.py`), if one is named in the environment.
"""

import gc
import json
import os
import socket
import sys

gc.set_threshold(100_000, 20, 100)


def run_by_server(path: str, script: str) -> int:
    """Let the server at the socket `path` run the script, and return its exit code."""
    job = {"script": script, "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [json.dumps(job).encode()], [0, 1, 2])
        code = server.recv(1)
    return code[0] if code else 1


server = os.environ.get("ABLATION_TESTS_PRELOADED")
if server and "/.snakemake/scripts/" in sys.orig_argv[-1]:
    os._exit(run_by_server(server, sys.orig_argv[-1]))
