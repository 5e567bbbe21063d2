"""The form of a machine's report on a job. A machine may answer anything."""

from __future__ import annotations

from typing import Any

LONGEST = 1e9  # seconds of a job
REPORT = {
    "output": str,
    "size": int,
    "alive": bool,
    "gpu": int | None,
    "mark": str | None,
    "exit": dict | None,
}
EXIT = {"code": int, "seconds": float | int, "files": dict, "missing": list}


def checked_report(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer to `look`, with the fields and types that it must have. Raises ValueError."""
    _check(answer, REPORT)
    if (ended := answer["exit"]) is not None:
        _check(ended, EXIT)
        texts = [*ended["files"], *ended["files"].values(), *ended["missing"]]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("the record of the job's files has values that are no text")
        if not 0 <= ended["seconds"] < LONGEST:  # it goes into the ledger, whose JSON has no NaN
            raise ValueError(f"the job is said to have taken {ended['seconds']} seconds")
    return answer


def _check(answer: dict[str, Any], form: dict[str, Any]) -> None:
    for key, kind in form.items():
        if key not in answer or not isinstance(answer[key], kind):
            found = repr(answer.get(key))[:80]
            raise ValueError(f"the machine's report has {key}: {found}, and {kind} was expected")
