"""What tests need of this computer's programs."""

import shutil

import pytest

needs_rsync = pytest.mark.skipif(
    shutil.which("rsync") is None, reason="needs rsync: apt-get install rsync"
)

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
