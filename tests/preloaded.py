"""Servers that run commands in forks of a process that has imported torch, or Snakemake.

A job of a small study imports torch, transformers and what stands on them for 5 seconds and then
works for one, and so does a rank of a small training. Half of a small run of Snakemake is imports,
too. `start/sitecustomize.py` lets the Python that is started for them hand its command to these
servers. The fork imports `ablation` afresh, from the checkout that it works in. `make test-study`
does without them.
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
JOBS = """
accelerate datasets lm_eval.api.task lm_eval.tasks pandas pyarrow.parquet sklearn.linear_model
torch.distributed.fsdp torch.nn.attention.flex_attention transformers.trainer
transformers.integrations.finegrained_fp8 transformers.loss.loss_utils
transformers.models.ministral3.modeling_ministral3 transformers.models.llama.modeling_llama
transformers.models.qwen3.modeling_qwen3 transformers.models.auto.modeling_auto
""".split()
SNAKEMAKE = """
snakemake.cli snakemake_storage_plugin_s3 snakemake_executor_plugin_slurm pandas
""".split()


@cache
def servers(hub_cache: str = "") -> str:
    """The folder with the sockets of two servers, `jobs` and `snakemake`.

    They end with this process. hub_cache: HF_HUB_CACHE, which transformers reads when it is
    imported.
    """
    folder = tempfile.mkdtemp()
    _start(f"{folder}/jobs", JOBS, hub_cache)
    _start(f"{folder}/snakemake", SNAKEMAKE, hub_cache)
    return folder


def _start(path: str, imported: list[str], hub_cache: str) -> None:
    from ablation.vocabulary.instructions import environment as held_to

    held = held_to("avx2")  # as the micro study is
    environment = os.environ | OFFLINE | held | {"PYTHONPATH": START}
    started = subprocess.Popen(
        [sys.executable, __file__, path, *imported],
        env=environment | ({"HF_HUB_CACHE": hub_cache} if hub_cache else {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout.readline() == "ready\n"


# ---- in the server -------------------------------------------------------------------------------


def serve(path: str, imported: list[str]) -> None:
    """Answer at the socket `path` until stdin closes, which it does when the tests end."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    for name in imported:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] == "ablation"]:
        del sys.modules[name]  # Snakemake has imported our plugins, with modules of this checkout
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
    torch, threads = sys.modules.get("torch"), environment.get("OMP_NUM_THREADS")
    if torch and threads:  # torch has read that of the server
        torch.set_num_threads(int(threads))
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
    serve(sys.argv[1], sys.argv[2:])
