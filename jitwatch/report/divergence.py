"""The first difference between the programs of the processes of a run, from the event logs of all of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from jitwatch.diagnosis.divergence import Compile, Divergence, first_divergence
from jitwatch.model.events import Compiled, CompilerSeen, Installed
from jitwatch.programs.difference import compare_texts
from jitwatch.render import divergence as wording
from jitwatch.render import programs
from jitwatch.report.lines import opened
from jitwatch.report.processes import Process
from jitwatch.report.sources import PROGRAM_FILE, Source

#: Programs that are kept of a process, and of all.
_MAX_OF_PROCESS: Final = 2_000
_MAX_PROGRAMS: Final = 200_000
_MAX_PROCESSES_NAMED: Final = 100
#: What all programs of a process depend on, and must be equal in all processes.
_COMPARED: Final = ("xla_flags", "jaxlib", "platform_version", "device_kind")

_MAX_FILE_BYTES: Final = 200 << 20


class SharedPrograms:
    """The programs on devices of all processes, and the compilers, by process."""

    def __init__(self) -> None:
        self._compiles: dict[int, dict[tuple[str, str], Compile]] = {}
        self._compilers: dict[int, CompilerSeen] = {}
        self._folders: dict[int, str] = {}
        self._number = 0

    def compiled(self, process: Process, event: Compiled, at: str) -> None:
        """Add a program on devices of all processes."""
        known = self._compiles.setdefault(process.number, {})
        key = (event.function.label, event.program)
        is_called = not event.ahead_of_time
        if key in known:
            if is_called and not known[key].is_called:
                known[key] = replace(known[key], is_called=True)
            return
        if len(known) >= _MAX_OF_PROCESS or self._number >= _MAX_PROGRAMS:
            return
        self._number += 1
        known[key] = Compile(
            function=key[0],
            program=key[1],
            nth=event.nth or 1,
            call_site=event.call_site,
            at=at,
            hlo=event.hlo,
            is_called=is_called,
        )

    def installed(self, process: Process, event: Installed) -> None:
        """Add the folder in which a process keeps its programs."""
        if event.hlo_dir:
            self._folders[process.number] = event.hlo_dir

    def compiler(self, process: Process, event: CompilerSeen) -> None:
        """Add what all programs of a process depend on."""
        self._compilers.setdefault(process.number, event)

    def first_divergence(self, runs: Sequence[Sequence[Process]]) -> dict[str, Any] | None:
        """The part `first_divergence` of the document, or None if the processes of each run compiled the same.

        Args:
            runs: The processes of each run.
        """
        for run in runs:
            for processes in _starts(run):
                found = self._of_run(processes) if len(processes) > 1 else None
                if found is not None:
                    return {"run": processes[0].run, **found}
        return None

    def _of_run(self, processes: Sequence[Process]) -> dict[str, Any] | None:
        names = {one.number: one.index if one.index is not None else one.number for one in processes}
        compiles = {number: list(self._compiles.get(number, {}).values()) for number in names}
        found = first_divergence(compiles)
        compiler = self._compiler_rows(names)
        if found is None:
            return _row("compiler", None, [], compiler, None) if compiler else None
        programs = [_program(one, [names[number] for number in group]) for one, group in found.groups]
        renamed = Divergence(
            kind=found.kind,
            function=found.function,
            nth=found.nth,
            groups=tuple((one, tuple(names[number] for number in group)) for one, group in found.groups),
        )
        texts = [self._text(one, group[0]) for one, group in found.groups[:2] if one is not None]
        difference = _difference(*texts) if len(texts) > 1 else None
        return _row(found.kind, renamed, programs, compiler, difference)

    def _text(self, one: Compile, process: int) -> str | None:
        """The text of a program, or None if it was not kept or cannot be read here."""
        folder = self._folders.get(process)
        if folder is None or one.hlo is None or not PROGRAM_FILE.fullmatch(one.hlo):
            return None
        path = os.path.join(folder, one.hlo)
        try:
            # Of a device or a FIFO nothing is read.
            with opened(Source(path, path, 0)) as file:
                data = file.read(_MAX_FILE_BYTES + 1)
        except (OSError, ValueError):
            return None
        return data.decode("utf-8", "replace") if len(data) <= _MAX_FILE_BYTES else None

    def _compiler_rows(self, names: Mapping[int, int]) -> list[dict[str, Any]]:
        """The fields of the compilers that differ, with the processes of each value. Only of distributed processes."""
        seen = {number: self._compilers[number] for number in names if number in self._compilers}
        seen = {number: one for number, one in seen.items() if one.processes > 1}
        rows = []
        for field in _COMPARED:
            values: dict[Any, list[int]] = {}
            for number, one in seen.items():
                values.setdefault(getattr(one, field), []).append(names[number])
            if len(values) > 1:
                rows.append(
                    {
                        "field": field,
                        "values": [
                            {"value": list(value) if isinstance(value, tuple) else value, "processes": sorted(some)}
                            for value, some in sorted(values.items(), key=lambda item: -len(item[1]))
                        ],
                    }
                )
        return rows


def _starts(run: Sequence[Process]) -> list[list[Process]]:
    """The processes of a run that worked together: a job that is started again has another process of each index.

    None of a run in which two processes of one index ran at the same time: several jobs, which cannot be told apart.
    """
    indices = [one.index for one in run if one.index is not None]
    if len(set(indices)) == len(indices):
        return [list(run)]
    found: list[list[Process]] = []
    ends: dict[int | None, str] = {}
    known: set[int | None] = set()
    last = ""
    for begin, end, one in sorted(map(_span, run), key=lambda span: span[:2]):
        if one.index in ends and begin <= ends[one.index]:
            return []
        if not found or one.index in known or begin > last:
            found.append([])
            known, last = set(), ""
        found[-1].append(one)
        last = max(last, end)
        if one.index is not None:
            known.add(one.index)
            ends[one.index] = end
    return found


def _span(process: Process) -> tuple[str, str, Process]:
    """The first and the last time in the records of a process."""
    sessions = process.sessions
    return (sessions[0].first, sessions[-1].last, process) if sessions else ("", "", process)


def _difference(old: str | None, new: str | None) -> dict[str, Any] | None:
    """What differs between two programs, with a summary in words."""
    if old is None or new is None:
        return None
    found = compare_texts(old, new)
    first = found.before or found.after
    return {
        "summary": programs.summary(found),
        "position": programs.position(found),
        "place": programs.place(first) if first is not None else None,
        **found.row(),
    }


def _program(one: Compile | None, processes: list[int]) -> dict[str, Any]:
    return {
        "program": one.program if one is not None else None,
        "nth": one.nth if one is not None else None,
        "call_site": one.call_site if one is not None else None,
        "timestamp": one.at if one is not None else None,
        "hlo": one.hlo if one is not None else None,
        "processes": sorted(processes)[:_MAX_PROCESSES_NAMED],
        "processes_left_out": max(0, len(processes) - _MAX_PROCESSES_NAMED),
    }


def _row(
    kind: str,
    found: Divergence | None,
    programs: list[dict[str, Any]],
    compiler: list[dict[str, Any]],
    difference: Mapping[str, Any] | None,
) -> dict[str, Any]:
    about = wording.of_compiler(compiler)
    texts = [text for text in (wording.message(found) if found is not None else None, about) if text]
    return {
        "kind": kind,
        "function": found.function if found is not None else None,
        "nth": found.nth if found is not None else None,
        "message": ". ".join(texts),
        "advice": wording.advice(kind, has_files=difference is not None),
        "programs": programs,
        "compiler": compiler,
        "difference": dict(difference) if difference is not None else None,
    }
