"""The signal of programs: the fingerprint of each function's program and of all together, to compare processes."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar, Final

from jitwatch.model.events import Compiled, CompilerSeen, Event, ProgramsDiverged
from jitwatch.model.taxonomy import OTHER_LABEL
from jitwatch.state.metrics import Metric
from jitwatch.state.tables import NoSeries, Series

#: Maximum number of programs and of functions that are kept.
_MAX_PROGRAMS: Final = 10_000
_MAX_FUNCTIONS: Final = 1_000
#: Fingerprints have 48 bits, which a metric's value holds exactly.
_MODULUS: Final = 1 << 48


def number_of(fingerprint: str) -> int:
    """The value of a metric for a fingerprint in hex; 0 if it is invalid."""
    try:
        return int(fingerprint, 16) % _MODULUS
    except ValueError:
        return 0


class Programs:
    """Keeps the latest program of each function, and a fingerprint of all distinct programs.

    In a job of several processes it covers the programs that run on devices of all processes: each process has to
    compile the same ones. The order has no effect, since threads may compile at the same time.
    """

    name: ClassVar[str] = "programs"
    events: ClassVar[tuple[type[Event], ...]] = (Compiled, CompilerSeen, ProgramsDiverged)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="program_fingerprint",
            kind="gauge",
            help="Fingerprint (48 bits) of the function's latest program; in a job of several processes, "
            "of its latest program on devices of all processes.",
            labels=("function",),
        ),
        Metric(
            name="programs_fingerprint",
            kind="gauge",
            help="Fingerprint (48 bits) of the XLA flags, the versions and all distinct programs; in a job of several "
            "processes, of the programs on devices of all processes.",
            starts_at_zero=True,
        ),
        Metric(
            name="programs",
            kind="gauge",
            help="Number of distinct programs that programs_fingerprint covers.",
            starts_at_zero=True,
        ),
        Metric(
            name="programs_diverged",
            kind="gauge",
            help="1 if this process compiled a different program than process 0 of its job; in process 0, if another "
            "process did; else 0.",
            starts_at_zero=True,
        ),
        Metric(
            name="compiling_fingerprint",
            kind="gauge",
            help="Fingerprint (48 bits) of the program that XLA is compiling, as in programs_fingerprint; 0 if none.",
            starts_at_zero=True,
        ),
    )

    def __init__(self) -> None:
        self._compiler: CompilerSeen | None = None
        self._diverged: ProgramsDiverged | None = None
        self._latest: dict[str, str] = {}
        self._known: set[int] = set()
        self._sum = 0

    def reduce(self, event: Compiled | CompilerSeen | ProgramsDiverged, series: Series) -> None:
        """Add a program, or the versions and flags that all programs of the process depend on."""
        if isinstance(event, ProgramsDiverged):
            self._diverged = event
            series.set("programs_diverged", 1.0)
            return
        if isinstance(event, CompilerSeen):
            if self._compiler is None:
                self._compiler = event
                # Another thread may have compiled a program meanwhile.
                about = _hash(event.jaxlib, event.platform_version, *event.xla_flags)
                self._sum = (self._sum + about) % _MODULUS
            return
        if not event.program or event.function.is_internal:
            return
        is_alone = self._compiler is None or self._compiler.processes == 1
        if not (event.on_all_processes or is_alone):
            return
        function, program = event.function, event.program
        is_latest = self._latest.get(function.label) == program
        if function.label in self._latest or len(self._latest) < _MAX_FUNCTIONS:
            self._latest[function.label] = program
        has_series = not isinstance(series, NoSeries)
        if has_series:
            label = series.admit(function.label, is_called=True, is_library=function.is_library)
            if label != OTHER_LABEL:
                series.set("program_fingerprint", number_of(program), (label,))
        if is_latest:
            return
        if len(self._known) < _MAX_PROGRAMS and (one := _hash(function.label, program)) not in self._known:
            self._known.add(one)
            self._sum = (self._sum + one) % _MODULUS
            if has_series:
                series.set("programs_fingerprint", self._sum)
                series.set("programs", len(self._known))

    def row(self) -> dict[str, Any]:
        """The part `programs` of the state and of the report."""
        return {
            "distinct": len(self._known),
            "fingerprint": f"{self._sum:012x}" if self._known else None,
            "latest": dict(self._latest),
            "diverged": self._diverged.payload() if self._diverged is not None else None,
            "xla_flags": list(self._compiler.xla_flags) if self._compiler is not None else [],
        }


def _hash(*parts: str) -> int:
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")
