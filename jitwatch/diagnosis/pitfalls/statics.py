"""Mistakes with static arguments: values that keep being new, objects that no other equals, too many of them."""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import dataclass, field

from jitwatch.diagnosis.diff import container_of, is_below, looks_the_same, value_at
from jitwatch.diagnosis.memory import Memory
from jitwatch.diagnosis.pitfalls.arguments import is_metadata
from jitwatch.diagnosis.pitfalls.base import Finding, Rule
from jitwatch.model.events import Compiled, Event, StaticRefused
from jitwatch.model.signature import Value
from jitwatch.model.taxonomy import Cause

#: Different values of one parameter that are told apart; a loop counter makes thousands.
_MAX_LOOKS = 1_000
_CHURN_VALUES = 5
_CHURN_RECOMPILES = 4
_MANY_PARAMETERS = 5
_MANY_VARYING = 2
_MANY_RECOMPILES = 3
#: Classes whose objects equal only themselves, although Python calls them hashable.
_FUNCTIONS = ("function", "partial", "method", "jitted function")
#: Causes of changes in values that JAX compares as a whole: static arguments, and what nodes hold.
_HOLDING: tuple[Cause, ...] = ("static_arg", "tree_structure")
#: Text of an array, and of a function with its file.
_DEFINED = re.compile(r"\(\S+:\d+\)")


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
        for name, value in event.signature.statics:
            parameter = function.parameters.setdefault(name, _Parameter())
            parameter.recompiles += name in changed
            look = _look(value)
            if look in parameter.looks or len(parameter.looks) < _MAX_LOOKS:
                parameter.looks[look] = value.token
        return self._judge(event, function, changed)

    @abstractmethod
    def _judge(self, event: Compiled, function: _Function, changed: list[str]) -> Finding | None:
        """What the event shows, given the function's values with those of the event.

        `changed` are the static arguments that changed.
        """


class IdentityHashedStatic(Rule):
    """An object that no other equals, although their contents are the same: made anew for each call."""

    name = "identity_hashed_static"

    def look(self, event: Event, now: float) -> Finding | None:
        if not isinstance(event, Compiled) or not event.causes or event.function.is_internal:
            return None
        twins = [one.path for one in event.changes if one.kind in _HOLDING and looks_the_same(one)]
        others = [one for one in event.changes if one.path not in twins]
        numbers = [one for one in others if any(is_below(one.path, twin) for twin in twins)]
        if not twins or len(numbers) < len(others):
            return None  # something else has changed, too
        path = container_of(twins)
        for name, static in event.signature.statics if event.signature is not None else ():
            # What it holds is looked at only since the object itself is another one.
            if static.hashing == "identity" and is_below(path, name):
                path = name
        value = value_at(event.signature, path)
        if numbers:
            number = numbers[0]
            name = number.path.rpartition(".")[2]
            return Finding(
                path,
                f"{path} was made anew with {name} {number.before} → {number.after}, a constant of the program",
                f"Make {path} once, and pass what changes as an argument (with optax: optax.inject_hyperparams)",
            )
        return _made_anew(path, value)


def _made_anew(path: str, value: Value | None) -> Finding:
    kind = value.type if value is not None else ""
    texts = [text for _, text in value.fields] if value is not None else []
    is_identity = value is not None and value.hashing == "identity" and kind not in _FUNCTIONS
    if is_identity and value is not None and value.holds_arrays:
        return Finding(
            path,
            f"{path} was another {kind} with the same contents; JAX compares objects of {kind} by identity, and the "
            "jit cache keeps each of them alive with its arrays",
            f"Make {kind} a pytree (jax.tree_util.register_dataclass, flax.struct.dataclass or equinox.Module) and "
            f"pass {path} as an ordinary argument, or jit a function that takes its arrays",
        )
    if is_identity and not any(_DEFINED.search(text) for text in texts):
        return Finding(
            path,
            f"{path} was another {kind} with the same contents, and {kind} has no __eq__ and __hash__, so each new "
            "object counts as a new value",
            f"Make {path} once and pass the same object each time, or make {kind} a NamedTuple or a "
            "@dataclass(frozen=True) of values that have a hash",
        )
    return Finding(
        path,
        f"{path} was another object of the same code, and JAX compares functions by identity",
        f"Make {path} once, outside of the loop, and pass the same object each time",
    )


class StaticArgChurn(_StaticRule):
    """A static argument whose values keep being new."""

    name = "static_arg_churn"

    def __init__(self) -> None:
        super().__init__()
        #: By function, hashes of the values that metadata of its arguments took after the first, by path.
        self._metadata: Memory[dict[str, set[int]]] = Memory(dict)

    def look(self, event: Event, now: float) -> Finding | None:
        return self._of_metadata(event) or super().look(event, now)

    def _of_metadata(self, event: Event) -> Finding | None:
        if not isinstance(event, Compiled) or event.function.is_internal:
            return None
        changed = [one for one in event.changes if is_metadata(one, event.signature) and not looks_the_same(one)]
        # What mirrors the shape of an array changes together with it.
        if not changed or any(one.kind == "shape" for one in event.changes):
            return None
        taken = self._metadata.of(event.function.label)
        for one in changed:
            values = taken.setdefault(one.path, set()) if len(taken) < _MAX_LOOKS else set()
            value = value_at(event.signature, one.path)
            if len(values) < _MAX_LOOKS:
                # Not the text of the change, which may be redacted.
                values.add(hash(one.after if value is None else (value.text, value.fields)))
        path = max((one.path for one in changed), key=lambda path: len(taken.get(path, ())))
        count = len(taken.get(path, ())) + 1
        if count < _CHURN_VALUES:
            return None
        return Finding(
            path,
            f"{path} is no array but metadata of the structure, and took {count} values, each of which is a compile",
            f"Make {path} an array of its class: a field with data, and not one that is static, meta or no pytree node",
        )

    def _judge(self, event: Compiled, function: _Function, changed: list[str]) -> Finding | None:
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

    def _judge(self, event: Compiled, function: _Function, changed: list[str]) -> Finding | None:
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
    """The static arguments that changed, without the field inside of them; not those that only look the same."""
    names = [name for name, _ in event.signature.statics] if event.signature is not None else []
    paths = [one.path for one in event.changes if one.kind == "static_arg" and not looks_the_same(one)]
    return [name for name in names if any(path == name or path.startswith((f"{name}.", f"{name}[")) for path in paths)]


def _look(value: Value) -> int:
    """What can be seen of a value; two objects that look alike may still be different ones."""
    is_content = value.hashing == "plain" and value.type not in _FUNCTIONS
    return hash((value.type, value.text, value.fields, value.token if is_content else 0))


def _listed(names: list[str]) -> str:
    shown = names[:3]
    more = len(names) - len(shown)
    return f"{', '.join(shown)} and {more} more" if more else f"{', '.join(shown[:-1])} and {shown[-1]}"
