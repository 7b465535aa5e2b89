"""Listeners on `jax.monitoring`: start and end of compile phases, and requests to the persistent cache.

JAX calls them in the thread that compiles. A listener that raises would break the job's call, so each is guarded. Other
code may clear all listeners (`jax.monitoring.clear_event_listeners`, as some test suites do), so `is_intact` is checked
periodically.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from jitwatch import guard
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.model.taxonomy import Phase

_PREFIX = "/jax/core/compile/"
PHASE_EVENTS: dict[str, Phase] = {
    f"{_PREFIX}jaxpr_trace_duration": "trace",
    f"{_PREFIX}jaxpr_to_mlir_module_duration": "lower",
    f"{_PREFIX}backend_compile_duration": "compile",
}
_CACHE_REQUESTED = "/jax/compilation_cache/compile_requests_use_cache"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"
#: In spite of its name, sent when a program is written, and not for a miss whose program is not written.
_CACHE_WRITTEN = "/jax/compilation_cache/cache_misses"
_CACHE_SAVED = "/jax/compilation_cache/compile_time_saved_sec"


class Signals(Protocol):
    """Receives the listeners' events, in the compiling thread."""

    def phase_started(self, phase: Phase, name: str) -> None:
        """Handle the start of a phase of the program `name`."""

    def phase_ended(self, phase: Phase, name: str, duration_s: float) -> None:
        """Handle the end of a phase, successful or not."""

    def cache_requested(self) -> None:
        """Handle a request to the persistent cache."""

    def cache_hit(self) -> None:
        """Handle that the persistent cache held the program."""

    def cache_written(self) -> None:
        """Handle that the program was written to the persistent cache after a miss."""

    def cache_saved(self, seconds: float) -> None:
        """Handle JAX's estimate of the compile time saved; may be negative."""


class Listeners:
    """The three listeners of one agent."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals

    def install(self, patcher: Patcher) -> None:
        """Register them. Raises AttributeError if jax.monitoring lacks a function."""
        for kind, listener in self._listeners():
            _register(kind, listener)
            patcher.on_restore(f"jax.monitoring {kind} listener", partial(_unregister, kind, listener))

    def is_intact(self) -> bool:
        """Whether all are still registered."""
        return all(listener in _registered(kind) for kind, listener in self._listeners())

    def repair(self) -> None:
        """Register those that other code has cleared."""
        for kind, listener in self._listeners():
            if listener not in _registered(kind):
                _register(kind, listener)

    def _listeners(self) -> tuple[tuple[str, Callable[..., None]], ...]:
        return (
            ("scalar", self._on_scalar),
            ("event_duration_secs", self._on_duration),
            ("event", self._on_event),
        )

    def _on_scalar(self, event: str, value: float, **details: Any) -> None:
        try:
            phase = PHASE_EVENTS.get(event)
            if phase is not None:
                self._signals.phase_started(phase, str(details.get("fun_name", "")))
        except Exception:
            guard.failed("compile")

    def _on_duration(self, event: str, duration: float, **details: Any) -> None:
        try:
            phase = PHASE_EVENTS.get(event)
            if phase is not None:
                self._signals.phase_ended(phase, str(details.get("fun_name", "")), duration)
            elif event == _CACHE_SAVED:
                self._signals.cache_saved(duration)
        except Exception:
            guard.failed("compile")

    def _on_event(self, event: str, **details: Any) -> None:
        try:
            if event == _CACHE_REQUESTED:
                self._signals.cache_requested()
            elif event == _CACHE_HIT:
                self._signals.cache_hit()
            elif event == _CACHE_WRITTEN:
                self._signals.cache_written()
        except Exception:
            guard.failed("compile")


def _module() -> Any:
    return sys.modules["jax._src.monitoring"]


def _register(kind: str, listener: Callable[..., None]) -> None:
    getattr(_module(), f"register_{kind}_listener")(listener)


def _unregister(kind: str, listener: Callable[..., None]) -> None:
    # Public since 0.8.1 under shorter names; the lists behind them are the same in all versions.
    listeners = _registered(kind)
    if listener in listeners:
        listeners.remove(listener)


def _registered(kind: str) -> list[Callable[..., None]]:
    found = getattr(_module(), f"_{kind}_listeners")
    if not isinstance(found, list):
        raise AttributeError(f"jax._src.monitoring._{kind}_listeners is not a list")
    return found
