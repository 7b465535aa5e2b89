"""Mistakes in making jitted functions: in a loop, around a variable of the loop, with a default that can change."""

from __future__ import annotations

from dataclasses import dataclass, field

from jitwatch.diagnosis.diff import looks_the_same
from jitwatch.diagnosis.memory import Memory
from jitwatch.diagnosis.pitfalls.base import Finding, Rule
from jitwatch.model.events import Compiled, Event, FunctionWrapped
from jitwatch.model.function import Change
from jitwatch.model.signature import BODY_OF

#: New function objects of the same code that are compiled at one line; a few at start-up are no mistake.
_AT_ONE_SITE = 3
#: The same wherever they are called.
_ANYWHERE = 6
_MAX_SITES = 100


@dataclass(slots=True)
class _Made:
    """New function objects of one function: by the line that called them, and in all."""

    by_site: dict[str | None, int] = field(default_factory=dict)
    total: int = 0
    #: Number of the last function object: `grad` makes several programs of one.
    last: int = 0

    def add(self, site: str | None, number: int) -> bool:
        """Count one more, unless it is the same function object; whether that is too many."""
        if number and number == self.last:
            return self._is_many(site)
        self.last = number
        self.total += 1
        if site in self.by_site or len(self.by_site) < _MAX_SITES:
            self.by_site[site] = self.by_site.get(site, 0) + 1
        return self._is_many(site)

    def _is_many(self, site: str | None) -> bool:
        return self.by_site.get(site, 0) >= _AT_ONE_SITE or self.total >= _ANYWHERE


class ClosureCapture(Rule):
    """A function is made anew for each value of a variable that it captures."""

    name = "closure_capture"

    def __init__(self) -> None:
        self._made: Memory[_Made] = Memory(_Made)

    def look(self, event: Event, now: float) -> Finding | None:
        change = _new_function(event)
        if change is None or change.path == "function" or not isinstance(event, Compiled):
            return None
        name = _root(change.path)
        if not self._made.of((event.function.label, name)).add(event.call_site, _number_of(event)):
            return None
        others = [one for one in event.changes if one.kind == "new_function" and looks_the_same(one)]
        if looks_the_same(change):
            return Finding(
                name,
                f"the function is made again with another {name} inside that looks the same, and each one is a compile",
                f"Make {name} and the jitted function once, outside of the loop",
            )
        message = (
            f"the function is made again with another {change.path} inside ({change.before} → {change.after}), "
            "and each one is a compile"
        )
        if others:
            # The value is captured by a function that the function captures, which cannot be passed.
            return Finding(
                name,
                message,
                f"Pass what changes as an argument (with optax: optax.inject_hyperparams), and make {name} once",
            )
        return Finding(
            name, message, f"Pass {change.path} as an argument of the jitted function, and call jax.jit once"
        )


class JitInLoop(Rule):
    """The same code is jitted again and again, and each time compiled."""

    name = "jit_in_loop"

    def __init__(self) -> None:
        self._made: Memory[_Made] = Memory(_Made)

    def look(self, event: Event, now: float) -> Finding | None:
        change = _new_function(event)
        if change is None or change.path != "function" or not isinstance(event, Compiled):
            return None
        made = self._made.of(event.function.label)
        if not made.add(event.call_site, _number_of(event)):
            return None
        advice = "Call jax.jit once, outside of the loop or at the top of the module, and keep what it returns"
        if event.signature is not None and event.signature.operation == "jax.vjp":
            advice = (
                "Jit one function that calls jax.vjp inside, and pass the point at which it is evaluated as an argument"
            )
        message = f"jax.jit was called on the same code {made.total + 1} times, and each one is a compile"
        return Finding("", message, advice)


class MutableDefault(Rule):
    """A jitted function has a default value that can change: JAX would go on using what it saw when it traced."""

    name = "mutable_default"

    def look(self, event: Event, now: float) -> Finding | None:
        if not isinstance(event, FunctionWrapped) or not event.mutable_defaults:
            return None
        name = event.mutable_defaults[0]
        return Finding(
            name,
            f"the default value of {name} can change (a list, a dict, an array), but JAX keeps what it was when it "
            "traced the function",
            f"Make the default of {name} None and create the value inside of the function",
        )


def _number_of(event: Compiled) -> int:
    return event.signature.function if event.signature is not None else 0


def _new_function(event: Event) -> Change | None:
    """The change that says that a new function object was jitted; new options of `jax.jit` are none."""
    if not isinstance(event, Compiled):
        return None
    found = [
        one
        for one in event.changes
        if one.kind == "new_function" and one.path != "options of jax.jit" and not one.path.startswith(BODY_OF)
    ]
    # A value that differs says more than an object that looks the same.
    return min(found, key=looks_the_same, default=None)


def _root(path: str) -> str:
    """`config` of `config.width`; a partial's `args[0]` stays whole."""
    if path.startswith("args["):
        return path[: path.index("]") + 1]
    return path.partition(".")[0].partition("[")[0]
