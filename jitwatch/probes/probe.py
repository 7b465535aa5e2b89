"""The interface of probes: started once JAX is imported, refreshed before a scrape, sampled periodically."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from jitwatch.jaxhooks.session import JaxSession
from jitwatch.model.events import Event
from jitwatch.state.store import Store
from jitwatch.system.programs import ProgramFiles


@dataclass(frozen=True, slots=True)
class ProbeContext:
    """What the agent provides to a probe.

    Attributes:
        store: Receives values of metrics.
        emit: Applies an event and logs it; returns the events that the diagnosis derived from it.
        session: The hooks in JAX.
        programs: The folder for lowered programs, if there is one.
        marks_donated: Whether donated arrays may be marked as deleted (JAX ≤ 0.10).
        cache_index: Returns the folder of the index of the persistent cache, if there is one.
        run: Name of the run.
        is_redacted: Whether no values of static arguments may be kept or shown.
        failed: Reports that a probe is incomplete, by its name and with the reason. `probe_up` is 0 from then on.
    """

    store: Store
    emit: Callable[[Event], list[Event]]
    session: JaxSession
    programs: ProgramFiles | None = None
    marks_donated: bool = True
    cache_index: Callable[[], str | None] = lambda: None
    run: str = ""
    is_redacted: bool = False
    failed: Callable[[str, str], None] = lambda name, reason: None


class Probe:
    """Base class of the probes. Every method may raise: the agent guards the calls."""

    #: Name in `probe_up{probe}`, in the option `probes` and in the agent's error counters.
    name: ClassVar[str]
    #: Whether it can start only once JAX is imported.
    needs_jax: ClassVar[bool] = True
    #: Whether an open page needs `refresh` twice a second, rather than once per round of the sampler.
    is_live: ClassVar[bool] = False
    #: Whether `start` succeeded. The probe may still be incomplete, and `probe_up` is then 0.
    is_started = False

    def __init__(self, context: ProbeContext) -> None:
        self.context = context

    def start(self) -> None:
        """Start observing. Raises if the probe cannot work here, with the reason as the message."""

    def settle(self) -> None:
        """Report pending results. Called before the last records; may take some tenths of a second."""

    def stop(self) -> None:
        """Stop observing. The session itself restores JAX."""

    def before_fork(self) -> None:
        """Release the job's objects, which a child would release a second time. Called before a fork; takes no lock."""

    def refresh(self) -> None:
        """Update cheap values. Called before each scrape and snapshot; takes microseconds."""

    def sample(self) -> None:
        """Update slow values. Called every few seconds in the sampler's thread."""
