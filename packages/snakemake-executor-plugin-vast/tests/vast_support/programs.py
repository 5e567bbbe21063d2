"""What tests need of this computer's programs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

needs_rsync = pytest.mark.skipif(
    shutil.which("rsync") is None, reason="needs rsync: apt-get install rsync"
)


def environment_with(package: str, folder: Path) -> Path:
    """The Python of a new environment in `folder` with nothing but a package of the registry."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    subprocess.run([python, "-m", "pip", "install", "-q", package], check=True)
    return python


# Code after which a Python reaches no other computer.
ONLY_THIS_COMPUTER = """\
import socket

resolve = socket.getaddrinfo


def getaddrinfo(host, *more, **options):
    if host != "127.0.0.1":
        raise OSError(f"{host} is another computer")
    return resolve(host, *more, **options)


socket.getaddrinfo = getaddrinfo
"""
