"""The form of a machine's answers about a job. A machine may answer anything."""

from __future__ import annotations

from typing import Any

LONGEST = 1e9  # seconds of a job
SHOWN = 500  # characters of a list of names in a message
REPORT = {
    "output": str,
    "size": int,
    "alive": bool,
    "gpu": int | None,
    "mark": str | None,
    "exit": dict | None,
}
EXIT = {"code": int, "seconds": float | int, "files": dict, "missing": list, "links": list}


def checked_report(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer to `look`, with the fields and types that it must have. Raises ValueError."""
    _check(answer, REPORT)
    answer["output"].encode("latin-1")  # bytes, as text: its UnicodeEncodeError is a ValueError
    if (ended := answer["exit"]) is not None:
        _check(ended, EXIT)
        _check_texts(
            [*ended["files"], *ended["files"].values(), *ended["missing"], *ended["links"]]
        )
        if not 0 <= ended["seconds"] < LONGEST:  # it goes into the ledger, whose JSON has no NaN
            raise ValueError(f"the job is said to have taken {ended['seconds']} seconds")
    return answer


def checked_parts(answer: dict[str, Any]) -> list[str] | None:
    """The parts of a state in the answer to `snapshot`, None without one. Raises ValueError."""
    _check(answer, {"there": bool})
    if not answer["there"]:
        return None
    _check(answer, {"parts": list})
    _check_texts(answer["parts"])
    parts: list[str] = answer["parts"]
    return parts


def failure(ended: dict[str, Any]) -> str:
    """What is wrong with an ended job, empty if nothing is."""
    if ended["code"]:
        return f"exit code {ended['code']}"
    if not ended["missing"]:
        return ""
    links = sorted({*ended["missing"]} & {*ended["links"]})
    advice = f"; links stay on the machine ({listed(links)}): let the rule write copies"
    return f"did not make {listed(ended['missing'])}" + (advice if links else "")


def listed(names: list[str]) -> str:
    """The names, cut off where they are too many for a message."""
    text = ", ".join(names)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def _check_texts(values: list[Any]) -> None:
    if not all(isinstance(value, str) for value in values):
        raise ValueError("the machine's report has a list of names with values that are no text")


def _check(answer: dict[str, Any], form: dict[str, Any]) -> None:
    for key, kind in form.items():
        if key not in answer or not isinstance(answer[key], kind):
            found = repr(answer.get(key))[:80]
            raise ValueError(f"the machine's report has {key}: {found}, and {kind} was expected")
