"""What tests need of this computer's programs."""

import shutil

import pytest

needs_rsync = pytest.mark.skipif(
    shutil.which("rsync") is None, reason="needs rsync: apt-get install rsync"
)
