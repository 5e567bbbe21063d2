#!/usr/bin/env python3
"""A machine without a network: the program `ssh` that runs rsync here, below the folder $MACHINE.

Absolute paths of the command get that folder before them, as if it were the machine's root.
"""

import os
import shlex
import sys

command = shlex.split(" ".join(sys.argv[sys.argv.index("--") + 2 :]))
root = os.environ["MACHINE"]
os.execvp(command[0], [root + word if word.startswith("/") else word for word in command])
