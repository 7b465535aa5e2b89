"""The lines in which a long trace or lowering spends its time: samples of the stack of the thread that runs it.

A sample has the user's lines inside the traced function, the outermost first, or the part of JAX that runs if there is
no user code. Only texts and numbers are kept, no frame. Reading a stack holds the GIL and calls no code of the job.
"""

from __future__ import annotations

import dis
import os
import sys
import sysconfig
import types
from collections.abc import Iterator
from dataclasses import dataclass, field

from jitwatch.jaxhooks.identity.call_site import is_users
from jitwatch.jaxhooks.identity.packages import is_installed
from jitwatch.jaxhooks.stack import callers
from jitwatch.model.rows import CONVERSION, JAXPR, OTHER_CODE, RULES, HotLineRow

#: Maximum number of rows.
MAX_ROWS = 5
_MAX_FRAMES = 1_000
#: Maximum number of lines in a sample; of a deeper stack, half of them are the outermost and half the innermost lines.
_MAX_LINES = 24
#: Maximum number of distinct samples of a compile; further ones are counted by their outermost line, then as one.
_MAX_PATHS = 1_000
_MAX_FILES = 5_000
_MAX_CODES = 1_000
#: Larger code is not searched for loops.
_MAX_BYTECODE = 100_000
#: A line is shown in place of the line that calls it if it has this share of the seconds.
_MAJORITY = 0.5
#: Folder of Python's standard library.
_STANDARD = os.path.join(sysconfig.get_path("stdlib"), "")
#: JAX's functions around a trace and a lowering. User code below the outermost of them is part of the program.
_TRACERS = frozenset({"_infer_params", "_trace_for_jit"})
_LOWERERS = frozenset({"lower_sharding_computation", "lower_parallel_callable"})
_OUTERMOST = _TRACERS | _LOWERERS
#: JAX's function that calls the lowering rule of each operation.
_LOWERS = "jaxpr_subcomp"

#: File, line, and whether it is in a loop of its function; for a part of JAX its name, 0 and False.
Line = tuple[str, int, bool]
Path = tuple[Line, ...]
_FULL: Path = ((OTHER_CODE, 0, False),)


@dataclass(slots=True)
class Samples:
    """Seconds by path. Written by the thread that samples, read by other threads."""

    seconds: dict[Path, float] = field(default_factory=dict)

    def add(self, path: Path, seconds: float) -> None:
        """Add the seconds since the last sample."""
        table = self.seconds
        for key in (path, path[:1]):
            if key in table or len(table) < _MAX_PATHS:
                break
        else:
            key = _FULL
        table[key] = table.get(key, 0.0) + seconds

    def joined(self, other: Samples | None) -> Samples:
        """These samples and those of another phase of the same compile."""
        if other is None:
            return self
        found = Samples(dict(list(self.seconds.items())))
        for path, seconds in list(other.seconds.items()):
            found.add(path, seconds)
        return found

    def rows(self) -> tuple[HotLineRow, ...]:
        """The lines with most seconds; no second is in two of them.

        The first line is the outermost one in a loop that has at least half of the seconds, so that a loop over layers
        is found rather than a line of a layer; without such a loop, the innermost line that has half of them. The next
        line is chosen in the same way from the rest.
        """
        # A single call, during which the other thread adds nothing.
        left = {path: seconds for path, seconds in list(self.seconds.items()) if path and seconds > 0}
        total = sum(left.values())
        rows: list[HotLineRow] = []
        while left and len(rows) < MAX_ROWS:
            line = _hottest(left)
            seconds = sum([left.pop(path) for path in list(left) if line in path])
            row: HotLineRow = {
                "call_site": _text(line),
                "seconds": round(seconds, 3),
                "share": round(seconds / total, 4),
            }
            if line[2]:
                row["is_in_loop"] = True
            rows.append(row)
        return tuple(sorted(rows, key=lambda row: -row["seconds"]))


def _hottest(samples: dict[Path, float]) -> Line:
    """The line to show first, found from the outermost line inwards, at each level the line with most seconds."""
    paths, total = list(samples.items()), sum(samples.values())
    found: Line | None = None
    depth = 0
    while paths:
        by_line: dict[Line, float] = {}
        for path, seconds in paths:
            by_line[path[depth]] = by_line.get(path[depth], 0.0) + seconds
        line, seconds = max(by_line.items(), key=lambda one: one[1])
        if found is not None and seconds < _MAJORITY * total:
            break
        found = line
        if line[2]:
            break
        paths = [(path, one) for path, one in paths if path[depth] == line and len(path) > depth + 1]
        depth += 1
    assert found is not None
    return found


def _text(line: Line) -> str:
    return f"{line[0]}:{line[1]}" if line[1] else line[0]


class StackReader:
    """Reads the stacks of other threads.

    Args:
        jax_folders: Folders of JAX, with a separator at the end.
    """

    def __init__(self, jax_folders: tuple[str, ...]) -> None:
        self._jax_folders = jax_folders
        #: By file name, whether it is the user's; None for a library's.
        self._ranks: dict[str, bool | None] = {}
        #: Code objects and their lines in loops, by `id()`, since hashing a code object is slow. `forget` drops them.
        self._loops: dict[int, tuple[types.CodeType, frozenset[int]]] = {}

    def forget(self) -> None:
        """Drop the references to code of the job."""
        self._loops.clear()

    def path(self, ident: int) -> Path:
        """The path of what a thread traces or lowers now; empty if it has ended.

        Args:
            ident: Identifier of the thread, of Python's original threads.
        """
        users: list[Line] = []
        libraries: list[Line] = []
        ends: tuple[int, int] | None = None
        boundary = ""
        names = set()
        for frame in self._frames(ident):
            code = frame.f_code
            name, filename = code.co_name, code.co_filename
            rank = self._rank(filename)
            if rank is False:
                names.add(name)
                if name in _OUTERMOST:
                    ends, boundary = (len(users), len(libraries)), name
                continue
            if rank is None and filename.startswith(_STANDARD) and not is_installed(filename):
                continue  # such as contextlib, which JAX uses often
            line = frame.f_lineno or 0
            (users if rank else libraries).append((filename, line, line in self._lines_in_loops(code)))
        if ends is not None:
            del users[ends[0] :], libraries[ends[1] :]
        # While it lowers, JAX itself calls libraries, not the job.
        found = users or ([] if boundary in _LOWERERS else libraries)
        if found:
            return _bounded(found)
        if not names:
            return ()
        part = RULES if _LOWERS in names else CONVERSION if names & _LOWERERS else JAXPR
        return ((part, 0, False),)

    def call_site(self, ident: int) -> str | None:
        """`file:line` of the innermost frame of the user in a thread; of a library if there is no user frame."""
        library = None
        for frame in self._frames(ident):
            rank = self._rank(frame.f_code.co_filename)
            if rank or (rank is None and library is None):
                found = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                if rank:
                    return found
                library = found
        return library

    def _frames(self, ident: int) -> Iterator[types.FrameType]:
        return callers(sys._current_frames().get(ident), _MAX_FRAMES)

    def _lines_in_loops(self, code: types.CodeType) -> frozenset[int]:
        found = self._loops.get(id(code))
        if found is None:
            if len(self._loops) >= _MAX_CODES:
                self._loops.clear()
            found = self._loops[id(code)] = code, lines_in_loops(code)
        return found[1]

    def _rank(self, filename: str) -> bool | None:
        ranks = self._ranks
        if filename in ranks:
            return ranks[filename]
        if len(ranks) >= _MAX_FILES:
            ranks.clear()
        rank = ranks[filename] = is_users(filename, self._jax_folders)
        return rank


def lines_in_loops(code: types.CodeType) -> frozenset[int]:
    """The lines of a function that are in a `for` or `while` loop of this function, or in a comprehension."""
    if len(code.co_code) > _MAX_BYTECODE:
        return frozenset()
    # A loop ends with a jump back to its start.
    spans = [(one.argval, one.offset) for one in dis.get_instructions(code) if "JUMP_BACKWARD" in one.opname]
    spans = [(start, end) for start, end in spans if isinstance(start, int)]
    return frozenset(
        line
        for start, end, line in code.co_lines()
        if line is not None and any(start <= last and first < end for first, last in spans)
    )


def _bounded(lines: list[Line]) -> Path:
    """Lines as a path, the outermost first."""
    if len(lines) > _MAX_LINES:
        lines = lines[: _MAX_LINES // 2] + lines[-_MAX_LINES // 2 :]
    return tuple(reversed(lines))
