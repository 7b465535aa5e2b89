"""What a pitfall's rule is: it looks at one event after the other and says when its mistake shows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jitwatch.model.events import Event


@dataclass(frozen=True, slots=True)
class Finding:
    """A mistake that an event shows.

    Attributes:
        subject: What it is about: an argument's path, a variable, a line. One is told once for a function.
        message: What happened, in a sentence without the function's name and without a full stop.
        advice: What to change, in a sentence without a full stop.
    """

    subject: str
    message: str
    advice: str


class Rule(ABC):
    """One pitfall.

    A rule is told of every event of the functions that may alarm, in the thread that caused it, under the
    diagnosis's lock: it computes for microseconds, keeps a bounded memory and touches nothing else.
    """

    #: The value of the metric label `pitfall`.
    name: ClassVar[str]
    #: Whether what it finds in a recompile is why that was needed.
    explains_recompiles: ClassVar[bool] = True

    @abstractmethod
    def look(self, event: Event, now: float) -> Finding | None:
        """What the event shows; may be said again and again, the diagnosis tells it once.

        `now` is in monotonic seconds.
        """
