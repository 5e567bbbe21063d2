"""Promise: a training killed at any moment, twice, ends with the bits of one that was not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("dtype, kills", [("float32", 10), ("bfloat16", 4)])
def test_killed_trainings_end_bit_equal(tmp_path, dtype, kills):
    harness = Path(__file__).with_name("kill_harness.py")
    done = subprocess.run(
        [sys.executable, str(harness), str(tmp_path), str(kills), dtype],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert len(report["kills"]) == kills
    assert not [kill for kill in report["kills"] if not kill["equal"]]
    assert [kill for kill in report["kills"] if kill["killed"]]
    assert [kill for kill in report["kills"] if kill["resumed_from"] > 0]
