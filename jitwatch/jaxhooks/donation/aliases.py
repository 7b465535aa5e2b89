"""Arrays that share buffers: an array of which one is donated takes the others with it.

`jax.device_put` to the device that an array is on, a shard of an array, an array that is put together from shards:
each is an array object of its own over the same buffer, and JAX says of none of them what it shares. So the few
functions that make one are instrumented, and arrays that share are kept together, weakly. When a call donates one
of them, the others get its tag, and are marked like it where that is necessary (`arrays`): their later use is a
clean error that names the donor.

Not seen: arrays made in C++ (`x.clone()`, `x._arrays`), and by way of DLPack.

Checked on JAX 0.6.2, 0.10.2 and 0.12.0.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.donation.arrays import Arrays
from jitwatch.jaxhooks.instrument import Observer
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.weak import WeakIdMap

#: How an array came to share the buffers of another.
Sharing = Literal["device_put", "shard", "made_of_shards", "source"]
#: References of a group from which on those to arrays that have ended are dropped.
_CROWDED = 16


class _Member:
    """An array that shares buffers: with whom, and how it came to."""

    __slots__ = ("group", "how")

    def __init__(self, group: list[weakref.ref[Any]], how: Sharing) -> None:
        self.group = group
        self.how = how


class Aliases:
    """Which arrays share buffers, as far as JAX was seen to make them.

    Args:
        arrays: JAX's array class.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._members: WeakIdMap[_Member] = WeakIdMap()

    def __bool__(self) -> bool:
        return bool(self._members)

    def install(self, patcher: Patcher) -> None:
        """Look at the functions of JAX that make such arrays, as far as they are there."""
        for hook, observer in (
            (compat.DEVICE_PUT, _DevicePut(self)),
            (compat.ADDRESSABLE_DATA, _Shard(self)),
            (compat.ADDRESSABLE_SHARDS, _Shards(self)),
            (compat.MAKE_ARRAY, _MadeOfShards(self)),
        ):
            patcher.look(hook, observer)

    def made(self, results: Iterable[Any], sources: Iterable[Any], how: Sharing) -> None:
        """Arrays were made that may share the buffers of others.

        Whether they really do shows when one is donated: a copy is not deleted then.
        """
        kind = self._arrays.kind
        new = [one for one in results if type(one) is kind]
        old = [one for one in sources if type(one) is kind]
        if not new or not old or all(any(one is source for source in old) for one in new):
            return
        group: list[weakref.ref[Any]] = []
        for one, as_what in [*((one, "source") for one in old), *((one, how) for one in new)]:
            self._join(one, group, as_what)

    def _join(self, array: Any, group: list[weakref.ref[Any]], how: Sharing) -> None:
        member = self._members.get(array)
        if member is None:
            self._members.set(array, _Member(group, how))
            group.append(weakref.ref(array))
        elif member.group is not group:
            # Two groups become one: those who were with it are with the others now.
            joined = member.group
            for reference in joined:
                other = reference()
                known = self._members.get(other) if other is not None else None
                if known is not None:
                    known.group = group
            group += joined
        if len(group) > _CROWDED:
            group[:] = [reference for reference in group if reference() is not None]

    def how(self, array: Any) -> Sharing | None:
        """How an array came to share buffers, or None."""
        member = self._members.get(array)
        return member.how if member is not None else None

    def donated(self, arrays: Sequence[Any]) -> None:
        """A call has donated these arrays and they have their tags; whoever shares their buffers gets the same."""
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
        """Let go of everything."""
        self._members.clear()


class _Making(Observer):
    component = "donation"

    def __init__(self, aliases: Aliases) -> None:
        self._aliases = aliases


class _DevicePut(_Making):
    def begun(self, *args: Any, **kwargs: Any) -> Any:
        return args

    def ended(self, state: Any, result: Any) -> None:
        for source, made in zip(state, result, strict=False):
            if made is not source:
                self._aliases.made((made,), (source,), "device_put")


class _Shard(_Making):
    def begun(self, *args: Any, **kwargs: Any) -> Any:
        return args[0]

    def ended(self, state: Any, result: Any) -> None:
        self._aliases.made((result,), (state,), "shard")


class _Shards(_Shard):
    def ended(self, state: Any, result: Any) -> None:
        self._aliases.made([one.data for one in result], (state,), "shard")


class _MadeOfShards(_Making):
    def begun(self, *args: Any, **kwargs: Any) -> Any:
        return args[2] if len(args) > 2 else None

    def ended(self, state: Any, result: Any) -> None:
        self._aliases.made((result,), tuple(state), "made_of_shards")
