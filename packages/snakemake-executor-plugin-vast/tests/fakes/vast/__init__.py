"""A fake Vast: its REST API over HTTP, machines that are real sshd processes, money and faults.

`fake_vast` in tests/conftest.py gives one; `python -m fakes.vast --port 8900` plays by hand.
"""

from .fake import FakeVast
from .machine import what_is_missing
from .market import Offer

__all__ = ["FakeVast", "Offer", "what_is_missing"]
