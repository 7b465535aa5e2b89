"""A unit test starts no process: such tests are in `tests/process`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit import reuse

reuse.reuse_contexts()
reuse.reuse_programs()

_STARTS = frozenset({"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"})
#: More workers than cores are used on so many cores at most: each worker imports JAX.
_FEW_CORES = 8
#: What the running unit test has started; None outside of one.
_started: list[str] | None = None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """For `-n auto`: unit tests wait a third of their time, for threads and time limits. Other tests do not."""
    is_unit = all(Path(one).resolve().is_relative_to(Path(__file__).parent) for one in config.args)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not is_unit or cores > _FEW_CORES or "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # as pytest-xdist decides
    return cores * 3 // 2


def _note_start(event: str, arguments: tuple[object, ...]) -> None:
    if _started is not None and event in _STARTS:
        _started.append(f"{event} {arguments}")
        raise AssertionError(f"a unit test starts a process: {event} {arguments}")


def pytest_collection_finish() -> None:
    """An audit hook cannot be removed, and costs time at each import."""
    sys.addaudithook(_note_start)


@pytest.fixture(autouse=True)
def no_process_is_started() -> Iterator[None]:
    """Fail a test that starts a process, also where the error that it gets is caught."""
    global _started
    _started = []
    yield
    started, _started = _started, None
    assert [] == started


@pytest.fixture
def compiled_anew() -> Iterator[None]:
    """XLA compiles each program of the test, though another test may have compiled the same one."""
    with reuse.compiled_anew():
        yield
