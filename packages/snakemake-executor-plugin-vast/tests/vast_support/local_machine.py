#!/usr/bin/env python3
"""A machine without a network: the program `ssh` that runs rsync here, below the folder $MACHINE.

Absolute paths of the command get that folder before them, as if it were the machine's root. With
$MACHINE_RATE the machine sends and reads that many KiB a second.
"""

import os
import shlex
import subprocess
import sys
import time

command = shlex.split(" ".join(sys.argv[sys.argv.index("--") + 2 :]))
root = os.environ["MACHINE"]
command = [root + word if word.startswith("/") else word for word in command]
if not (rate := int(os.environ.get("MACHINE_RATE", 0))):
    os.execvp(command[0], command)
slow = [command[0], f"--bwlimit={rate}", *command[1:]]
with subprocess.Popen(slow, stdin=subprocess.PIPE) as process:
    while block := os.read(0, 1024):
        process.stdin.write(block)
        process.stdin.flush()
        time.sleep(1 / rate)
