"""Arrays that share buffers: donating one of them deletes the others too.

`jax.device_put` to the device that holds the array, a shard of an array, and an array assembled from shards each make
an array object of its own over an existing buffer, and JAX keeps no record of the sharing. The few functions that make
such arrays are instrumented, and arrays that share buffers are grouped, weakly. When a call donates one of them, the
others get its tag and, where needed (`arrays`), its mark: their later use is an error that names the donor.

Not seen: arrays made in C++ (`x.clone()`, `x._arrays`) and through DLPack.

Checked on JAX 0.6.2, 0.10.2 and 0.12.0.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.donation.arrays import Arrays
from jitwatch.jaxhooks.observer import Observer
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.weak import WeakIdMap

#: How an array came to share buffers.
Sharing = Literal["device_put", "shard", "made_of_shards", "source"]
#: Size of a group from which on references to freed arrays are removed.
_PRUNE_SIZE = 16


class _Member:
    """An array that shares buffers: its group, and how it came to share."""

    __slots__ = ("group", "sharing")

    def __init__(self, group: list[weakref.ref[Any]], sharing: Sharing) -> None:
        self.group = group
        self.sharing = sharing


class Aliases:
    """Groups of arrays that share buffers, as far as the instrumented functions of JAX made them.

    Args:
        arrays: Operations on JAX's array class.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._members: WeakIdMap[_Member] = WeakIdMap()

    def __bool__(self) -> bool:
        return bool(self._members)

    def install(self, patcher: Patcher) -> None:
        """Instrument the functions of JAX that make such arrays, as far as they exist."""
        for hook, observer in (
            (compat.DEVICE_PUT, _DevicePut(self)),
            (compat.ADDRESSABLE_DATA, _Shard(self)),
            (compat.ADDRESSABLE_SHARDS, _Shards(self)),
            (compat.MAKE_ARRAY, _MadeOfShards(self)),
        ):
            patcher.observe(hook, observer)

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


class _Maker(Observer):
    component = "donation"

    def __init__(self, aliases: Aliases) -> None:
        self._aliases = aliases


class _DevicePut(_Maker):
    def begun(self, *args: Any, **kwargs: Any) -> Any:
        return args

    def ended(self, state: Any, result: Any) -> None:
        for source, made in zip(state, result, strict=False):
            if made is not source:
                self._aliases.add((made,), (source,), "device_put")


class _Shard(_Maker):
    def begun(self, *args: Any, **kwargs: Any) -> Any:
        return args[0]

    def ended(self, state: Any, result: Any) -> None:
        self._aliases.add((result,), (state,), "shard")


class _Shards(_Shard):
    def ended(self, state: Any, result: Any) -> None:
        self._aliases.add([one.data for one in result], (state,), "shard")


class _MadeOfShards(_Maker):
    def begun(self, *args: Any, **kwargs: Any) -> Any:
        return args[2] if len(args) > 2 else None

    def ended(self, state: Any, result: Any) -> None:
        self._aliases.add((result,), tuple(state), "made_of_shards")
