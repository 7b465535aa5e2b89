"""Every test leaves the process as it found it: JAX's names, listeners, threads, sockets, files."""

from __future__ import annotations

import gc
import os
import sys
import threading
import warnings

import pytest

import jitwatch
from jitwatch import guard
from jitwatch.jaxhooks import compat

HOOKS = (compat.infer_hook(), compat.LOWER, compat.COMPILE, compat.CREATE)
if compat.has_pmap_path():
    HOOKS += compat.PMAP
LISTENER_KINDS = ("scalar", "event_duration_secs", "event")


def patched_names() -> dict[str, object]:
    """The objects behind every name of JAX that the agent replaces, `jax.jit` among them."""
    import jax

    names: dict[str, object] = {f"{hook.owner}.{hook.attribute}": getattr(hook.resolve(), hook.attribute) for hook in HOOKS}
    return names | {"jax.jit": jax.jit, "jax.pmap": jax.pmap}


def listeners() -> dict[str, list[object]]:
    """What is registered on jax.monitoring."""
    module = sys.modules["jax._src.monitoring"]
    return {kind: list(getattr(module, f"_{kind}_listeners")) for kind in LISTENER_KINDS}


def excluded_files() -> list[list[str]]:
    """Files that JAX hides from tracebacks and program locations."""
    modules = ("jax._src.traceback_util", "jax._src.source_info_util")
    return [list(sys.modules[name]._exclude_paths) for name in modules]


def open_files() -> dict[str, str]:
    """Open file descriptors of this process and what they point to."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
    return found


def own_threads() -> list[str]:
    """Names of living threads that the agent started."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("jitwatch")]


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch):
    """Failures of ours are raised, and after the test nothing of the agent is left."""
    monkeypatch.setattr(guard, "reraise", True)
    for name in [name for name in os.environ if name.startswith("JITWATCH_")]:
        monkeypatch.delenv(name)
    names, heard, hidden, finders = patched_names(), listeners(), excluded_files(), list(sys.meta_path)
    sockets = {target for target in open_files().values() if target.startswith("socket:")}
    yield
    jitwatch.uninstall()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert names == patched_names()
    assert heard == listeners()
    assert hidden == excluded_files()
    assert finders == sys.meta_path
    assert [] == own_threads()
    assert sockets >= {target for target in open_files().values() if target.startswith("socket:")}
