"""The contents of a program before it is lowered: constants, operations and repeated inner functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.identity.call_site import is_users
from jitwatch.jaxhooks.weak import WeakIdMap

_PLAIN = frozenset({bool, int, float, str, type(None)})
#: Operations read of one program, those of inner functions included.
_MAX_VISITED = 20_000


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a program, inner functions included.

    Attributes:
        constants: Arrays that the program captures as constants.
        operations: Number of operations; of a very large program, those that were counted.
        repeated: The inner jitted function that occurs most often, and how often.
    """

    constants: tuple[Any, ...] = ()
    operations: int = 0
    repeated: tuple[str, int] = ("", 0)


def contents_of(closed_jaxpr: Any, jax_folders: tuple[str, ...]) -> Contents:
    """Read the contents of a program; functions of JAX do not count as repeated."""
    constants: dict[int, Any] = {id(one): one for one in getattr(closed_jaxpr, "consts", ())}
    calls: dict[str, int] = {}
    are_users: dict[str, bool] = {}
    queue, visited = [getattr(closed_jaxpr, "jaxpr", closed_jaxpr)], 0
    while queue and visited < _MAX_VISITED:
        for equation in getattr(queue.pop(), "eqns", ()):
            visited += 1
            if visited >= _MAX_VISITED:
                break
            params = equation.params
            if not params:
                continue
            for value in params.values():
                if type(value) in _PLAIN:
                    continue
                for one in value if type(value) is tuple else (value,):
                    kind: Any = type(one)
                    if not _may_be_program(kind):
                        continue
                    constants.update((id(const), const) for const in getattr(one, "consts", ()))
                    inner = getattr(one, "jaxpr", one)
                    if hasattr(inner, "eqns"):
                        queue.append(inner)
            name = params.get("name")
            if type(name) is str:
                text = compat.source_of(params.get("jaxpr"))
                source = text.partition(" at ")[2].rpartition(":")[0] if type(text) is str else ""
                if source not in are_users:
                    are_users[source] = is_users(source, jax_folders) is True if source else False
                if are_users[source]:
                    calls[name] = calls.get(name, 0) + 1
    repeated = max(calls.items(), key=lambda one: one[1], default=("", 0))
    return Contents(tuple(constants.values()), visited, repeated)


#: Answers of `_may_be_program`: a program has thousands of parameters.
_may_be_programs: WeakIdMap[bool] = WeakIdMap()


def _may_be_program(kind: Any) -> bool:
    """Whether objects of a class may be, or hold, a program."""
    known = _may_be_programs.get(kind)
    if known is None:
        # Not hasattr(kind, "__dict__"): each class has one, but not all of their objects.
        known = kind.__dictoffset__ != 0 or any(hasattr(kind, name) for name in ("jaxpr", "consts", "eqns"))
        _may_be_programs.set(kind, known)
    return known


def is_plain(value: Any) -> bool:
    """Whether comparing and hashing the value runs no code of the job."""
    if isinstance(value, tuple):
        return all(map(is_plain, tuple.__iter__(value)))
    return type(value) in _PLAIN
