"""A process that has imported everything and forks one job for each request: a line of JSON in, a line out.

{"agent": true, "fault": ["jitwatch.state.store", "Store.apply", "raise"]}
{"code": 1, "stdout": "…", "stderr": "…", "counted": 1.0, "logged": 1, "seen": [], "seconds": 0.8}
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

_TIMEOUT_S = 90.0


def main() -> None:
    """Answer requests until the input ends."""
    preload()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(outcome_of(json.loads(line))), flush=True)


def preload() -> None:
    """Import what the job needs; JAX makes no backend before the fork."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import importlib
    import pkgutil

    import jax
    import jax.numpy
    import numpy  # noqa: F401 - the same

    jax.config.update("jax_disable_most_optimizations", True)
    import jitwatch

    for one in pkgutil.walk_packages(jitwatch.__path__, "jitwatch."):
        if not one.name.endswith("__main__") and ".testing" not in one.name:
            importlib.import_module(one.name)
    del sys.modules["jitwatch"]  # the bare job finds none
    preload.package = jitwatch  # type: ignore[attr-defined]


def outcome_of(request: dict[str, Any]) -> dict[str, Any]:
    """Fork a job and wait for its end."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        child = os.fork()
        if child == 0:
            _run_job(request, folder)  # never returns
        code = _wait(child)
        found = {one: (folder / one).read_text(errors="replace") if (folder / one).exists() else "" for one in _FILES}
    report = json.loads(found.pop("report") or "{}")
    return {"code": code, **found, **report, "seconds": time.monotonic() - started}


_FILES = ("stdout", "stderr", "log", "report")


def _wait(child: int) -> int:
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        select.select([], [], [], 0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -999


def _run_job(request: dict[str, Any], folder: Path) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    code = 1
    try:
        code = _job(request, folder)
    except BaseException:  # the walk itself failed
        traceback.print_exc()
        code = 97
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _job(request: dict[str, Any], folder: Path) -> int:
    import atexit

    from tests.faults import injection, job

    seen: set[tuple[str, str]] = set()
    watch = None
    package: Any = preload.package  # type: ignore[attr-defined]
    # As the interpreter does at its end: threads are joined first, then what was registered runs.
    exits: list[Any] = []
    atexit.register = lambda function, *args, **kwargs: exits.append((function, args, kwargs)) or function  # type: ignore[assignment,func-returns-value]
    atexit.unregister = lambda function: exits.__setitem__(  # type: ignore[assignment]
        slice(None), [one for one in exits if one[0] != function]
    )
    if request.get("agent"):
        handler = logging.FileHandler(folder / "log")
        logger = logging.getLogger("jitwatch")
        logger.addHandler(handler)
        logger.propagate = False
        sys.modules["jitwatch"] = package
        if request.get("trace"):
            _trace(seen)
        if request.get("fault"):
            module, qualname, mode = request["fault"]
            if not injection.inject(module, qualname, mode):
                (folder / "report").write_text(json.dumps({"skipped": True}))
                return 0
        watch = package.install(port=0, event_log=str(folder / "events.jsonl"), strict=False, sample_interval_s=0.5)
    code = 0
    try:
        job.run()
    except BaseException as error:
        code = 1
        sys.excepthook(type(error), error, error.__traceback__)
    for function, args, kwargs in reversed(exits):
        try:
            function(*args, **kwargs)
        except BaseException as error:
            print("Exception ignored in atexit callback", function, file=sys.stderr)
            sys.excepthook(type(error), error, error.__traceback__)
    sys.setprofile(None)
    threading.setprofile(None)
    report: dict[str, Any] = {"seen": sorted(seen)}
    if watch is not None:
        report |= _figures(watch)
    (folder / "report").write_text(json.dumps(report))
    return code


def _figures(watch: Any) -> dict[str, Any]:
    """What the agent counted, read from the tables themselves: any function may be the one that fails."""
    try:
        return {"counted": sum(watch._agent.store._tables.values["agent_errors"].values())}
    except Exception:
        return {"counted": None}


def _trace(seen: set[tuple[str, str]]) -> None:
    """Note which functions of jitwatch run in threads of the job."""
    import jitwatch

    ours = os.path.dirname(jitwatch.__file__) + os.sep

    def look(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        is_ours = event == "call" and code.co_filename.startswith(ours)
        if is_ours and not threading.current_thread().name.startswith("jitwatch"):
            seen.add((frame.f_globals.get("__name__", ""), code.co_qualname))

    threading.setprofile(look)
    sys.setprofile(look)


if __name__ == "__main__":
    main()
