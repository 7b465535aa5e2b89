"""Probes: each observes one kind of signal, in one file, and is one entry of `PROBES`.

A probe converts signals to events and to values of declared metrics. It writes to the store, and knows no exporter.
"""

from __future__ import annotations

from jitwatch.probes.cache import CacheProbe
from jitwatch.probes.compile import CompileProbe
from jitwatch.probes.divergence import DivergenceProbe
from jitwatch.probes.donation import DonationProbe
from jitwatch.probes.memory import MemoryProbe
from jitwatch.probes.probe import Probe, ProbeContext
from jitwatch.probes.process import ProcessProbe

PROBES: tuple[type[Probe], ...] = (
    CompileProbe, CacheProbe, DonationProbe, MemoryProbe, ProcessProbe, DivergenceProbe,
)  # fmt: skip

__all__ = ["PROBES", "Probe", "ProbeContext"]
