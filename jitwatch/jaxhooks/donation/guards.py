"""Keeps JAX ≤ 0.10 from ending the process when a marked array is asked what only C++ answers.

A marked array is in the state that `delete()` leaves, and there four members of `ArrayImpl` follow a null
pointer (all of 0.6.2–0.10.2): `is_ready`, `platform`, `clone` and `_pjrt_layout`. They look first. Marked arrays
may outlive the agent, so the guards stay in the process once an array was marked; they need nothing of us.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from jitwatch.jaxhooks.instrument import drop_frame

_MARK = "_is_jitwatch_guard"
#: XLA's text for a donated array.
_DELETED = "INVALID_ARGUMENT: Array has been deleted."


def install(kind: Any) -> None:
    """Guard the array class; does nothing the second time."""
    for name, make in _GUARDS.items():
        original = kind.__dict__.get(name)
        if original is not None and not is_guard(original):
            setattr(kind, name, make(original))


def remove(kind: Any) -> None:
    """Put JAX's own members back, where they are still guarded by us."""
    for name in _GUARDS:
        guarded = kind.__dict__.get(name)
        if is_guard(guarded):
            setattr(kind, name, _function_of(guarded).original)


def is_guard(member: Any) -> bool:
    """Whether a member of the array class is one of these."""
    return hasattr(_function_of(member), _MARK)


def _function_of(member: Any) -> Any:
    return member.fget if isinstance(member, property) else member


def _marked(function: Callable[..., Any], original: Any) -> Any:
    for name, value in ((_MARK, True), ("original", original)):
        setattr(function, name, value)
    return function


def _raising(original: Callable[[Any], Any]) -> Any:
    def guarded(self: Any) -> Any:
        try:
            self._check_if_deleted()
            return original(self)
        except Exception as error:
            drop_frame(error, code)
            raise

    code = guarded.__code__
    return _marked(guarded, original)


def _raising_as_xla(original: Callable[[Any], Any]) -> Any:
    """`is_ready` of a donated array raises XLA's error and not Python's."""

    def guarded(self: Any) -> Any:
        try:
            if self.is_deleted():
                raise sys.modules["jax.errors"].JaxRuntimeError(_DELETED)
            return original(self)
        except Exception as error:
            drop_frame(error, code)
            raise

    code = guarded.__code__
    return _marked(guarded, original)


def _raising_property(original: property) -> Any:
    get: Any = original.fget

    return property(_marked(_raising(get), original))


def _answering_platform(original: Callable[[Any], str]) -> Any:
    def platform(self: Any) -> str:
        if self.is_deleted():
            return str(next(iter(self.sharding.device_set)).platform)
        return original(self)

    return _marked(platform, original)


_GUARDS: dict[str, Callable[[Any], Any]] = {
    "is_ready": _raising_as_xla,
    "clone": _raising,
    "platform": _answering_platform,
    "_pjrt_layout": _raising_property,
}
