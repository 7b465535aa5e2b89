"""All events of a run, of whatever number of processes, folded into bounded aggregates."""

from __future__ import annotations

import os
from collections.abc import Callable

from jitwatch.model.cleaning import clean
from jitwatch.model.events import (
    Compiled,
    CompileFailed,
    DonationViolation,
    Installed,
    LogMoved,
    MemoryLeak,
    MemoryPressure,
    MemorySampled,
    OutOfMemory,
    PitfallFound,
    ProbeFailed,
    RunSummary,
    SteadyViolated,
    StormEnded,
    StormStarted,
    Uninstalled,
)
from jitwatch.report.fields import Record
from jitwatch.report.functions import Functions
from jitwatch.report.mishaps import Mishaps
from jitwatch.report.processes import Process, Processes


class Fold:
    """Takes one record after the other and keeps only sums, the newest of what is alike, and names.

    Attributes:
        events: How many were counted.
    """

    def __init__(self) -> None:
        self.events = 0
        self.processes = Processes()
        self.functions = Functions(self.processes)
        self.mishaps = Mishaps(self.functions, self.processes)
        self._logs: dict[str, int] = {}
        self._names: list[str] = []
        functions, mishaps = self.functions, self.mishaps
        self._readers: dict[str, Callable[[Record, Process], None]] = {
            Compiled.kind: functions.compiled,
            Compiled.repeated_kind: functions.recompiled,
            CompileFailed.kind: mishaps.failed,
            PitfallFound.kind: mishaps.pitfall,
            StormStarted.kind: functions.storm_started,
            StormEnded.kind: functions.storm_ended,
            SteadyViolated.kind: mishaps.steady_violated,
            DonationViolation.kind: mishaps.donation,
            MemorySampled.kind: mishaps.sampled,
            MemoryPressure.kind: mishaps.under_pressure,
            MemoryLeak.kind: mishaps.leak,
            OutOfMemory.kind: mishaps.out_of_memory,
            ProbeFailed.kind: mishaps.probe_failed,
            RunSummary.kind: mishaps.summed_up,
            Installed.kind: _nothing,
            LogMoved.kind: _nothing,
            Uninstalled.kind: _ended,
        }

    def log(self, path: str) -> int:
        """A number for a log, the same for all of its parts."""
        if path not in self._logs:
            self._logs[path] = len(self._names)
            self._names.append(clean(os.path.basename(path)))
        return self._logs[path]

    def add(self, record: Record, log: int) -> None:
        """Count a record of a log.

        Args:
            record: Checked (`fields.fitting`); its event is empty where it is not known.
            log: Number of the log.

        Raises:
            FieldError: It lacks what its event must have.
        """
        process = self.processes.of(record, log, self._names[log])
        read = self._readers.get(record["event"])
        if read is not None:
            self.events += 1
            read(record, process)


def _nothing(record: Record, process: Process) -> None:
    """The start of an agent, which its process has counted, or the name of its log."""


def _ended(record: Record, process: Process) -> None:
    process.sessions[-1].is_ended = True
