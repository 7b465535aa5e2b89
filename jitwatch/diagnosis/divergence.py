"""Finds the first program that differs between the processes of a job.

Only programs on devices of all processes are compared. Each process has to compile the same programs, but not in the
same order: threads may compile at the same time, and one process may be slower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

#: `program`: processes compiled different programs of one function. `extra`: some compiled a program, the others none
#: in its place.
Kind = Literal["program", "extra"]
#: Maximum number of programs of one function that are compared.
_MAX_OF_FUNCTION: Final = 1_000
#: A function and the fingerprint of one of its programs.
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compile:
    """The first compile of a program in a process.

    Attributes:
        function: Label of the function.
        program: Its fingerprint.
        nth: Number of the compile among those of the function in the process, from 1.
        call_site: `file:line` of the user's code.
        at: Timestamp.
        hlo: Name of the file with the program, if there is one.
        is_called: Whether a call compiled it. A program that was compiled ahead of time may never run.
    """

    function: str
    program: str
    nth: int
    call_site: str | None = None
    at: str = ""
    hlo: str | None = None
    is_called: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """The first difference between the programs of processes.

    Attributes:
        function: Label of the function.
        nth: Number of the compile among those of the function, in the process in which it came first.
        groups: For each program compiled in this place, the processes that compiled it, the largest group first; None
            for processes that compiled no program.
    """

    kind: Kind
    function: str
    nth: int
    groups: tuple[tuple[Compile | None, tuple[int, ...]], ...]


def first_divergence(compiles: Mapping[int, Sequence[Compile]]) -> Divergence | None:
    """Find the first program that not all processes compiled.

    Args:
        compiles: By process, its distinct programs in the order of their first compiles. Processes without any are
            left out: they have no devices in common with others, or no hooks.

    Returns:
        The difference that came first by the order of compiles in a process, or None. Different programs of one
        function come before programs that only some processes compiled; of these, only those that a call compiled.
    """
    processes = [process for process, some in compiles.items() if some]
    everyone = (1 << len(processes)) - 1
    # Sets of processes are bits: there may be thousands of processes with thousands of programs.
    owners: dict[_Key, int] = {}
    positions: dict[_Key, int] = {}
    called: set[_Key] = set()
    for bit, process in enumerate(processes):
        for position, one in enumerate(compiles[process]):
            key = (one.function, one.program)
            owners[key] = owners.get(key, 0) | 1 << bit
            positions[key] = min(position, positions.get(key, position))
            if one.is_called:
                called.add(key)
    partial: dict[str, list[_Key]] = {}
    for key, some in owners.items():
        if some != everyone:
            partial.setdefault(key[0], []).append(key)
    found: list[tuple[bool, int, _Key]] = []
    for keys in partial.values():
        ordered = sorted(keys, key=positions.__getitem__)[:_MAX_OF_FUNCTION]
        # Two programs contradict each other if each is missing in a process that has the other one.
        sets = {owners[key] for key in ordered}  # few, also of a thousand programs
        first = next((key for key in ordered if any(_contradict(owners[key], some) for some in sets)), None)
        chosen = first or next((key for key in ordered if key in called), None)
        if chosen is not None:
            found.append((first is None, positions[chosen], chosen))
    if not found:
        return None
    is_extra, _, key = min(found)
    return _described(key, is_extra, [(process, compiles[process]) for process in processes], owners)


def _contradict(some: int, others: int) -> bool:
    return bool(some & ~others and others & ~some)


def _described(
    key: _Key, is_extra: bool, processes: Sequence[tuple[int, Sequence[Compile]]], owners: Mapping[_Key, int]
) -> Divergence:
    """What each process compiled in the place of a program: its first one of the function that contradicts it."""
    groups: dict[str, tuple[Compile | None, list[int]]] = {}
    for bit, (process, compiles) in enumerate(processes):
        has_it = bool(owners[key] >> bit & 1)
        instead = None
        for one in compiles:
            other = (one.function, one.program)
            if other == key if has_it else one.function == key[0] and _contradict(owners[key], owners[other]):
                instead = one
                break
        groups.setdefault(instead.program if instead is not None else "", (instead, []))[1].append(process)
    ordered = sorted(groups.values(), key=lambda group: (group[0] is None, -len(group[1]), group[1]))
    return Divergence(
        kind="extra" if is_extra else "program",
        function=key[0],
        nth=min(one.nth for one, _ in ordered if one is not None),
        groups=tuple((one, tuple(some)) for one, some in ordered),
    )
