"""The base class of the rules that recognise pitfalls, one pitfall a rule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jitwatch.model.events import Compiled, Event
from jitwatch.model.taxonomy import Cause


@dataclass(frozen=True, slots=True)
class Pitfall:
    """A pitfall that an event shows.

    Attributes:
        subject: What it is about: the path of an argument, a variable, a call site; or empty. A pitfall is reported
            once for a function and a subject.
        message: What happened, in a sentence without the function's name and without a full stop.
        advice: What to change, in a sentence without a full stop.
    """

    subject: str
    message: str
    advice: str


class Rule(ABC):
    """Recognises one pitfall.

    A rule gets every event of its classes, of the functions that are not ignored, in the thread that caused it, under
    the lock of the diagnosis: it takes microseconds, keeps bounded state and touches nothing else.
    """

    #: The value of the metric label `pitfall`.
    name: ClassVar[str]
    #: Whether the pitfall, found in a recompile, is the reason for the recompile.
    explains_recompiles: ClassVar[bool] = True
    #: The classes of events that it is asked about; all if empty.
    events: ClassVar[tuple[type[Event], ...]] = ()
    #: The causes of the recompiles that it is asked about; all compiles if empty.
    causes: ClassVar[tuple[Cause, ...]] = ()

    @abstractmethod
    def check(self, event: Event) -> Pitfall | None:
        """Return the pitfall that an event shows, or None. The diagnosis reports a repeated one only once."""


class CompileRule(Rule):
    """Base of the rules that recognise a pitfall in a compile."""

    events = (Compiled,)

    def check(self, event: Event) -> Pitfall | None:
        return self.check_compile(event) if isinstance(event, Compiled) else None

    @abstractmethod
    def check_compile(self, event: Compiled) -> Pitfall | None:
        """Return the pitfall that a compile shows, or None."""
