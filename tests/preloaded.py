"""A server that runs scripts of jobs in forks of a process that has imported torch.

A job of a small study imports torch, transformers and what stands on them for 5 seconds and then
works for one. `start/sitecustomize.py` lets the Python that Snakemake starts for a script hand the
script to this server. The fork imports `ablation` afresh, from the checkout of its job. `make
test-study` does without it, as do the rehearsal and the study of a hub's model.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
import traceback

IMPORTED = """
accelerate datasets lm_eval.api.task lm_eval.tasks pandas pyarrow.parquet sklearn.linear_model
torch.distributed.fsdp torch.nn.attention.flex_attention transformers.trainer
transformers.integrations.finegrained_fp8 transformers.loss.loss_utils
""".split()


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
                os._exit(_answer(client))
            client.close()


def _end_with_stdin() -> None:
    os.read(0, 1)
    os._exit(0)


def _answer(client: socket.socket) -> int:
    """Run the script that the client sends, with its streams, and send the exit code."""
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
    """Snakemake kills the process that it started; the fork ends with it."""
    if not client.recv(1):
        os._exit(1)


def _run(script: str, folder: str, environment: dict[str, str]) -> int:
    os.chdir(folder)
    os.environ.clear()
    os.environ |= environment
    sys.argv = [script]
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
