"""Pitfalls of static arguments: many values, objects that are compared by identity, too many static arguments."""

from __future__ import annotations

import re
from abc import abstractmethod
from dataclasses import dataclass, field

from jitwatch.diagnosis.bounded import BoundedMap
from jitwatch.diagnosis.diff import container_of, is_below, looks_the_same, value_at
from jitwatch.diagnosis.pitfalls.flips import is_metadata
from jitwatch.diagnosis.pitfalls.rule import CompileRule, Pitfall, Rule
from jitwatch.model.events import Compiled, Event, StaticRefused
from jitwatch.model.signature import Value
from jitwatch.model.taxonomy import Cause
from jitwatch.render import formats

#: Maximum number of distinct values of a parameter that are counted; a loop counter has thousands.
_MAX_VALUES = 1_000
_CHURN_VALUES = 5
_CHURN_RECOMPILES = 4
_MANY_PARAMETERS = 5
_MANY_VARYING = 2
_MANY_RECOMPILES = 3
#: Types whose objects are compared by identity.
_FUNCTIONS = ("function", "partial", "method", "jitted function")
#: Causes of changes in values that JAX compares as a whole: static arguments, and static data of nodes.
_HOLDING: tuple[Cause, ...] = ("static_arg", "tree_structure")
#: Text of a function: its location.
_DEFINED = re.compile(r"\(\S+:\d+\)")


@dataclass(slots=True)
class _Parameter:
    """One static argument: hashes of its distinct values, and the number of recompiles in which it changed."""

    values: set[int] = field(default_factory=set)
    recompiles: int = 0


@dataclass(slots=True)
class _Function:
    parameters: dict[str, _Parameter] = field(default_factory=dict)
    recompiles: int = 0


class _StaticRule(CompileRule):
    """Base: keeps the values of each static argument, by function."""

    def __init__(self) -> None:
        self._functions: BoundedMap[_Function] = BoundedMap(_Function)

    def check_compile(self, event: Compiled) -> Pitfall | None:
        if event.signature is None or not event.signature.statics:
            return None
        function = self._functions.entry(event.function.label)
        function.recompiles += bool(event.causes)
        changed = _roots(event)
        for name, value in event.signature.statics:
            parameter = function.parameters.setdefault(name, _Parameter())
            parameter.recompiles += name in changed
            if len(parameter.values) < _MAX_VALUES:
                parameter.values.add(_key(value))
        return self._judge(event, function, changed)

    @abstractmethod
    def _judge(self, event: Compiled, function: _Function, changed: list[str]) -> Pitfall | None:
        """Return the pitfall that a compile shows, or None.

        The values of the function's static arguments include those of the compile; `changed` names those that changed.
        """


class IdentityHashedStatic(CompileRule):
    """A static argument that is compared by identity is created again for each call, with the same contents."""

    name = "identity_hashed_static"
    causes = _HOLDING

    def check_compile(self, event: Compiled) -> Pitfall | None:
        if not event.causes or event.function.is_internal:
            return None
        twins = [one.path for one in event.changes if one.kind in _HOLDING and looks_the_same(one)]
        others = [one for one in event.changes if one.path not in twins]
        numbers = [one for one in others if any(is_below(one.path, twin) for twin in twins)]
        if not twins or len(numbers) < len(others):
            return None  # something else has changed as well
        path = container_of(twins)
        for name, static in event.signature.statics if event.signature is not None else ():
            # The parts of an object are compared only because the object itself differs.
            if static.hashing == "identity" and is_below(path, name):
                path = name
        value = value_at(event.signature, path)
        if numbers:
            number = numbers[0]
            name = number.path.rpartition(".")[2]
            return Pitfall(
                path,
                f"{path} was created again with {name} {number.before} → {number.after}, a constant of the program",
                f"Create {path} once, and pass what changes as an argument (with optax: optax.inject_hyperparams)",
            )
        return _another_object(path, value)


def _another_object(path: str, value: Value | None) -> Pitfall:
    kind = value.type if value is not None else ""
    texts = [text for _, text in value.fields] if value is not None else []
    is_identity = value is not None and value.hashing == "identity" and kind not in _FUNCTIONS
    if is_identity and value is not None and value.holds_arrays:
        return Pitfall(
            path,
            f"{path} was another {kind} with the same contents; JAX compares objects of {kind} by identity, and the "
            "jit cache keeps each of them alive with its arrays",
            f"Make {kind} a pytree (jax.tree_util.register_dataclass, flax.struct.dataclass or equinox.Module) and "
            f"pass {path} as an ordinary argument, or jit a function that takes its arrays",
        )
    if is_identity and not any(_DEFINED.search(text) for text in texts):
        return Pitfall(
            path,
            f"{path} was another {kind} with the same contents, and {kind} has no __eq__ and __hash__, so each new "
            "object counts as a new value",
            f"Create {path} once and pass the same object each time, or make {kind} a NamedTuple or a "
            "@dataclass(frozen=True) of values that have a hash",
        )
    return Pitfall(
        path,
        f"{path} was another function object of the same code, and JAX compares functions by identity",
        f"Create {path} once, outside of the loop, and pass the same object each time",
    )


class StaticArgChurn(_StaticRule):
    """A static argument, or static data of an argument, has many values."""

    name = "static_arg_churn"

    def __init__(self) -> None:
        super().__init__()
        #: By function and path, hashes of the values of static data after the first.
        self._metadata: BoundedMap[dict[str, set[int]]] = BoundedMap(dict)

    def check_compile(self, event: Compiled) -> Pitfall | None:
        return self._of_metadata(event) or super().check_compile(event)

    def _of_metadata(self, event: Compiled) -> Pitfall | None:
        if event.function.is_internal:
            return None
        changed = [one for one in event.changes if is_metadata(one, event.signature) and not looks_the_same(one)]
        # Static data that depends on the shape of an array changes together with it.
        if not changed or any(one.kind == "shape" for one in event.changes):
            return None
        by_path = self._metadata.entry(event.function.label)
        for one in changed:
            values = by_path.setdefault(one.path, set()) if len(by_path) < _MAX_VALUES else set()
            value = value_at(event.signature, one.path)
            if len(values) < _MAX_VALUES:
                # Not the text of the change, which may be redacted.
                values.add(hash(one.after if value is None else (value.text, value.fields)))
        path = max((one.path for one in changed), key=lambda path: len(by_path.get(path, ())))
        count = len(by_path.get(path, ())) + 1
        if count < _CHURN_VALUES:
            return None
        return Pitfall(
            path,
            f"{path} is static metadata and not an array; it had {count} values, each of which needed a compile",
            f"Make {path} an array in its class: a data field, and not one that is static, meta or not a pytree node",
        )

    def _judge(self, event: Compiled, function: _Function, changed: list[str]) -> Pitfall | None:
        for name in changed:
            parameter = function.parameters.get(name)
            if parameter is None or len(parameter.values) < _CHURN_VALUES:
                continue
            if parameter.recompiles < max(_CHURN_RECOMPILES, function.recompiles / 2):
                continue
            count = len(parameter.values)
            values = f"{count} different values" if count < _MAX_VALUES else f"at least {count} different values"
            return Pitfall(
                name,
                f"the static argument {name} had {values}, and each one needed a compile",
                f"Pass {name} as an ordinary argument instead of a static one; if the program depends on it, put "
                "all static values into one frozen config that rarely changes",
            )
        return None


class TooManyStatics(_StaticRule):
    """Five or more arguments are static and several of them vary, so that their combinations multiply."""

    name = "too_many_statics"

    def _judge(self, event: Compiled, function: _Function, changed: list[str]) -> Pitfall | None:
        signature = event.signature
        if signature is None or signature.n_static_parameters < _MANY_PARAMETERS or not changed:
            return None
        varying = [name for name, parameter in function.parameters.items() if len(parameter.values) > 1]
        recompiles = sum(parameter.recompiles for parameter in function.parameters.values())
        if len(varying) < _MANY_VARYING or recompiles < _MANY_RECOMPILES:
            return None
        return Pitfall(
            "",
            f"{signature.n_static_parameters} arguments are static, of which {formats.listed(varying, most=3)} vary; "
            "each combination of values needs a compile",
            "Put the static arguments into one frozen config object, and pass as ordinary arguments what varies",
        )


class UnhashableStatic(Rule):
    """JAX refused a static argument that is not hashable."""

    name = "unhashable_static"
    events = (StaticRefused,)

    def check(self, event: Event) -> Pitfall | None:
        if not isinstance(event, StaticRefused):
            return None
        argument = f"the static argument {event.argument}" if event.argument else "a static argument"
        return Pitfall(
            event.argument,
            f"{argument} was a {event.type}, which is not hashable, so JAX raised an error",
            f"Pass {event.argument or 'it'} as a tuple, a NamedTuple or a frozen dataclass, or as an ordinary argument",
        )


def _roots(event: Compiled) -> list[str]:
    """Names of the static arguments that changed, without those that look the same."""
    names = [name for name, _ in event.signature.statics] if event.signature is not None else []
    paths = [one.path for one in event.changes if one.kind == "static_arg" and not looks_the_same(one)]
    return [name for name in names if any(path == name or is_below(path, name) for path in paths)]


def _key(value: Value) -> int:
    """A hash of the text of a value; equal for different objects that look the same."""
    is_content = value.hashing == "plain" and value.type not in _FUNCTIONS
    return hash((value.type, value.text, value.fields, value.token if is_content else 0))
