"""A training without torch: every step hashes the one before, so that a wrong resume shows."""

import hashlib
import os
import shutil
import sys
import time
from pathlib import Path

data, model, summary, state, steps, seconds, trouble, turn = sys.argv[1:]
home = Path(state)
home.mkdir(parents=True, exist_ok=True)
states = sorted(home.glob("checkpoint-*/complete"), key=lambda p: int(p.parent.name[11:]))
step, weights = 0, hashlib.sha256(Path(data).read_bytes()).hexdigest()
if states:
    step, weights = int(states[-1].parent.name[11:]), (states[-1].parent / "weights").read_text()
    print(f"resumed at {step}", flush=True)

while step < int(steps):
    time.sleep(float(seconds))
    step += 1
    weights = hashlib.sha256(f"{weights} {step}".encode()).hexdigest()
    print(f"step {step}", flush=True)
    if step % 3 == 0:
        folder = home / f"checkpoint-{step}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "weights").write_text(weights)
        (folder / "complete").touch()
        for old in home.glob("checkpoint-*"):
            if int(old.name[11:]) < step - 3:
                (old / "complete").unlink(missing_ok=True)
                shutil.rmtree(old)
    if step == 12 and trouble == "exit" and turn == "1":
        sys.exit("the rule's own fault")
    while step == 12 and trouble == "flood" and turn == "1":
        print("x" * 9_999, flush=True)
        time.sleep(0.001)
    if step == 12 and trouble == "disk":
        Path("scratch").write_bytes(bytes(60_000_000))
        os.remove("scratch")
    if step == 12 and trouble == "stall" and not (home / "stalled").exists():
        (home / "stalled").touch()
        time.sleep(3600)

Path(model).mkdir(parents=True)
Path(model, "weights").write_text(weights)
if trouble == "trickle":  # more than what passes before the wire trickles
    Path(model, "ballast").write_bytes(bytes(3_000_000))
Path(summary).write_text(f"{step}\n")
shutil.rmtree(home)
