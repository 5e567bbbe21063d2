"""Python reads this as it starts, in the processes of a study's tests.

They collect garbage seldom: a fifth of importing torch and transformers is the collector's walks
through what was just imported. Snakemake, scripts of its jobs and ranks of trainings run in forks
of servers that have imported what they need (`tests/preloaded.py`), if the environment names them.
"""

import gc
import json
import os
import signal
import socket
import sys

gc.set_threshold(100_000, 20, 100)


def run_by_server(path: str, words: list[str]) -> int:
    """Let the server at the socket `path` run the command, and return its exit code.

    A rank ends with the process that started it, and so must what stands for it here.
    """
    parent = os.getppid()
    job = {"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [json.dumps(job).encode()], [0, 1, 2])
        code = None
        server.settimeout(0.2)
        while code is None:
            try:
                code = server.recv(1)
            except TimeoutError:
                if is_rank and os.getppid() != parent:
                    os.kill(os.getpid(), signal.SIGKILL)
    if not code:  # the fork was killed
        os.kill(os.getpid(), signal.SIGKILL)
    return code[0]


servers, words = os.environ.get("ABLATION_TESTS_PRELOADED"), sys.orig_argv[1:]
is_job = bool(words) and "/.snakemake/scripts/" in words[0]
is_rank = words[:1] == ["-m"] and words[1] in ("ablation.parallel.rank", "ablation.parallel.join")
is_snakemake = words[:2] == ["-m", "snakemake"] or words[:1] == [f"{sys.prefix}/bin/snakemake"]
if servers and (is_job or is_rank):
    os._exit(run_by_server(f"{servers}/jobs", words))
if servers and is_snakemake:
    os._exit(run_by_server(f"{servers}/snakemake", words))
