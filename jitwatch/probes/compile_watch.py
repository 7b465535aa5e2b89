"""The compile watcher: a thread that samples long traces and lowerings, and reports long compiles.

It sleeps without any wake-up while no thread traces, lowers or compiles. The start of an outermost phase wakes it, and
it checks the phase after a second: a burst of short compiles wakes it at most once a second. While a phase runs,

- it samples the stack of a thread whose trace or lowering has lasted a second, 20 times a second, less often if a
  sample takes more than 1 % of the time (`jaxhooks.compile.hot_lines`);
- it emits `jit.compiling` once for a backend compile that has run for ten seconds;
- it ends profiles of compiles that run for too long (`jaxhooks.compile.profiling`).

It also reads the profiles of compiles that have ended, and emits `jit.compile_profiled`.

Cost for a thread that compiles: reading one attribute at the start of a phase, and half a microsecond if the watcher
sleeps. A cached call does not start a phase.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from _queue import Empty
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks.compile.hot_lines import Samples, StackReader
from jitwatch.jaxhooks.compile.phases import OpenPhase, Running, Work
from jitwatch.jaxhooks.compile.profiling import Profile
from jitwatch.jaxhooks.identity.identities import function_of_program
from jitwatch.jaxhooks.session import JaxSession
from jitwatch.model.events import CompileProfiled, Compiling, Event
from jitwatch.state.own_time import OwnTime
from jitwatch.system import files
from jitwatch.system.launchers import process_id, safe_name
from jitwatch.system.threads import Latch, SimpleQueue, Thread, TimedCaller, is_patched, pause

logger = logging.getLogger("jitwatch")

_JOIN_S = 0.5
#: Seconds after which a trace or lowering is sampled, and a compile is reported.
_SAMPLED_AFTER_S = 1.0
_REPORTED_AFTER_S = 10.0
_INTERVAL_S = 0.05
#: Seconds between two checks for a compile inside a trace, whose start and end do not wake the watcher.
_NESTED_S = 0.25
#: Longest interval between two samples, and the share of it that a sample may take.
_MAX_INTERVAL_S = 1.0
_MAX_SHARE = 0.01
_FAILURE_PAUSE_S = 0.1
#: Profiles that wait to be read, and files of profiles; further ones are dropped.
_MAX_WAITING = 10
_MAX_FILES = 1_000
#: Seconds that a disk may take to write one.
_DISK_S = 2.0


@dataclass(slots=True)
class _Watched:
    """The watcher's record of a running outermost phase.

    Attributes:
        last: Time of the last sample.
        was_nested: Whether a compile or a lowering inside the trace ran at that time.
        reported: Start of the backend compile that was reported.
    """

    running: Running
    last: float
    was_nested: bool = False
    reported: float | None = None


class CompileWatch:
    """The thread that samples long traces and reports long compiles.

    Args:
        session: The hooks in JAX.
        emit: Applies an event and logs it.
        sampled_after_s: Seconds after which a trace or lowering is sampled.
        reported_after_s: Seconds after which a backend compile is reported.
        own_time: Receives the CPU time of the thread's work.
        interval_s: Seconds between two samples.
    """

    def __init__(
        self,
        session: JaxSession,
        emit: Callable[[Event], Any],
        *,
        own_time: OwnTime | None = None,
        sampled_after_s: float = _SAMPLED_AFTER_S,
        reported_after_s: float = _REPORTED_AFTER_S,
        interval_s: float = _INTERVAL_S,
    ) -> None:
        self._activity = session.phases.activity
        self._profiler = session.profiler
        self._identities = session.identities
        self._own_time = own_time or OwnTime()
        self._emit = emit
        self._sampled_after_s = sampled_after_s
        self._reported_after_s = reported_after_s
        self._shortest_s = self._interval_s = interval_s
        self._clock = self._activity.clock
        self._reader: StackReader | None = None
        self._watched: dict[int, _Watched] = {}
        #: Profiles to be read, and latches that are set when all profiles before them were read.
        self._profiles: deque[Profile | Latch] = deque()
        self._written = 0
        self._disk = TimedCaller(_DISK_S)
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._is_ended = False
        #: Number of times that the thread woke, and of stacks that it read.
        self.wakes = self.samples = 0
        self._thread = Thread(target=self._run, name="jitwatch-compile-watch")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()
        self._profiler.on_profile = self.take

    def stop(self, timeout_s: float = _JOIN_S) -> None:
        """Stop the thread; one that hangs is abandoned after `timeout_s`."""
        if self._is_ended:
            return
        self._is_ended = True
        self._profiler.on_profile = _ignore
        self._activity.sleeper = None
        self._bell.put(None)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    @property
    def is_running(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive() and not self._is_ended

    def take(self, profile: Profile) -> None:
        """Queue a profile to be read by the thread."""
        if len(self._profiles) < _MAX_WAITING:
            self._profiles.append(profile)
            self._bell.put(None)

    def wait_for_profiles(self, timeout_s: float) -> None:
        """Wait until the profiles that were taken are read, or for `timeout_s`."""
        if self.is_running:
            latch = Latch()
            self._profiles.append(latch)
            self._bell.put(None)
            latch.wait(timeout_s)

    def _run(self) -> None:
        while not self._is_ended:
            try:
                with self._own_time.of("compile_watch"):
                    seconds = self.look()
                self._sleep(seconds)
                self.wakes += 1
            except BaseException:  # also a SystemExit that is injected into all threads
                guard.failed("compile_watch")
                pause(_FAILURE_PAUSE_S)

    def _sleep(self, seconds: float | None) -> None:
        """Sleep for this time, or until a phase starts if it is None.

        While a phase runs, the start of another one does not wake the thread: one of a thousand short compiles does.
        """
        activity, bell = self._activity, self._bell
        if seconds is None:
            activity.sleeper = bell
            # A phase that started before the line above did not wake the thread.
            if self._is_ended or activity.running():
                seconds = 0.0
        else:
            seconds = min(seconds, self._sampled_after_s)
        try:
            bell.get(timeout=seconds)
        except Empty:
            return
        finally:
            activity.sleeper = None

    def look(self) -> float | None:
        """Check all running phases; return the seconds until the next check, or None if nothing runs."""
        while self._profiles and not self._is_ended:
            item = self._profiles.popleft()
            with guard.guarded("profiling"):
                if isinstance(item, Latch):
                    item.set()
                else:
                    self._read_profile(item)
        left_s = self._profiler.stop_overdue()
        phases = self._activity.running()
        if not phases:
            if self._watched:
                self._watched.clear()
                self._interval_s = self._shortest_s
                if self._reader is not None:
                    self._reader.forget()
            return None
        known = self._watched
        self._watched = {}
        next_s: float | None = None
        for running in phases:
            one = known.get(running.ident)
            if one is None or one.running is not running:
                one = _Watched(running, running.start + self._sampled_after_s)
            self._watched[running.ident] = one
            wait_s = self._look_at(one)
            if wait_s is not None:
                next_s = wait_s if next_s is None else min(next_s, wait_s)
        next_s = next_s if next_s is not None else self._reported_after_s
        return next_s if left_s is None else min(next_s, left_s)

    def _look_at(self, one: _Watched) -> float | None:
        running, now = one.running, self._clock()
        phases = list(running.open)
        inner = next((phase for phase in phases if phase.phase == "compile"), None)
        if inner is not None:
            one.last, one.was_nested = now, True
            wait_s = self._watch_compile(one, inner, now)
            is_outermost = running.phase == "compile"
            return wait_s if is_outermost else min(wait_s or _NESTED_S, _NESTED_S)
        if running.phase == "compile":  # it is about to end
            return _NESTED_S
        age_s = now - running.start
        if age_s < self._sampled_after_s:
            return self._sampled_after_s - age_s
        if any(phase.phase != "trace" for phase in phases[1:]):
            # A lowering inside a trace is not part of the trace's seconds.
            one.last, one.was_nested = now, True
        else:
            self._sample(one, now)
        return self._interval_s

    def _watch_compile(self, one: _Watched, phase: OpenPhase, now: float) -> float | None:
        """Report a compile that has run for too long; return the seconds until then, or None if it was reported."""
        if one.reported == phase.start:
            return None
        age_s = now - phase.start
        if age_s < self._reported_after_s:
            return self._reported_after_s - age_s
        one.reported = phase.start
        with guard.guarded("compile_watch"):
            self._report(one.running, age_s)
        return None

    def _report(self, running: Running, age_s: float) -> None:
        work: Work | None = next((one for one in reversed(list(running.works)) if one.phase == "compile"), None)
        function = work.function if work is not None else None
        site = None if is_patched() else self._stacks().call_site(running.ident)
        self._emit(
            Compiling(
                function=function or running.function or function_of_program(""),
                call_site=site,
                program=(work.module.fingerprint or "" if work is not None and work.module is not None else ""),
                for_s=age_s,
                phase="compile",
            )
        )

    def _sample(self, one: _Watched, now: float) -> None:
        """Read the stack, and attribute the seconds since the last sample to its lines."""
        # Green threads share one stack of the operating system, which may be that of another one.
        if is_patched():
            return
        began = time.thread_time()
        running, seconds = one.running, now - one.last
        if one.was_nested:  # its end is not known
            seconds = min(seconds, self._interval_s)
        one.last, one.was_nested = now, False
        path = self._stacks().path(running.ident)
        self.samples += 1
        if path and seconds > 0:
            if running.samples is None:
                running.samples = Samples()
            running.samples.add(path, seconds)
        cost_s = time.thread_time() - began
        self._interval_s = min(max(self._shortest_s, cost_s / _MAX_SHARE), _MAX_INTERVAL_S)

    def _read_profile(self, profile: Profile) -> None:
        raw, profile.raw = profile.raw, None
        if raw is None:
            return
        from jitwatch.jaxhooks.compile import xla_passes  # lazy: few jobs profile compiles

        found = xla_passes.passes_of(xla_passes.read(raw))
        if not found.rows:
            return
        self._emit(
            CompileProfiled(
                function=profile.function,
                call_site=profile.call_site,
                profiled_s=profile.seconds,
                autotuning_s=found.autotuning_s,
                xla_passes=found.rows,
                file=self._write(profile, raw),
            )
        )

    def _write(self, profile: Profile, raw: bytes) -> str | None:
        """Write a profile to the folder that TensorBoard and XProf read; return the path of the file."""
        if profile.folder is None or self._written >= _MAX_FILES:
            return None
        self._written += 1
        process = safe_name(process_id())
        name = f"{safe_name(profile.function.label)}-{process}-{self._written:04d}"
        folder = os.path.join(profile.folder, "plugins", "profile", name)
        path = os.path.join(folder, f"{process}.xplane.pb")

        def write() -> str:
            os.makedirs(folder, exist_ok=True)
            files.publish(path, raw)
            return path

        try:
            return self._disk.call(write)
        except OSError as error:  # also a TimeoutError
            logger.warning("jitwatch: the profile of a compile cannot be written to %s (%s)", profile.folder, error)
            return None

    def _stacks(self) -> StackReader:
        if self._reader is None:
            self._reader = StackReader(self._identities.jax_folders)
        return self._reader


def _ignore(profile: Profile) -> None:
    """Drop a profile, because the thread does not run."""
