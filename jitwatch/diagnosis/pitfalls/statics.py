"""Mistakes with static arguments: values that keep being new, objects that no other equals, too many of them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

from jitwatch.diagnosis.memory import Memory
from jitwatch.diagnosis.pitfalls.base import Finding, Rule
from jitwatch.events import Compiled, Event, StaticRefused
from jitwatch.signature import Value

#: Different values of one parameter that are told apart; a loop counter makes thousands.
_MAX_LOOKS = 1_000
_CHURN_VALUES = 5
_CHURN_RECOMPILES = 4
_MANY_PARAMETERS = 5
_MANY_VARYING = 2
_MANY_RECOMPILES = 3
#: Classes whose objects equal only themselves, although Python calls them hashable.
_FUNCTIONS = ("function", "partial")


@dataclass(slots=True)
class _Parameter:
    """One static argument: how each different value looks, and the last object of each look."""

    looks: dict[int, int] = field(default_factory=dict)
    recompiles: int = 0


@dataclass(slots=True)
class _Function:
    parameters: dict[str, _Parameter] = field(default_factory=dict)
    recompiles: int = 0


class _StaticRule(Rule):
    """Base: remembers which values each static argument of each function took."""

    def __init__(self) -> None:
        self._functions: Memory[_Function] = Memory(_Function)

    def look(self, event: Event, now: float) -> Finding | None:
        if not isinstance(event, Compiled) or event.signature is None or not event.signature.statics:
            return None
        function = self._functions.of(event.function.label)
        function.recompiles += bool(event.causes)
        changed = _roots(event)
        twin: tuple[str, Value] | None = None
        for name, value in event.signature.statics:
            parameter = function.parameters.setdefault(name, _Parameter())
            parameter.recompiles += name in changed
            look = _look(value)
            if _equals_only_itself(value) and parameter.looks.get(look, value.token) != value.token:
                twin = twin or (name, value)
            if look in parameter.looks or len(parameter.looks) < _MAX_LOOKS:
                parameter.looks[look] = value.token
        return self._judge(event, function, changed, twin)

    @abstractmethod
    def _judge(
        self, event: Compiled, function: _Function, changed: list[str], twin: tuple[str, Value] | None
    ) -> Finding | None:
        """What the event shows, given the function's values with those of the event.

        `changed` are the static arguments that changed, `twin` is one whose value only looks like an earlier one.
        """


class IdentityHashedStatic(_StaticRule):
    """A static object that no other equals, although their contents are the same."""

    name = "identity_hashed_static"

    def _judge(
        self, event: Compiled, function: _Function, changed: list[str], twin: tuple[str, Value] | None
    ) -> Finding | None:
        if twin is None or twin[0] not in changed:
            return None
        name, value = twin
        if value.type in _FUNCTIONS:
            return Finding(
                name,
                f"the static argument {name} was another {value.type} of the same code, and JAX takes each as new",
                f"Make the {value.type} for {name} once, outside of the loop, and pass the same object each time",
            )
        return Finding(
            name,
            f"the static argument {name} was another {value.type} with the same contents, and {value.type} has no "
            "__eq__ and __hash__, so each new object counts as a new value",
            f"Make {value.type} a NamedTuple or a @dataclass(frozen=True), or pass the same object each time",
        )


class StaticArgChurn(_StaticRule):
    """A static argument whose values keep being new."""

    name = "static_arg_churn"

    def _judge(
        self, event: Compiled, function: _Function, changed: list[str], twin: tuple[str, Value] | None
    ) -> Finding | None:
        for name in changed:
            parameter = function.parameters.get(name)
            if parameter is None or len(parameter.looks) < _CHURN_VALUES:
                continue
            if parameter.recompiles < max(_CHURN_RECOMPILES, function.recompiles / 2):
                continue
            count = len(parameter.looks)
            values = f"{count} different values" if count < _MAX_LOOKS else f"at least {count} different values"
            return Finding(
                name,
                f"the static argument {name} took {values}, and each one is a compile",
                f"Pass {name} as an ordinary argument instead of a static one; if the program must know it, bundle "
                "what is static into one frozen config that rarely changes",
            )
        return None


class TooManyStatics(_StaticRule):
    """Five or more static arguments, several of which vary: their combinations multiply."""

    name = "too_many_statics"

    def _judge(
        self, event: Compiled, function: _Function, changed: list[str], twin: tuple[str, Value] | None
    ) -> Finding | None:
        signature = event.signature
        if signature is None or signature.n_static_parameters < _MANY_PARAMETERS or not changed:
            return None
        varying = [name for name, parameter in function.parameters.items() if len(parameter.looks) > 1]
        recompiles = sum(parameter.recompiles for parameter in function.parameters.values())
        if len(varying) < _MANY_VARYING or recompiles < _MANY_RECOMPILES:
            return None
        return Finding(
            "",
            f"{signature.n_static_parameters} arguments are static and {_listed(varying)} vary, so that their "
            "combinations multiply",
            "Bundle the static arguments into one frozen config object, and pass as ordinary arguments what varies",
        )


class UnhashableStatic(Rule):
    """JAX refused a static argument that has no hash."""

    name = "unhashable_static"

    def look(self, event: Event, now: float) -> Finding | None:
        if not isinstance(event, StaticRefused):
            return None
        argument = f"the static argument {event.argument}" if event.argument else "a static argument"
        return Finding(
            event.argument,
            f"{argument} was a {event.type}, which has no hash, so JAX refused the call",
            f"Pass {event.argument or 'it'} as a tuple, a NamedTuple or a frozen dataclass, or as an ordinary argument",
        )


def _roots(event: Compiled) -> list[str]:
    """The static arguments that changed, without the field inside of them."""
    names = [name for name, _ in event.signature.statics] if event.signature is not None else []
    paths = [change.path for change in event.changes if change.kind == "static_arg"]
    return [name for name in names if any(path == name or path.startswith((f"{name}.", f"{name}[")) for path in paths)]


def _look(value: Value) -> int:
    """What can be seen of a value; two objects that look alike may still be different ones."""
    is_content = value.hashing == "plain" and value.type not in _FUNCTIONS
    return hash((value.type, value.text, value.fields, value.token if is_content else 0))


def _equals_only_itself(value: Value) -> bool:
    return value.hashing == "identity" or value.type in _FUNCTIONS


def _listed(names: list[str]) -> str:
    shown = names[:3]
    more = len(names) - len(shown)
    return f"{', '.join(shown)} and {more} more" if more else f"{', '.join(shown[:-1])} and {shown[-1]}"
