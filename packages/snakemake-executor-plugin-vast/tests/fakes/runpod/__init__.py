"""A fake RunPod: its REST API v2 and what its official client calls of the older GraphQL API.

Its machines, its clock, its money and its faults are those of the fake Vast, but for what RunPod
does otherwise (`pods`).
"""

from .fake import FakeRunPod

__all__ = ["FakeRunPod"]
