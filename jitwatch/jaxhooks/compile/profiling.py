"""Profiles compiles of the user's functions with JAX's own profiler, on request.

A process can run one session of the profiler, and the user's session has priority: none is started while JAX's profiler
runs, a profiler server runs or profile-guided optimization is on, and a running one is stopped before the user's
session starts. A session traces the host only, without Python calls, and is kept in memory: no file is written unless a
folder is named. Starting it takes some tens of microseconds, stopping it some tens of milliseconds, both in the thread
that compiles. The profile is read in another thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.observer import Observer
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.model.function import Function
from jitwatch.system.threads import RLock

#: Maximum seconds of a compile that are profiled, since the profile is kept in memory.
MAX_COMPILE_S = 600.0
#: Shortest profile that is reported, in seconds, and the share of it in which other threads may compile.
_LEAST_S = 0.001
_MAX_OTHERS = 0.1


@dataclass(slots=True, eq=False)
class Profile:
    """A compile that is or was profiled.

    Attributes:
        folder: Folder of its file; None for no file.
        is_counted: Whether its seconds count towards those of the option.
        limit_s: Seconds of the compile that are profiled.
        seconds: Seconds that were profiled.
        call_site: `file:line` of the user's code that caused the compile.
        raw: The serialized profile, after its end.
        others_s: Seconds that other threads compiled at the same time.
    """

    function: Function
    start: float
    folder: str | None
    is_counted: bool
    limit_s: float
    session: Any = None
    seconds: float = 0.0
    call_site: str | None = None
    raw: bytes | None = None
    others_s: float = 0.0


@dataclass(slots=True, eq=False)
class Request:
    """A block in which compiles are profiled.

    Attributes:
        folder: Folder of the files; None for no files.
    """

    folder: str | None = None


@dataclass(eq=False)
class CompileProfiler:
    """Starts and stops the sessions.

    Attributes:
        is_wanted: Whether the next compile is profiled, if this is possible.
        is_installed: Whether the user's calls of the profiler are observed.
        budget_s: Seconds of compiles that are still to be profiled by the option.
        on_profile: Receives a profile that has ended, in the thread that compiled.
        problem: Why this JAX cannot profile compiles; empty if it can, or if this was not tried yet.
    """

    clock: Callable[[], float] = time.monotonic
    budget_s: float = 0.0
    on_profile: Callable[[Profile], object] = lambda profile: None
    is_wanted: bool = False
    is_installed: bool = False
    problem: str = ""
    _requests: list[Request] = field(default_factory=list)
    _current: Profile | None = None
    #: Number of the user's calls that are starting a profiler, and of all such calls so far.
    _barred: int = 0
    _starts: int = 0
    _lock: RLock = field(default_factory=RLock)

    def install(self, patcher: Patcher) -> None:
        """Observe the user's calls of the profiler; no compile is profiled if this is not possible."""
        problem = compat.profiling_problem()
        from jitwatch.jaxhooks.compile import xla_passes  # lazy: few jobs profile compiles

        if problem is None and not xla_passes.is_readable():
            problem = "jax.profiler.ProfileData does not exist in this version"
        if problem is not None:
            self.problem = problem
            return
        observer = Observer(self._user_begins, self._user_ended, self._user_ended, component="profiling")
        patcher.instrument(compat.start_profile_hook().get(), observer)
        self.is_installed = True
        self._update()

    def allow(self, seconds: float) -> None:
        """Profile compiles until this number of seconds of compiles has been profiled."""
        self.budget_s = seconds
        self._update()

    def request(self, request: Request) -> None:
        """Profile compiles until `withdraw` is called."""
        with self._lock:
            self._requests.append(request)
        self._update()

    def withdraw(self, request: Request) -> None:
        """End a request."""
        with self._lock:
            if request in self._requests:
                self._requests.remove(request)
        self._update()

    def forget(self) -> None:
        """Stop a running session, and profile nothing from now on."""
        self.is_installed = False
        self._requests.clear()
        self.budget_s = 0.0
        self._update()
        current = self._current
        if current is not None:
            self.drop(current)

    @property
    def is_requested(self) -> bool:
        """Whether the job wants compiles to be profiled."""
        return bool(self._requests) or self.budget_s > 0

    def _update(self) -> None:
        self.is_wanted = self.is_installed and self.is_requested

    # Around a compile, in its thread

    def begin(self, function: Function) -> Profile | None:
        """Start to profile a compile; None if the profiler is not free."""
        with self._lock:
            if self._current is not None or self._barred or not compat.profiler_is_free():
                return None
            requests = self._requests
            folder = next((one.folder for one in reversed(requests) if one.folder is not None), None)
            limit_s = MAX_COMPILE_S if requests else min(self.budget_s, MAX_COMPILE_S)
            starts = self._starts
            profile = Profile(function, self.clock(), folder, not requests, limit_s)
            # Set before the session exists, so that an interrupt does not leave it open.
            self._current = profile
            try:
                profile.session = compat.start_profiler()
            except Exception:  # another profiler runs in the process: TensorFlow's, or a capture by XProf
                self._current = None
                return None
            except BaseException:
                self._stop(profile)
                raise
            if starts != self._starts:  # a signal handler of the job has started a profiler
                self._stop(profile)
                profile.raw = None
                return None
            return profile

    def end(self, profile: Profile) -> None:
        """Stop the session of a compile that has succeeded."""
        with self._lock:
            self._stop(profile)

    def drop(self, profile: Profile) -> None:
        """Stop the session of a compile that failed."""
        with self._lock:
            self._stop(profile)
            profile.raw = None

    def hand_over(self, profile: Profile, call_site: str | None) -> None:
        """Pass on the profile of a compile, after the compile was reported."""
        profile.call_site = call_site
        if profile.raw is not None and profile.seconds >= _LEAST_S:
            if profile.is_counted:
                self.budget_s = max(0.0, self.budget_s - profile.seconds)
                self._update()
            if profile.others_s <= _MAX_OTHERS * profile.seconds:
                self.on_profile(profile)

    def compiled_elsewhere(self, seconds: float) -> None:
        """Handle that a thread whose compile is not profiled has compiled for this time."""
        current = self._current
        if current is not None:
            current.others_s += min(seconds, self.clock() - current.start)

    # In the watcher's thread

    def stop_overdue(self) -> float | None:
        """Stop a session that has reached its limit; return the seconds that are left, if one runs."""
        current = self._current
        if current is None:
            return None
        left_s = current.start + current.limit_s - self.clock()
        if left_s <= 0:
            self.end(current)
            return None
        return left_s

    # Around the user's start of a profiler

    def _user_begins(self, *_: Any, **__: Any) -> bool:
        with self._lock:
            self._barred += 1
            self._starts += 1
            current = self._current
            if current is not None:
                self._stop(current)
                current.raw = None
        return True

    def _user_ended(self, state: Any, outcome: Any) -> None:
        with self._lock:
            self._barred -= 1

    def _stop(self, profile: Profile) -> None:
        """Stop a session once. JAX's profiler is free afterwards, even if this fails."""
        session, profile.session = profile.session, None
        if self._current is profile:
            self._current = None
        if session is not None:
            profile.seconds = self.clock() - profile.start
            try:
                profile.raw = session.stop()
            except Exception:
                guard.failed("profiling")
