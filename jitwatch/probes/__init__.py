"""The agent's senses: one file, one signal, one line in `PROBES`.

A probe turns signals into events and values of declared metrics. It knows the store's writing side
and nothing of exporters.
"""

from __future__ import annotations

from jitwatch.probes.base import Probe, ProbeContext
from jitwatch.probes.cache import CacheProbe
from jitwatch.probes.compile import CompileProbe
from jitwatch.probes.donation import DonationProbe
from jitwatch.probes.memory import MemoryProbe
from jitwatch.probes.process import ProcessProbe

PROBES: tuple[type[Probe], ...] = (CompileProbe, CacheProbe, DonationProbe, MemoryProbe, ProcessProbe)

__all__ = ["PROBES", "Probe", "ProbeContext"]
