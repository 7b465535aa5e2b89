"""Reports programs that will not fit in the memory that a device has left, before they run for the first time.

XLA takes up to 50 ms for the sizes of a program, which must not delay each compile, and a driver may hang. So a
separate thread reads the devices and then the sizes. The compiling thread waits for it for at most 1 % of the duration
of the compile, at least 2 ms and at most half a second. The devices have to be read before the program runs, since the
program's own memory would count as in use otherwise: if they have not responded by then, nothing is reported. The
report may follow the first call of a program whose compile was short.

Never on a backend without limits, such as CPUs. Cost of a compile: some tenths of a millisecond, and the wait.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from jitwatch import guard
from jitwatch.diagnosis.pressure import Use, uses_of
from jitwatch.jaxhooks.memory import programs
from jitwatch.model.devices import Reading
from jitwatch.model.events import ExecutableMeasured, MemoryPressure
from jitwatch.model.function import Function
from jitwatch.probes.probe import ProbeContext
from jitwatch.probes.rows import rows_of
from jitwatch.render import wording
from jitwatch.system.threads import Latch, Thread, is_patched

#: How long the compiling thread waits at most: a share of the compile, within limits.
_SHARE, _LEAST_S, _LONGEST_S = 0.01, 0.002, 0.5
#: Seconds in which a function is reported at most once for a device.
_SAME_S = 60.0
_MAX_REPORTED = 256
_JOIN_S = 1.0


class FitCheck:
    """Checks each program of a user's function after its compile.

    Args:
        context: Receives the events.
        read: Returns readings of all devices; it may hang.
        has_limits: Whether a device has a limit, as far as this is known.
    """

    def __init__(
        self, context: ProbeContext, *, read: Callable[[], Iterable[Reading]], has_limits: Callable[[], bool]
    ) -> None:
        self._context = context
        self._read = read
        self._has_limits = has_limits
        self._thread: Thread | None = None
        #: When each function was reported last, by label and device.
        self._reported: dict[tuple[str, str], float] = {}

    def compiled(self, function: Function, executable: Any, compile_s: float) -> None:
        """Check a program that this thread has compiled; skipped while an earlier check runs."""
        if not self._has_limits() or (self._thread is not None and self._thread.is_alive()):
            return
        if is_patched():
            # A green thread runs in this one, where a driver that hangs would stop the job.
            return
        wait_s = min(_LONGEST_S, max(_LEAST_S, _SHARE * compile_s))
        until = time.monotonic() + wait_s
        check = _Check(self, function, weakref.ref(executable), compile_s)
        self._thread = Thread(target=check.run, name="jitwatch-fit")
        self._thread.start()
        if check.is_read.wait(wait_s):
            check.is_done.wait(until - time.monotonic())
        else:
            check.is_late = True

    def stop(self) -> None:
        """Wait for a running check; one that hangs is abandoned."""
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def uses(self) -> list[Use]:
        """The memory in use of the devices with a limit."""
        return uses_of(rows_of(list(self._read()), None), None)

    def report(self, event: MemoryPressure) -> None:
        """Emit an event, unless the function was reported for this device less than a minute ago."""
        key, now = (event.function or "", event.place), time.monotonic()
        if now - self._reported.get(key, float("-inf")) < _SAME_S:
            return
        if len(self._reported) >= _MAX_REPORTED:
            self._reported.clear()
        self._reported[key] = now
        self._context.emit(event)

    def measure(self, function: Function, executable: Any, compile_s: float) -> ExecutableMeasured | None:
        """Sizes and buffers of a program."""
        return self._context.session.executables.measured(function, executable, compile_s)


class _Check:
    """The check of one program, in a separate thread."""

    def __init__(self, owner: FitCheck, function: Function, reference: weakref.ref[Any], compile_s: float) -> None:
        self._owner = owner
        self._function = function
        self._reference = reference
        self._compile_s = compile_s
        self.is_read, self.is_done = Latch(), Latch()
        #: Set by the compiling thread if it has not waited for the devices.
        self.is_late = False

    def run(self) -> None:
        try:
            with guard.guarded("memory"):
                self._run()
        finally:
            self.is_read.set()
            self.is_done.set()

    def _run(self) -> None:
        uses = self._owner.uses()
        self.is_read.set()
        executable = self._reference()
        if self.is_late or not uses or executable is None:
            return
        sizes = programs.sizes_of(executable)
        if sizes is None:
            return
        names = programs.devices_of(executable)
        shortage = shortage_of(self._function, sizes, [use for use in uses if use.place in names])
        if shortage is None:
            return
        measured = self._owner.measure(self._function, executable, self._compile_s)
        if measured is not None:
            shortage = replace(shortage, peak_buffers=measured.peak_buffers)
        self._owner.report(replace(shortage, message=wording.of_shortage(shortage)))


def shortage_of(function: Function, sizes: Any, uses: Iterable[Use]) -> MemoryPressure | None:
    """The shortage on the device with the least memory left; None if the program fits.

    The arguments of a call are in use already, so only temporaries and outputs are compared with the memory that is
    left. The arguments of an ahead-of-time compile may not be in use yet; they count only against the whole limit.
    """
    more = sizes.temp_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    total = sizes.argument_size_in_bytes + more
    use = min(uses, key=lambda one: one.limit - one.in_use, default=None)
    if use is None or (more <= use.limit - use.in_use and total <= use.limit):
        return None
    return MemoryPressure(
        place=use.place,
        state="will_not_fit",
        in_use_bytes=use.in_use,
        limit_bytes=use.limit,
        ratio=round(use.in_use / use.limit, 4),
        function=function.label,
        needed_bytes=total if total > use.limit else more,
    )
