"""Observes when the job clears JAX's caches: `jax.clear_caches()` and `f.clear_cache()`, however they were imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.observer import Observer
from jitwatch.jaxhooks.patcher import Patcher


def watch_clearing(patcher: Patcher, on_cleared: Callable[[], None]) -> None:
    """Call `on_cleared` after each clearing, in the thread that clears."""
    for hook in (compat.CLEAR_ALL, compat.CLEAR_ONE):
        patcher.observe(hook, _Clearing(on_cleared))


class _Clearing(Observer):
    def __init__(self, on_cleared: Callable[[], None]) -> None:
        self._on_cleared = on_cleared

    def begun(self, *args: Any, **kwargs: Any) -> Any:
        return True

    def ended(self, state: Any, result: Any) -> None:
        self._on_cleared()
