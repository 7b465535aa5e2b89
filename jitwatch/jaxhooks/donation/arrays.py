"""Operations on JAX's array class: detect, mark and tag deleted arrays, and guard the marked ones.

On JAX ≤ 0.10 the C++ fast path meets a deleted array without running any Python: it raises ValueError on one device,
and hangs or ends the process on several. `delete()` on a donated array frees nothing more, but sends every later use
through `ArrayImpl._check_if_deleted`, as JAX does itself from 0.11 on. This is marking. The tag (an integer, see
`ledger`) is stored in the slot where an array caches its copy on the host, which a deleted array never reads: cheaper
than an attribute, and freed with the array.

A marked array is in the state that `delete()` leaves, in which four members of `ArrayImpl` follow a null pointer (all
of 0.6.2 to 0.10.2): `is_ready`, `platform`, `clone` and `_pjrt_layout`. The guards check for a deleted array first.
Marked arrays may outlive the agent, so the guards stay in the process once an array was marked; they need no agent.

Checked on JAX 0.6.2, 0.7.2, 0.8.3, 0.9.0, 0.9.2, 0.10.2 and 0.12.0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from jitwatch.errors import UnsupportedJaxError
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.observer import drop_frame
from jitwatch.jaxhooks.patcher import Patcher

_TAG_SLOT = "_npy_value"
#: The tag of an array that the user deleted.
_DELETED_BY_USER = 0
#: First version in which JAX itself sends uses of deleted arrays through Python.
_CHECKS_ITSELF = (0, 11)
_MARK = "_is_jitwatch_guard"
#: XLA's message for a donated array.
_DELETED = "INVALID_ARGUMENT: Array has been deleted."


class Arrays:
    """JAX's array class and the operations on it that donation needs, bound once since they run on every call.

    Args:
        marks: Whether to mark donated arrays where this JAX needs it.

    Raises:
        UnsupportedJaxError: The class is not as expected.
    """

    def __init__(self, *, marks: bool) -> None:
        kind = compat.array_class()
        setter = getattr(getattr(kind, _TAG_SLOT, None), "fset", None)
        if kind is None or setter is None or not hasattr(kind, "is_deleted") or not hasattr(kind, "delete"):
            raise UnsupportedJaxError("JAX's array class is not as expected, so donations are not observed")
        self.kind: Any = kind
        self.is_deleted: Callable[[Any], bool] = kind.is_deleted
        self.delete: Callable[[Any], None] = kind.delete
        self.tag: Callable[[Any, int], None] = setter
        self.checks_itself = compat.parse_version(compat.version_of("jax") or "") >= _CHECKS_ITSELF
        self.marks = marks and not self.checks_itself
        #: Whether any array of this process was marked, by this agent or an earlier one.
        self.has_marked = is_guard(kind.__dict__.get("is_ready"))
        registry = getattr(sys.modules["jax._src.tree_util"], "default_registry", None)
        if registry is None:
            raise UnsupportedJaxError("jax._src.tree_util.default_registry does not exist")
        self.flatten: Callable[[Any, Any], tuple[list[Any], Any]] = registry.flatten
        self.split: Callable[[Any], Any] = registry.flatten_one_level
        self._key_class = compat.key_class()
        core = sys.modules.get("jax._src.core")
        #: Whether no trace is active in this thread.
        self.is_eager: Callable[[], bool] = getattr(core, "trace_state_clean", lambda: True)

    def concrete(self, leaf: Any) -> Any:
        """Return the array behind a leaf, also of a random key; None for tracers, NumPy arrays and numbers."""
        if type(leaf) is self.kind:
            return leaf
        if self._key_class is not None and type(leaf) is self._key_class:
            return self.concrete(getattr(leaf, "_base_array", None))
        return None

    def tag_of(self, array: Any) -> int | None:
        """Return the tag of a deleted array, or None."""
        value = getattr(array, _TAG_SLOT, None)
        return value if type(value) is int else None

    def is_newly_donated(self, array: Any) -> bool:
        """Whether a call donated the array and no tag was stored in it yet."""
        return self.is_deleted(array) and self.tag_of(array) is None and not self.is_freed(array)

    def is_deleted_by_user(self, array: Any) -> bool:
        """Whether a deleted array was deleted by `delete()` and not by donation."""
        tag = self.tag_of(array)
        return self.is_freed(array) if tag is None else tag == _DELETED_BY_USER

    def mark(self, array: Any, tag: int) -> None:
        """Store the tag in a donated array, and send its later uses through Python."""
        if self.marks:
            self.delete(array)
            self.has_marked = True
        self.tag(array, tag)

    def is_freed(self, array: Any) -> bool:
        """Whether a deleted array without a tag has released its buffer, so that `delete()` was called on it.

        On JAX ≤ 0.10 donation alone does not release it: the array still knows the size of the buffer. From 0.11 on
        both leave the same state, and `delete()` is replaced to store a tag.
        """
        if self.checks_itself:
            return False
        try:
            array.on_device_size_in_bytes()
        except Exception:
            return True
        return False

    def install(self, patcher: Patcher) -> None:
        """Replace `delete()` where it leaves the same state as donation, to tell the two apart."""
        if not self.checks_itself:
            return
        original, is_deleted, tag = self.kind.__dict__["delete"], self.is_deleted, self.tag

        def delete(self: Any) -> None:
            was_alive = not is_deleted(self)
            original(self)
            if was_alive:
                tag(self, _DELETED_BY_USER)

        patcher.replace(self.kind, "delete", delete)


def install_guards(kind: Any) -> None:
    """Guard the array class; does nothing if it is guarded."""
    for name, make in _GUARDS.items():
        original = kind.__dict__.get(name)
        if original is not None and not is_guard(original):
            setattr(kind, name, make(original))


def remove_guards(kind: Any) -> None:
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
