"""JAX's array class: detects, marks and tags donated arrays, guards the marked ones, groups those that share buffers.

On JAX ≤ 0.10 the C++ fast path meets a deleted array without running any Python: it raises ValueError on one device,
and hangs or ends the process on several. `delete()` on a donated array frees nothing more, but sends every later use
through `ArrayImpl._check_if_deleted`, as JAX does itself from 0.11 on. This is marking. The tag (an integer, see
`ledger`) is stored in the slot where an array caches its copy on the host, which a deleted array never reads: cheaper
than an attribute, and freed with the array.

A marked array is in the state that `delete()` leaves, in which four members of `ArrayImpl` follow a null pointer (all
of 0.6.2 to 0.10.2): `is_ready`, `platform`, `clone` and `_pjrt_layout`. The guards check for a deleted array first.
Marked arrays may outlive the agent, so the guards stay in the process once an array was marked; they need no agent.

`jax.device_put` to the device that holds the array, a shard of an array, and an array assembled from shards each make
an array over an existing buffer, and JAX keeps no record of it. The functions that make them are instrumented, and
arrays that share buffers are grouped, weakly. When a call donates one of them, the others get its tag and its mark.
Not seen: arrays made in C++ (`x.clone()`, `x._arrays`) and through DLPack.

Checked on JAX 0.6.2, 0.7.2, 0.8.3, 0.9.0, 0.9.2, 0.10.2 and 0.12.0.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

from jitwatch.errors import UnsupportedJaxError
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.observer import Observer, drop_frame
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.weak import WeakIdMap

_TAG_SLOT = "_npy_value"
#: The tag of an array that the user deleted.
_DELETED_BY_USER = 0
#: First version in which JAX itself sends uses of deleted arrays through Python.
_CHECKS_ITSELF = (0, 11)
_MARK = "_is_jitwatch_guard"
#: XLA's message for a donated array.
_DELETED = "INVALID_ARGUMENT: Array has been deleted."
#: How an array came to share buffers.
Sharing = Literal["device_put", "shard", "made_of_shards", "source"]
#: Size of a group from which on references to freed arrays are removed.
_PRUNE_SIZE = 16


class Arrays:
    """JAX's array class and the operations on it that donation needs, bound once since they run on every call.

    Raises:
        UnsupportedJaxError: The class is not as expected.
    """

    def __init__(self, *, marks: bool) -> None:
        kind = compat.array_class()
        slot = getattr(kind, _TAG_SLOT, None)
        setter = getattr(slot, "fset", None)
        if kind is None or setter is None or not hasattr(kind, "is_deleted") or not hasattr(kind, "delete"):
            raise UnsupportedJaxError("JAX's array class is not as expected, so donations are not observed")
        self.kind: Any = kind
        self.is_deleted: Callable[[Any], bool] = kind.is_deleted
        self.delete: Callable[[Any], None] = kind.delete
        self.tag: Callable[[Any, int], None] = setter
        #: The copy of an array on the host, or None.
        self.host_copy: Callable[[Any], Any] = getattr(slot, "fget", lambda array: None)
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
        return self.is_deleted(array) and self.tag_of(array) is None and not self._is_freed(array)

    def is_deleted_by_user(self, array: Any) -> bool:
        """Whether a deleted array was deleted by `delete()` and not by donation."""
        tag = self.tag_of(array)
        return self._is_freed(array) if tag is None else tag == _DELETED_BY_USER

    def mark(self, array: Any, tag: int) -> None:
        """Store the tag in a donated array, and send its later uses through Python."""
        if self.marks:
            self.delete(array)
            self.has_marked = True
        self.tag(array, tag)

    def _is_freed(self, array: Any) -> bool:
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
        """Guard marked arrays, or replace `delete()` where it leaves the same state as donation, to tell them apart."""
        if self.marks:
            install_guards(self.kind)
            patcher.on_restore("the guards of deleted arrays", self._remove_guards)
        if not self.checks_itself:
            return
        original, is_deleted, tag = self.kind.__dict__["delete"], self.is_deleted, self.tag

        def delete(self: Any) -> None:
            was_alive = not is_deleted(self)
            original(self)
            if was_alive:
                tag(self, _DELETED_BY_USER)

        patcher.replace(self.kind, "delete", delete)

    def _remove_guards(self) -> None:
        # A marked array may live on, and without a guard JAX ends the process when such a member is used.
        if not self.has_marked:
            remove_guards(self.kind)


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


def _raising(original: Callable[[Any], Any], *, as_xla: bool = False) -> Any:
    """Raise for a donated array: XLA's error, as `is_ready` does, or Python's."""

    def guarded(self: Any) -> Any:
        try:
            if not as_xla:
                self._check_if_deleted()
            elif self.is_deleted():
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
    "is_ready": partial(_raising, as_xla=True),
    "clone": _raising,
    "platform": _answering_platform,
    "_pjrt_layout": _raising_property,
}


class _Member:
    """An array that shares buffers: its group, and how it came to share."""

    __slots__ = ("group", "sharing")

    def __init__(self, group: list[weakref.ref[Any]], sharing: Sharing) -> None:
        self.group = group
        self.sharing = sharing


class Aliases:
    """Groups of arrays that share buffers, as far as the instrumented functions of JAX made them."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._members: WeakIdMap[_Member] = WeakIdMap()
        #: Empty if there are no groups; a dictionary, since every donating call asks.
        self.entries = self._members.entries

    def install(self, patcher: Patcher) -> None:
        """Instrument the functions of JAX that make such arrays, as far as they exist."""

        def put(sources: Sequence[Any], results: Sequence[Any]) -> None:
            for source, made in zip(sources, results, strict=False):
                if made is not source:
                    self.add((made,), (source,), "device_put")

        def shard(source: Any, result: Any) -> None:
            self.add((result,), (source,), "shard")

        def shards(source: Any, result: Any) -> None:
            self.add([one.data for one in result], (source,), "shard")

        def assembled(sources: Any, result: Any) -> None:
            self.add((result,), tuple(sources), "made_of_shards")

        for hook, begun, ended in (
            (compat.DEVICE_PUT, lambda *args, **_: args, put),
            (compat.ADDRESSABLE_DATA, lambda array, *_, **__: array, shard),
            (compat.ADDRESSABLE_SHARDS, lambda array, *_, **__: array, shards),
            (compat.MAKE_ARRAY, lambda *args, **_: args[2] if len(args) > 2 else None, assembled),
        ):
            patcher.observe(hook, Observer(begun, ended, component="donation"))

    def add(self, results: Iterable[Any], sources: Iterable[Any], sharing: Sharing) -> None:
        """Group arrays that JAX made with those whose buffers they may share.

        Whether they do shows when one is donated: a copy is not deleted then.
        """
        kind = self._arrays.kind
        new = [one for one in results if type(one) is kind]
        old = [one for one in sources if type(one) is kind]
        if not new or not old or all(any(one is source for source in old) for one in new):
            return
        group: list[weakref.ref[Any]] = []
        for one, role in [*((one, "source") for one in old), *((one, sharing) for one in new)]:
            self._join(one, group, role)

    def _join(self, array: Any, group: list[weakref.ref[Any]], sharing: Sharing) -> None:
        member = self._members.get(array)
        if member is None:
            self._members.set(array, _Member(group, sharing))
            group.append(weakref.ref(array))
        elif member.group is not group:
            # Merge the two groups.
            joined = member.group
            for reference in joined:
                other = reference()
                known = self._members.get(other) if other is not None else None
                if known is not None:
                    known.group = group
            group += joined
        if len(group) > _PRUNE_SIZE:
            group[:] = [reference for reference in group if reference() is not None]

    def sharing_of(self, array: Any) -> Sharing | None:
        """Return how an array came to share buffers, or None."""
        member = self._members.get(array)
        return member.sharing if member is not None else None

    def donated(self, arrays: Sequence[Any]) -> None:
        """Give the tags of these donated arrays to the deleted arrays that share their buffers."""
        for array in arrays:
            member = self._members.get(array)
            tag = self._arrays.tag_of(array) if member is not None else None
            if member is None or tag is None:
                continue
            for reference in list(member.group):
                other = reference()
                if other is None or other is array or not self._arrays.is_deleted(other):
                    continue
                if self._arrays.tag_of(other) is None:
                    self._arrays.mark(other, tag)

    def forget(self) -> None:
        """Drop all groups."""
        self._members.clear()
