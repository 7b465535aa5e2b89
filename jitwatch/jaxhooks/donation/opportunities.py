"""Missed donations: functions that get a large state and return the next one while the caller drops the old one.

Checked when a user function has compiled: its first call passes through here, with arguments and results. Weak
references to the large arrays are kept, to find out

- whether the calling line replaces an argument by the result (`state = step(state)`),
- whether the result was replaced there in turn, so that the line runs repeatedly,
- whether the arguments were freed by then, and were passed to no other call that missed JAX's cache,
- whether no other code near the line may keep an old one (`best = state`).

All four must hold. An argument that is used again stays alive, is passed to another function, or is not what the result
replaces (`grads = grad(params)`). Cost: nothing on a cached call.
"""

from __future__ import annotations

import sys
import types
import weakref
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.calling_code import Rebinding, rebinding_at
from jitwatch.jaxhooks.donation.donated_arrays import Arrays
from jitwatch.jaxhooks.identity.call_site import is_users
from jitwatch.jaxhooks.identity.wrappers import Wrappers
from jitwatch.jaxhooks.stack import callers
from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.model.events import DonationMissed

#: Bytes that donating must save per call to be reported.
LARGE = 64 << 20
#: Candidates observed at a time; arrays kept for each.
_MAX_CANDIDATES = 32
_MAX_ARRAYS = 256
_MAX_FRAMES = 100


@dataclass(slots=True, eq=False)
class _Candidate:
    """A call that may be an opportunity, while the observations are made that decide it."""

    opportunity: DonationMissed
    rebinding: Rebinding
    arguments: list[weakref.ref[Any]] = field(default_factory=list)
    results: list[weakref.ref[Any]] = field(default_factory=list)
    #: Whether the caller's own result replaces its argument in turn, as in `state = epoch(state)`.
    is_replaced_outside: bool = False
    is_repeated: bool = False
    is_kept: bool = False

    def result_freed(self, _: weakref.ref[Any]) -> None:
        """Handle that a result was freed; runs in any thread at any moment, so it only checks where."""
        if self.rebinding.is_at(sys._getframe(1)):
            self.is_repeated = True
            # The arguments should be freed by now; otherwise something keeps them and may use them again.
            if not self.is_replaced_outside:
                self.is_kept = self.is_kept or any(one() is not None for one in self.arguments)

    @property
    def is_finished(self) -> bool:
        """Whether no observation can change the answer."""
        return self.is_kept or not any(one() is not None for one in (*self.arguments, *self.results))

    @property
    def is_confirmed(self) -> bool:
        """Whether donating would save memory."""
        return self.is_repeated and not self.is_kept and not any(one() is not None for one in self.arguments)


class Opportunities:
    """Observes first calls and keeps the candidates for a while; `large` bytes must be saved per call by donating."""

    def __init__(self, arrays: Arrays, wrappers: Wrappers, *, large: int = LARGE) -> None:
        self._arrays = arrays
        self._by_source = wrappers.by_source
        self._jax_folders = wrappers.identities.jax_folders
        self._large = large
        self._seen_programs: WeakIdMap[bool] = WeakIdMap()
        self._candidates: deque[_Candidate] = deque(maxlen=_MAX_CANDIDATES)

    def called(
        self, args: Sequence[Any], results: Sequence[Any], params: dict[str, Any], frame: types.FrameType
    ) -> None:
        """Observe a call that missed JAX's cache and has returned; arguments and results are flat."""
        for candidate in self._candidates:
            arguments = [one() for one in candidate.arguments]
            if any(array is not None and any(array is one for one in args) for array in arguments):
                candidate.is_kept = True
        jaxpr = params.get("jaxpr")
        if self._seen_programs.get(jaxpr) is None:
            self._seen_programs.set(jaxpr, True)
            found = self._candidate_for(args, results, params, frame)
            if found is not None:
                self._candidates.append(found)

    def take(self) -> list[DonationMissed]:
        """Return the opportunities found since the last call."""
        found = []
        for one in list(self._candidates):
            if one.is_confirmed:
                found.append(one.opportunity)
            if one.is_confirmed or one.is_finished:
                self._candidates.remove(one)
        return found

    def forget(self) -> None:
        """Drop all candidates."""
        self._candidates.clear()
        self._seen_programs.clear()

    def _candidate_for(
        self, args: Sequence[Any], results: Sequence[Any], params: dict[str, Any], frame: types.FrameType
    ) -> _Candidate | None:
        jaxpr = getattr(params.get("jaxpr"), "jaxpr", None)
        function = self._by_source(compat.source_of(jaxpr))
        if function is None or jaxpr is None or sum(map(self._size, args)) < self._large:
            return None
        pairs = self._matching(args, results, params.get("donated_invars", ()), jaxpr)
        size = sum(self._size(args[i]) for i, _ in pairs)
        caller = self._caller(frame)
        if size < self._large or caller is None:
            return None
        rebinding = _replacement_in(caller)
        if rebinding is None:
            return None
        largest = max((i for i, _ in pairs), key=lambda i: self._size(args[i]))
        names = getattr(compat.debug_info_of(jaxpr), "arg_names", None) or ()
        leaf = names[largest] if len(names) == len(args) else f"args[{largest}]"
        site = f"{caller.f_code.co_filename}:{caller.f_lineno}"
        outside = self._caller(caller.f_back)
        is_replaced_outside = outside is not None and _replacement_in(outside) is not None
        opportunity = DonationMissed(function=function, call_site=site, leaf=leaf, bytes=size)
        candidate = _Candidate(opportunity, rebinding, is_replaced_outside=is_replaced_outside)
        for i, j in pairs[:_MAX_ARRAYS]:
            candidate.arguments.append(weakref.ref(args[i]))
            candidate.results.append(weakref.ref(results[j], candidate.result_freed))
        return candidate

    def _matching(
        self, args: Sequence[Any], results: Sequence[Any], donated: Sequence[bool], jaxpr: Any
    ) -> list[tuple[int, int]]:
        """Pair arguments that are not donated with free results of the same type and placement."""
        if len(jaxpr.invars) != len(args) or len(jaxpr.outvars) != len(results):
            return []
        passed_on = {id(one) for one in jaxpr.invars} & {id(one) for one in jaxpr.outvars}
        kind, free = self._arrays.kind, defaultdict(list)
        for j, result in enumerate(results):
            if type(result) is kind and id(jaxpr.outvars[j]) not in passed_on:
                free[_type_of(result)].append(j)
        arrays = [(i, arg, i < len(donated) and donated[i]) for i, arg in enumerate(args) if type(arg) is kind]
        reserved = Counter(_type_of(arg) for _, arg, is_donated in arrays if is_donated)
        pairs = []
        for i, arg, is_donated in arrays:
            candidates = free[_type_of(arg)]
            if not is_donated and id(jaxpr.invars[i]) not in passed_on and len(candidates) > reserved[_type_of(arg)]:
                pairs.append((i, candidates.pop()))
        return sorted(pairs, key=lambda pair: -self._size(args[pair[0]]))

    def _size(self, value: Any) -> int:
        return int(value.nbytes) if type(value) is self._arrays.kind else 0

    def _caller(self, frame: types.FrameType | None) -> types.FrameType | None:
        users = (one for one in callers(frame, _MAX_FRAMES) if is_users(one.f_code.co_filename, self._jax_folders))
        return next(users, None)


def _replacement_in(frame: types.FrameType) -> Rebinding | None:
    """Return the rebinding at which a frame is; None if another name may keep the old value."""
    found = rebinding_at(frame.f_code, frame.f_lasti)
    return found if found is not None and not found.has_alias else None


def _type_of(array: Any) -> Any:
    return array.shape, array.dtype, array.sharding
