"""Divergence: the first program that differs between this process and process 0 of its job, while the job runs.

Only programs on devices of several processes are compared (`diagnosis.divergence`). Process 0 publishes the
fingerprints of its programs in the key-value store of `jax.distributed`, each before XLA compiles it, and the other
processes compare them with their own; a process that finds a difference publishes it for process 0. This is done in a
separate thread, which starts with the first such program, makes no call if there is nothing to compare, and ends
without a message when the service is no longer available. Cost on the compiling thread: some microseconds a program.

Not seen: jobs without `jax.distributed`; programs that only one process compiled (`jitwatch report` names them); more
than 1,000 programs.

    jitwatch_programs_diverged 1.0
"""

from __future__ import annotations

import json
import os
import time
from _queue import Empty
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import chain, repeat
from typing import Any, ClassVar, Final

from jitwatch.diagnosis.divergence import Compile, Divergence, first_divergence
from jitwatch.jaxhooks import compat, coordination
from jitwatch.jaxhooks.compile.phases import Module
from jitwatch.model.events import Event, ProgramsDiverged
from jitwatch.model.function import Function
from jitwatch.probes.probe import Probe, ProbeContext
from jitwatch.render import divergence as wording
from jitwatch.system.threads import RLock, SimpleQueue, Thread, is_patched

_PREFIX: Final = "jitwatch/1"
_MAX_PROGRAMS: Final = 1_000
#: Seconds between later polls, and their number.
_LAST_PAUSE_S: Final = 30.0
_MAX_LOOKS: Final = 30


class DivergenceProbe(Probe):
    """Compares the programs of this process with those of process 0, in a separate thread."""

    name = "divergence"
    #: Seconds that a difference has to last, since threads may compile programs in a different order; and seconds
    #: between polls of what another process has published, after a program was compiled.
    confirm_s: ClassVar[float] = 20.0
    pauses_s: ClassVar[Sequence[float]] = (1.0, 2.0, 4.0, 8.0, 15.0)

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self._comparison: Comparison | None = None
        # Re-entrant: a signal handler may compile while this thread holds it.
        self._lock = RLock()

    def start(self) -> None:
        self.context.session.watch_programs(self._compiling)

    def stop(self) -> None:
        if self._comparison is not None:
            self._comparison.stop()

    def _compiling(self, function: Function, module: Module) -> None:
        """Handle a program before it is compiled, in the thread that compiles it."""
        place = compat.process_place()
        if not module.on_all_processes or not module.fingerprint or place is None:
            return
        with self._lock:  # two threads may compile their first programs at once
            if self._comparison is None:
                activity = self.context.session.phases.activity
                self._comparison = Comparison(
                    place[0],
                    self.context.emit,
                    confirm_s=self.confirm_s,
                    pauses_s=self.pauses_s,
                    is_concurrent=lambda: len(activity.running()) > 1,
                )
        self._comparison.add(function, module.fingerprint, self.context.session.call_site()[0])


class Comparison:
    """The thread that compares programs.

    Args:
        index: Index of this process.
        emit: Receives the event if there is a difference.
        confirm_s: Seconds that a difference has to last.
        pauses_s: Seconds between the first polls of what other processes have published, after a program.
        is_concurrent: Whether several threads of this process compile; nothing is reported while they do.
    """

    def __init__(
        self,
        index: int,
        emit: Callable[[Event], object],
        *,
        confirm_s: float,
        pauses_s: Sequence[float],
        is_concurrent: Callable[[], bool] = lambda: False,
    ) -> None:
        self._index = index
        self._is_concurrent = is_concurrent
        self._emit = emit
        self._confirm_s = confirm_s
        self._pauses_s = pauses_s
        self._queue: SimpleQueue[Compile | None] = SimpleQueue()
        self._known: set[tuple[str, str]] = set()
        self._functions: dict[str, Function] = {}
        self._numbers: Counter[str] = Counter()
        self._lock = RLock()
        self._thread: Thread | None = None
        self._mine: list[Compile] = []
        self._theirs: list[Compile] = []
        #: Session of the agent of process 0, and the number of its programs that were read.
        self._session = ""
        self._number = 0
        #: Monotonic time at which a difference was first seen.
        self._since: float | None = None
        #: Number of programs of this process that process 0 has as well.
        self._settled = 0

    def add(self, function: Function, program: str, call_site: str | None) -> None:
        """Add a program that this process compiles; takes microseconds."""
        with self._lock:
            key = (function.label, program)
            if key in self._known or len(self._known) >= _MAX_PROGRAMS:
                return
            if self._thread is None and not self._start():
                return
            self._known.add(key)
            self._functions[function.label] = function
            self._numbers[function.label] += 1
            nth = self._numbers[function.label]
        self._queue.put(Compile(function=function.label, program=program, nth=nth, call_site=call_site))

    def _start(self) -> bool:
        """Start the thread, if that is possible now."""
        if is_patched():
            # A green thread that waits for the queue would stop the job's own thread.
            return False
        self._thread = Thread(target=self._run, name="jitwatch-divergence")
        try:
            self._thread.start()
        except RuntimeError:  # no thread is left: the next program tries again
            self._thread = None
            return False
        return True

    @property
    def is_settled(self) -> bool:
        """Whether process 0 has all programs of this process, so that nothing is left to compare."""
        return self._settled == len(self._known)

    @property
    def has_difference(self) -> bool:
        """Whether there is a difference, which has to last before it is reported."""
        return self._since is not None

    def stop(self) -> None:
        """End the thread without waiting for it, since a call of the service may hang."""
        self._queue.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the thread; return whether it has ended."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _run(self) -> None:
        """Publish and compare until a difference was reported, or the service is unavailable."""
        with suppress(coordination.UnavailableError):
            looks: Iterator[float] = iter(())
            while True:
                is_new = False
                try:
                    # Without further polls, wait for the next program without a wake-up.
                    one = self._queue.get(True, next(looks, None))
                    if one is None:
                        return
                    self._add(one)
                    is_new = True
                except Empty:
                    pass
                if is_new:
                    looks = chain(self._pauses_s, repeat(_LAST_PAUSE_S, _MAX_LOOKS))
                if self._look():
                    return
                if self._index != 0 and {_key(one) for one in self._mine} <= {_key(one) for one in self._theirs}:
                    looks = iter(())
                    self._settled = len(self._mine)

    def _add(self, one: Compile) -> None:
        self._mine.append(one)
        if self._index == 0:
            if not self._session:
                self._session = os.urandom(8).hex()
                coordination.put(f"{_PREFIX}/session", self._session)
            coordination.put(f"{_PREFIX}/{self._session}/{len(self._mine) - 1}", json.dumps(asdict(one)))

    def _look(self) -> bool:
        """Read what other processes have published; return whether a difference was reported."""
        if self._index == 0:
            for text in coordination.values_under(f"{_PREFIX}/{self._session}/diverged/"):
                row = json.loads(text)
                self._report(int(row["process"]), _compile(row["theirs"]), _compile(row["mine"]))
                return True
            return False
        self._read()
        found = first_divergence({0: self._theirs, self._index: self._mine})
        # Threads that compile ahead of time may do so in another order in each process, and take minutes.
        if found is None or found.kind != "program" or self._is_concurrent():
            self._since = None
            return False
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since < self._confirm_s:
            return False
        programs = {process: one for one, some in found.groups for process in some if one is not None}
        mine, theirs = programs[self._index], programs[0]
        row = {"process": self._index, "mine": asdict(mine), "theirs": asdict(theirs)}
        self._report(0, mine, theirs)
        coordination.put(f"{_PREFIX}/{self._session}/diverged/{self._index}", json.dumps(row))
        return True

    def _read(self) -> None:
        """Read the programs that process 0 has published since the last call."""
        session = coordination.get(f"{_PREFIX}/session")
        if session is None:
            return
        if session != self._session:
            # The programs of an earlier agent of process 0 stay: this process may have compiled them as well.
            self._session, self._number = session, 0
        while len(self._theirs) < _MAX_PROGRAMS:
            text = coordination.get(f"{_PREFIX}/{session}/{self._number}")
            if text is None:
                return
            self._number += 1
            self._theirs.append(_compile(json.loads(text)))

    def _report(self, other: int, mine: Compile, theirs: Compile) -> None:
        """Emit the event about a program of this process and a different one of another process."""
        groups = ((theirs, (other,)), (mine, (self._index,)))
        ordered = tuple(sorted(groups, key=lambda group: group[1]))
        found = Divergence(kind="program", function=mine.function, nth=min(mine.nth, theirs.nth), groups=ordered)
        self._emit(
            ProgramsDiverged(
                function=self._functions.get(mine.function) or Function(mine.function, mine.function),
                call_site=mine.call_site,
                nth=mine.nth,
                program=mine.program,
                other_process_index=other,
                other_program=theirs.program,
                other_call_site=theirs.call_site,
                message=wording.message(found),
                advice=wording.advice("program"),
            )
        )


def _key(one: Compile) -> tuple[str, str]:
    return one.function, one.program


def _compile(row: Mapping[str, Any]) -> Compile:
    """A published program; fields of a newer jitwatch are ignored."""
    names = ("function", "program", "nth", "call_site", "at", "hlo")
    return Compile(**{name: row[name] for name in names if name in row})
