"""What every probe is: started when JAX is there, read before a scrape, sampled now and then."""

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
    """What a probe works with.

    Attributes:
        store: Where values go.
        emit: Where events go; the store and the event log have them when it returns. Its answer is what
            the diagnosis made of them.
        session: The hooks into this process's JAX.
        programs: Where lowered programs are kept, if they are.
        marks_donated: Whether arrays that a call took may be marked (JAX ≤ 0.10).
        failed: Reports that a probe, by its name, does not see what it should, and why. `probe_up` is 0 from then on.
    """

    store: Store
    emit: Callable[[Event], list[Event]]
    session: JaxSession
    programs: ProgramFiles | None = None
    marks_donated: bool = True
    failed: Callable[[str, str], None] = lambda name, reason: None


class Probe:
    """Base of the probes; every method may raise, the agent guards and times the calls."""

    #: Name in `probe_up{probe}`, in the option `probes` and in the agent's error counters.
    name: ClassVar[str]
    #: Whether it can only start once JAX was imported.
    needs_jax: ClassVar[bool] = True

    #: Whether `start` has succeeded. It may see less than it should all the same, and `probe_up` is 0 then.
    is_started = False

    def __init__(self, context: ProbeContext) -> None:
        self.context = context

    def start(self) -> None:
        """Begin to watch. Raises when it cannot work here, with the reason as the message."""

    def stop(self) -> None:
        """Stop watching; the session puts JAX back itself."""

    #: Whether a page that is open wants `refresh` twice a second; else the sampler's rounds are enough for it.
    is_live: ClassVar[bool] = False

    def refresh(self) -> None:
        """Bring cheap values up to date; runs before each scrape and snapshot. Microseconds."""

    def sample(self) -> None:
        """Bring slow values up to date; runs every few seconds in the agent's own thread."""
