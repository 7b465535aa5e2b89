"""Donations that would pay: a large state goes in, the same comes out, and the caller drops the old one.

Looked at when a function of the user has compiled, at its first call, which is at hand then with arguments and
results. What is kept are weak references to the large ones, and it is found out later

- whether the line that calls replaces an argument by the result (`state = step(state)`),
- whether the result was in turn replaced there, so the line runs again and again,
- whether the arguments were gone by then, and no other call that JAX had to compile was given one of them,
- whether nothing else in the code around the line may keep an old one (`best = state`).

All of it must hold. An argument that is used again lives on, or is given to another function, or is not what the
result replaces (`grads = grad(params)`). Cost: nothing for a call that JAX answers from its cache.
"""

from __future__ import annotations

import sys
import types
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jitwatch.jaxhooks.donation.arrays import Arrays
from jitwatch.jaxhooks.donation.rebinding import Rebinding, rebinding_at
from jitwatch.jaxhooks.identity.call_site import is_users
from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.model.function import Function

#: Bytes that a call must save to be worth a word.
LARGE = 64 << 20
#: Functions that are looked at, at a time; arrays of each.
_MAX_CANDIDATES = 32
_MAX_ARRAYS = 256
_MAX_FRAMES = 100


@dataclass(frozen=True, slots=True)
class Opportunity:
    """A function that could donate.

    Attributes:
        function: Which.
        call_site: `file:line` of the call.
        leaf: Path of the largest argument.
        bytes: What a call would save.
    """

    function: Function
    call_site: str
    leaf: str
    bytes: int


@dataclass(slots=True, eq=False)
class _Candidate:
    opportunity: Opportunity
    rebinding: Rebinding
    arguments: list[weakref.ref[Any]] = field(default_factory=list)
    results: list[weakref.ref[Any]] = field(default_factory=list)
    #: Whether the caller's caller replaces its own value in turn, as in `state = epoch(state)`.
    is_replaced_outside: bool = False
    is_repeated: bool = False
    is_used: bool = False

    def dropped(self, _: weakref.ref[Any]) -> None:
        """A result died; runs in whatever thread and at whatever moment, so it only looks where that is."""
        if self.rebinding.is_at(sys._getframe(1)):
            self.is_repeated = True
            # By now the arguments should be gone, or somebody keeps them and may want them back.
            if not self.is_replaced_outside:
                self.is_used = self.is_used or any(one() is not None for one in self.arguments)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be learned."""
        return self.is_used or not any(one() is not None for one in (*self.arguments, *self.results))

    @property
    def is_found(self) -> bool:
        """Whether donating would pay."""
        return self.is_repeated and not self.is_used and not any(one() is not None for one in self.arguments)


class Opportunities:
    """Looks at first calls and remembers the promising ones for a while.

    Args:
        arrays: JAX's array class.
        by_source: The user's function that JAX's text for where it comes from stands for, if known.
        jax_folders: Where JAX lives.
        large: Bytes from which on it matters.
    """

    def __init__(
        self,
        arrays: Arrays,
        by_source: Callable[[Any], Function | None],
        jax_folders: tuple[str, ...],
        large: int | None = None,
    ) -> None:
        self._arrays = arrays
        self._by_source = by_source
        self._jax_folders = jax_folders
        self._large = LARGE if large is None else large
        self._judged: WeakIdMap[bool] = WeakIdMap()
        self._candidates: deque[_Candidate] = deque(maxlen=_MAX_CANDIDATES)

    def called(
        self, args: Sequence[Any], results: Sequence[Any], params: dict[str, Any], frame: types.FrameType
    ) -> None:
        """A call that missed JAX's cache has ended; the arguments and results are flat."""
        for candidate in self._candidates:
            watched = [one() for one in candidate.arguments]
            if any(array is not None and any(array is one for one in args) for array in watched):
                candidate.is_used = True
        jaxpr = params.get("jaxpr")
        if self._judged.get(jaxpr) is None:
            self._judged.set(jaxpr, True)
            judged = self._judge(args, results, params, frame)
            if judged is not None:
                self._candidates.append(judged)

    def take(self) -> list[Opportunity]:
        """What was found since the last time."""
        found = [one for one in list(self._candidates) if one.is_found]
        for one in list(self._candidates):
            if one.is_found or one.is_over:
                self._candidates.remove(one)
        return [one.opportunity for one in found]

    def forget(self) -> None:
        """Let go of everything."""
        self._candidates.clear()
        self._judged.clear()

    def _judge(
        self, args: Sequence[Any], results: Sequence[Any], params: dict[str, Any], frame: types.FrameType
    ) -> _Candidate | None:
        jaxpr = getattr(params.get("jaxpr"), "jaxpr", None)
        debug_info = getattr(jaxpr, "debug_info", None)
        function = self._by_source(getattr(debug_info, "func_src_info", None))
        if function is None or jaxpr is None or sum(map(self._size, args)) < self._large:
            return None
        pairs = self._matching(args, results, params.get("donated_invars", ()), jaxpr)
        size = sum(self._size(args[i]) for i, _ in pairs)
        caller = self._caller(frame)
        if size < self._large or caller is None:
            return None
        rebinding = rebinding_at(caller.f_code, caller.f_lasti)
        if rebinding is None:
            return None
        largest = max((i for i, _ in pairs), key=lambda i: self._size(args[i]))
        names = getattr(debug_info, "arg_names", None) or ()
        leaf = names[largest] if len(names) == len(args) else f"args[{largest}]"
        site = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        outside = self._caller(caller.f_back)
        is_replaced_outside = outside is not None and rebinding_at(outside.f_code, outside.f_lasti) is not None
        candidate = _Candidate(
            Opportunity(function, site, leaf, size), rebinding, is_replaced_outside=is_replaced_outside
        )
        for i, j in pairs[:_MAX_ARRAYS]:
            candidate.arguments.append(weakref.ref(args[i]))
            candidate.results.append(weakref.ref(results[j], candidate.dropped))
        return candidate

    def _matching(
        self, args: Sequence[Any], results: Sequence[Any], donated: Sequence[bool], jaxpr: Any
    ) -> list[tuple[int, int]]:
        """Arguments that are not donated, each with a result of the same type and place that is free."""
        if len(jaxpr.invars) != len(args) or len(jaxpr.outvars) != len(results):
            return []
        passed_on = {id(one) for one in jaxpr.invars} & {id(one) for one in jaxpr.outvars}
        free: dict[Any, list[int]] = {}
        for j, result in enumerate(results):
            if type(result) is self._arrays.kind and id(jaxpr.outvars[j]) not in passed_on:
                free.setdefault(_type_of(result), []).append(j)
        taken = Counter(
            _type_of(arg)
            for arg, is_donated in zip(args, donated, strict=False)
            if is_donated and type(arg) is self._arrays.kind
        )
        pairs = []
        for i, arg in enumerate(args):
            if type(arg) is not self._arrays.kind or (i < len(donated) and donated[i]):
                continue
            if id(jaxpr.invars[i]) in passed_on:
                continue
            kind = _type_of(arg)
            places = free.get(kind, [])
            if len(places) > taken[kind]:
                pairs.append((i, places.pop()))
        return sorted(pairs, key=lambda pair: -self._size(args[pair[0]]))

    def _size(self, value: Any) -> int:
        return int(value.nbytes) if type(value) is self._arrays.kind else 0

    def _caller(self, frame: types.FrameType | None) -> types.FrameType | None:
        for _ in range(_MAX_FRAMES):
            if frame is None or is_users(frame.f_code.co_filename, self._jax_folders):
                return frame
            frame = frame.f_back
        return None


def _type_of(array: Any) -> Any:
    return array.shape, array.dtype, array.sharding
