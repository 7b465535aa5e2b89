"""States as a job answers them, for the tests of `jitwatch top`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from jitwatch.top.model import Answer, JobState, Process, Status, in_order, state_of

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
        "level": "good",
        **fields,
    }


def site(name: str = "train.train_step", **fields: Any) -> dict[str, Any]:
    """A call site that recompiled twice."""
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
    """A pitfall."""
    return {
        "pitfall": "static_arg_churn",
        "function": name,
        "location": "/home/user/train.py:7",
        "call_site": "/home/user/train.py:88",
        "message": "the static argument length had 12 different values, and each one needed a compile",
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
        "health": {"level": "good", "sentence": "Healthy: no function has recompiled.", "others": []},
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


def cleaned(*functions: dict[str, Any], **fields: Any) -> JobState:
    """Such a state as it is after it was read."""
    found = state_of(state(*functions, **fields))
    assert found is not None
    return found


def process(*functions: dict[str, Any], url: str = URL, status: Status = "live", **fields: Any) -> Process:
    """A job in such a state."""
    return Process(url, status, state=cleaned(*functions, **fields))


def health(*pairs: tuple[str, str]) -> dict[str, Any]:
    """What an agent reports of its health, the worst first."""
    first, *others = [{"level": level, "sentence": sentence} for level, sentence in pairs]
    return first | {"others": others}


def tracked(*answers: tuple[float, Answer | dict[str, Any]], now: float) -> Process:
    """A job that gave these answers at these times, as it is shown at another."""
    job = Process(URL, "new", answered=answers[0][0] if answers else now)
    for at, answer in answers:
        job = job.after(answer if isinstance(answer, Answer) else Answer(state_of(answer)), at)
    return job.at(now)


class Shown:
    """What the live view asks of a client, without threads: jobs in these states, or that never answered.

    Each is at a port of its own from 10431 on. `news` is a new answer of the first job; time passes by setting `now`.
    """

    nothing_found = "No job with jitwatch responds on this machine (127.0.0.1, ports 10431 to 10494)"

    def __init__(self, *states: JobState | None) -> None:
        self.is_paused, self.answers, self.now = False, 0, 0.0
        self._states = list(states)

    def clock(self) -> float:
        return self.now

    def news(self, state: JobState) -> None:
        self._states[:1] = [state]
        self.answers += 1

    def processes(self) -> list[Process]:
        found = []
        for number, one in enumerate(self._states):
            url, status = f"http://127.0.0.1:{10431 + number}", "live" if one is not None else "new"
            found.append(Process(url, status, problem="nothing listens there", state=one).at(self.now))  # type: ignore[arg-type]
        return in_order(found)


def screens(client: Any, *keys: str | Callable[[], None], size: tuple[int, int] = (80, 24)) -> list[list[str]]:
    """The lines of the live view at its start and after each key.

    Args:
        client: Its jobs are shown.
        keys: Names of keys; `resize:40x10` is a new size. A function is called, and the view has time to notice.
        size: Columns and rows of the terminal.
    """
    # Imported here: the other tests do without textual.
    from jitwatch.top.app import TopApp

    async def run() -> list[list[str]]:
        found = []
        async with TopApp(client, beat_s=0.005).run_test(size=size) as pilot:
            for key in (None, *keys):
                if callable(key):
                    key()
                    await pilot.pause(0.02)
                    await pilot.pause()
                elif key and key.startswith("resize:"):
                    columns, _, rows = key.partition(":")[2].partition("x")
                    await pilot.resize_terminal(int(columns), int(rows))
                    while pilot.app.screen.size != (int(columns), int(rows)):
                        await pilot.pause(0.01)
                elif key:
                    await pilot.press(key)
                strips = pilot.app.screen._compositor.render_strips()
                found.append(["".join(part.text for part in strip).rstrip() for strip in strips])
        return found

    return asyncio.run(run())


def on_screen(client: Any, *keys: str | Callable[[], None], size: tuple[int, int] = (80, 24)) -> list[str]:
    """The lines of the live view after these keys."""
    return screens(client, *keys, size=size)[-1]
