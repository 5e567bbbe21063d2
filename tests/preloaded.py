"""A server that runs jobs and ranks in forks of a process that has imported torch.

A job of a small study imports torch, transformers and what stands on them for 5 seconds and then
works for one, and so does a rank of a small training. `start/sitecustomize.py` lets the Python that
is started for it hand its command to this server. The fork imports `ablation` afresh, from the
checkout of its job. `make test-study` does without it, and so does the rehearsal.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cache
from pathlib import Path

VARIABLE = "ABLATION_TESTS_PRELOADED"  # where sitecustomize.py finds the socket
START = str(Path(__file__).with_name("start"))  # for PYTHONPATH: the folder of sitecustomize.py
EXIT = os._exit
OFFLINE = {"HF_HUB_OFFLINE": "1"}
IMPORTED = """
accelerate datasets lm_eval.api.task lm_eval.tasks pandas pyarrow.parquet sklearn.linear_model
torch.distributed.fsdp torch.nn.attention.flex_attention transformers.trainer
transformers.integrations.finegrained_fp8 transformers.loss.loss_utils
""".split()


@cache
def server(hub_cache: str = "") -> str:
    """The socket of a server, which ends with this process.

    hub_cache: HF_HUB_CACHE, which transformers reads when it is imported.
    """
    path = str(Path(tempfile.mkdtemp()) / "server")
    environment = os.environ | OFFLINE | {"PYTHONPATH": START}
    started = subprocess.Popen(
        [sys.executable, __file__, path],
        env=environment | ({"HF_HUB_CACHE": hub_cache} if hub_cache else {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout.readline() == "ready\n"
    return path


# ---- in the server -------------------------------------------------------------------------------


def serve(path: str) -> None:
    """Answer at the socket `path` until stdin closes, which it does when the tests end."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    for name in IMPORTED:
        importlib.import_module(name)
    for name in ("ministral3", "llama", "qwen3", "auto"):
        importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks that have ended leave no zombies
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        print("ready", flush=True)
        while True:
            client, _ = server.accept()
            if os.fork() == 0:
                server.close()
                EXIT(_answer(client))
            client.close()


def _end_with_stdin() -> None:
    os.read(0, 1)
    os._exit(0)


def _answer(client: socket.socket) -> int:
    """Run the command that the client sends, with its streams, and send the exit code."""
    os.setsid()  # a rank ends with its group of processes
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    job, streams, _, _ = socket.recv_fds(client, 1 << 20, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    threading.Thread(target=_end_with_client, args=(client,), daemon=True).start()
    code = _run(**json.loads(job))
    sys.stdout.flush()
    sys.stderr.flush()
    client.sendall(bytes([code]))
    return code


def _end_with_client(client: socket.socket) -> None:
    """End, with all processes, when the process that was started for the command has ended."""
    if not client.recv(1):
        os.killpg(0, signal.SIGKILL)


def _run(words: list[str], folder: str, environment: dict[str, str]) -> int:
    """Run `[SCRIPT, ...]` or `["-m", MODULE, ...]`."""
    os.chdir(folder)
    os.environ.clear()
    os.environ |= environment
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    if "OMP_NUM_THREADS" in environment:  # torch has read that of the server
        sys.modules["torch"].set_num_threads(int(environment["OMP_NUM_THREADS"]))
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            os._exit = sys.exit  # a rank's last call; its code must still be sent
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
