"""Pitfalls in creating jitted functions: in a loop, with captured values that change, with a mutable default."""

from __future__ import annotations

from dataclasses import dataclass, field

from jitwatch.diagnosis.bounded import BoundedMap
from jitwatch.diagnosis.diff import looks_the_same
from jitwatch.diagnosis.pitfalls.rule import CompileRule, Pitfall, Rule
from jitwatch.model.events import Compiled, Event, FunctionWrapped
from jitwatch.model.function import Change
from jitwatch.model.signature import BODY_OF

#: Limits for new function objects of the same code, at one call site and in total. A few at start-up are fine.
_AT_ONE_SITE = 3
_ANYWHERE = 6
_MAX_SITES = 100


@dataclass(slots=True)
class _FunctionObjects:
    """Counts the new function objects of one function, by call site and in total."""

    by_site: dict[str | None, int] = field(default_factory=dict)
    total: int = 0
    #: Number of the last function object: `grad` compiles several programs of one object.
    last: int = 0

    def add(self, event: Compiled) -> bool:
        """Count the function object of a compile, unless it is the last one; returns whether a limit is reached."""
        number, site = event.signature.function if event.signature is not None else 0, event.call_site
        if not number or number != self.last:
            self.last = number
            self.total += 1
            if site in self.by_site or len(self.by_site) < _MAX_SITES:
                self.by_site[site] = self.by_site.get(site, 0) + 1
        return self.by_site.get(site, 0) >= _AT_ONE_SITE or self.total >= _ANYWHERE


class ClosureCapture(CompileRule):
    """A function is created and jitted again for each value of a variable that it captures."""

    name = "closure_capture"
    causes = ("new_function",)

    def __init__(self) -> None:
        self._objects: BoundedMap[_FunctionObjects] = BoundedMap(_FunctionObjects)

    def check_compile(self, event: Compiled) -> Pitfall | None:
        change = _new_function(event)
        if change is None or change.path == "function":
            return None
        name = _root(change.path)
        if not self._objects.entry((event.function.label, name)).add(event):
            return None
        if looks_the_same(change):
            return Pitfall(
                name,
                f"the function is created again with another {name} that looks the same, and each one needed a compile",
                f"Create {name} and the jitted function once, outside of the loop",
            )
        message = (
            f"the function is created again with another value of {change.path} ({change.before} → {change.after}), "
            "and each one needed a compile"
        )
        advice = f"Pass {change.path} as an argument of the jitted function, and call jax.jit once"
        if any(one.kind == "new_function" and looks_the_same(one) for one in event.changes):
            # The value is captured by a function that the jitted function captures, so that it cannot be an argument.
            advice = f"Pass what changes as an argument (with optax: optax.inject_hyperparams), and create {name} once"
        return Pitfall(name, message, advice)


class JitInLoop(CompileRule):
    """`jax.jit` is called repeatedly on the same code, and each result is compiled."""

    name = "jit_in_loop"
    causes = ("new_function",)

    def __init__(self) -> None:
        self._objects: BoundedMap[_FunctionObjects] = BoundedMap(_FunctionObjects)

    def check_compile(self, event: Compiled) -> Pitfall | None:
        change = _new_function(event)
        if change is None or change.path != "function":
            return None
        objects = self._objects.entry(event.function.label)
        if not objects.add(event):
            return None
        advice = "Call jax.jit once, outside of the loop or at the top of the module, and reuse the function it returns"
        if event.signature is not None and event.signature.operation == "jax.vjp":
            advice = (
                "Jit one function that calls jax.vjp inside, and pass the point at which it is evaluated as an argument"
            )
        message = f"jax.jit was called on the same code {objects.total + 1} times, and each one needed a compile"
        return Pitfall("", message, advice)


class MutableDefault(Rule):
    """A jitted function has a mutable default value: JAX keeps using the value at the time of the trace."""

    name = "mutable_default"
    events = (FunctionWrapped,)

    def check(self, event: Event) -> Pitfall | None:
        if not isinstance(event, FunctionWrapped) or not event.mutable_defaults:
            return None
        name = event.mutable_defaults[0]
        return Pitfall(
            name,
            f"the default value of {name} is mutable (a list, a dict or an array), but JAX keeps using the value "
            "that it had when the function was traced",
            f"Make the default of {name} None and create the value in the function",
        )


def _new_function(event: Compiled) -> Change | None:
    """The change about a new function object that was jitted; not one about new options of `jax.jit`."""
    found = [
        one
        for one in event.changes
        if one.kind == "new_function" and one.path != "options of jax.jit" and not one.path.startswith(BODY_OF)
    ]
    # Values that differ come before objects that look the same.
    return min(found, key=looks_the_same, default=None)


def _root(path: str) -> str:
    """The variable of a path: `config` of `config.width`, `args[0]` of a partial."""
    if path.startswith("args["):
        return path[: path.index("]") + 1]
    return path.partition(".")[0].partition("[")[0]
