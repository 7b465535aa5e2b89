"""States as a job answers them, for the tests of `jitwatch top`."""

from __future__ import annotations

from typing import Any

from jitwatch.top.fetching import Answer
from jitwatch.top.figures import Figures
from jitwatch.top.reading import figures_of
from jitwatch.top.tracking import Process, Status, Track

URL = "http://127.0.0.1:10431"


def function(name: str = "train.train_step", **fields: Any) -> dict[str, Any]:
    """A row of a function that compiled once, in a second."""
    return {
        "function": name,
        "location": "/home/user/train.py:7",
        "compiles": 1,
        "recompiles": 0,
        "failures": 0,
        "seconds": 1.0,
        "lost_seconds": 0.0,
        "lost_ratio": 0.0,
        "cache_entries": 1,
        "causes": {},
        "is_in_storm": False,
        **fields,
    }


def site(name: str = "train.train_step", **fields: Any) -> dict[str, Any]:
    """A line whose recompiles are told."""
    return {
        "function": name,
        "call_site": "/home/user/train.py:88",
        "recompiles": 2,
        "last_time": None,
        "lost_seconds": 1.5,
        "causes": ["static_arg"],
        "paths": ["length"],
        "reason": "length 11 → 12",
        "advice": "Pass length as an ordinary argument instead of a static one",
        "pitfall": None,
        **fields,
    }


def pitfall(name: str = "train.train_step", **fields: Any) -> dict[str, Any]:
    """A known mistake."""
    return {
        "pitfall": "static_arg_churn",
        "function": name,
        "location": "/home/user/train.py:7",
        "call_site": "/home/user/train.py:88",
        "message": "the static argument length took 12 different values, and each one is a compile",
        "advice": "Pass length as an ordinary argument instead of a static one",
        "lost_seconds": 0.5,
        "timestamp": "2026-01-01T00:00:00.000Z",
        **fields,
    }


def state(*functions: dict[str, Any], totals: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A state of these functions, ten minutes after the start."""
    sums = {
        name: sum(row[name] for row in functions if row["function"] != "__jax__")
        for name in ("compiles", "recompiles", "failures", "lost_seconds", "lost_ratio")
    }
    return {
        "version": "0.1.0",
        "pid": 7,
        "run": "4711",
        "process_index": None,
        "time": 1600.0,
        "start_time_seconds": 1000.0,
        "uptime_seconds": 600.0,
        "steady_seconds": None,
        "mean_step_seconds": 0.25,
        "step": 1200,
        "totals": {
            **sums,
            "busy_ratio": 0.25,
            "storms_active": sum(row["is_in_storm"] for row in functions),
            "steady_violations": 0,
            "donation_violations": 0,
            **(totals or {}),
        },
        "health": {"level": "good", "sentence": "Healthy: nothing was compiled twice.", "others": []},
        "in_progress": [],
        "functions": list(functions),
        "call_sites": [],
        "pitfalls": [],
        "memory": {
            "devices": [
                {"device": "gpu:0", "in_use_bytes": 34 * 2**30, "limit_bytes": 80 * 2**30, "in_use_ratio": 0.425,
                 "in_use_from": "device"},
                {"device": "gpu:1", "in_use_bytes": 12 * 2**30, "limit_bytes": 80 * 2**30, "in_use_ratio": 0.15,
                 "in_use_from": "device"},
            ],
            "host": {"resident_bytes": 500 * 2**20},
            "pressure": [],
            "leaks": [],
        },
        "metrics": {},
        **fields,
    }  # fmt: skip


def figures(*functions: dict[str, Any], **fields: Any) -> Figures:
    """The figures of such a state."""
    found = figures_of(state(*functions, **fields))
    assert found is not None
    return found


def process(*functions: dict[str, Any], url: str = URL, status: Status = "live", **fields: Any) -> Process:
    """A job in such a state."""
    return Process(url, status, figures=figures(*functions, **fields))


def health(*told: tuple[str, str]) -> dict[str, Any]:
    """What an agent says of its job, the worst first."""
    first, *others = [{"level": level, "sentence": sentence} for level, sentence in told]
    return first | {"others": others}


def tracked(*answers: tuple[float, Answer | dict[str, Any]], now: float) -> Process:
    """A job that gave these answers at these times, as it is shown at another."""
    track = Track(URL, answers[0][0] if answers else now)
    for at, answer in answers:
        track.take(answer if isinstance(answer, Answer) else Answer(figures_of(answer)), at)
    return track.process(now)
