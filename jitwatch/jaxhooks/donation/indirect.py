"""Donations beside the watched call: eager transformations, programs compiled ahead of time, older functions.

Under eager `grad`, `vmap` and `jvp` a watched call sees tracers, and JAX runs the program by its Python
implementation, which gets the arrays and says which are donated (tangents too). The same one runs the first call
of any function that misses JAX's cache, also of one that was jitted before the agent came. Where that one runs on
several devices of JAX ≤ 0.10, which ends the process when a dead array is used, C++ is not told of the program, so
that all of its calls come by here and mark what they take; they are slower by as much as JAX's Python takes. What
`lower().compile()` returns is called by itself; its `_call` is replaced where it donates.

Cost: nothing on a cached call; a tenth of a microsecond for each jitted function under an eager transformation.
"""

from __future__ import annotations

import itertools
import sys
import types
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.donation.calls import Calls, current_desk, current_ledger
from jitwatch.jaxhooks.donation.ledger import Ledger
from jitwatch.jaxhooks.donation.opportunities import Opportunities
from jitwatch.jaxhooks.donation.watched import Watched
from jitwatch.jaxhooks.identity.call_site import frame_of_jax
from jitwatch.jaxhooks.instrument import Observer, Replaced, drop_frame
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.values.leaves import is_in_module, named_leaves_of, path_in
from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.model.function import Function, argument_of

_MAX_FRAMES = 200


class IndirectDonations:
    """Replaces JAX's implementation of jitted calls, and the last step of compiling ahead of time.

    Args:
        ledger: Who took what.
        by_source: The function that JAX's text for where it comes from stands for, if known.
        paths_of: The user's names for the leaves of a program, none where they are not known.
        opportunities: Told of calls that missed JAX's cache.
    """

    def __init__(
        self,
        ledger: Ledger,
        by_source: Callable[[Any], Function | None],
        paths_of: Callable[[Any], tuple[str, ...]],
        opportunities: Opportunities,
    ) -> None:
        self._ledger = ledger
        self._paths_of = paths_of
        self._by_source = by_source
        self._opportunities = opportunities
        self._withheld: WeakIdMap[bool] = WeakIdMap()
        #: By JAX's closed jaxpr: names of its leaves, and arguments that it updates in place.
        self._names: WeakIdMap[tuple[Sequence[str], frozenset[str]]] = WeakIdMap()

    def install(self, patcher: Patcher) -> None:
        """Instrument what is there under its expected name."""
        for hook, observer in (
            (compat.jit_implementation_hook(), _Implementation(self)),
            (compat.CALL_PYTHON, _CallPython(self)),
            (compat.FASTPATH, _Fastpath(self)),
            (compat.LOWERED_COMPILE, _LoweredCompile(self)),
        ):
            patcher.look(hook, observer)

    def ran(self, args: Sequence[Any], params: dict[str, Any]) -> None:
        """JAX's implementation of a jitted call has run a program that donates."""
        frame = frame_of_jax()
        self._took(args, params, frame.f_back if frame is not None else None)

    def missed(self, args: Sequence[Any], params: dict[str, Any], results: Any) -> None:
        """A call that C++ could not answer has run."""
        frame = frame_of_jax()
        caller = frame.f_back if frame is not None else None
        if caller is None:
            return
        self._opportunities.called(args, results[0], params, caller)
        if True in params.get("donated_invars", ()) and _is_first_call(caller):
            self._took(args, params, caller)
            self._withhold(args, results[1])

    def _withhold(self, args: Sequence[Any], executable: Any) -> None:
        """Let no later call of this program pass us by, if a dead array of several devices would end the process."""
        arrays = self._ledger.arrays
        if arrays.marks and any(type(one) is arrays.kind and len(one.sharding.device_set) > 1 for one in args):
            self._withheld.set(executable, True)

    def is_withheld(self, executable: Any) -> bool:
        """Whether C++ must not answer later calls of this program."""
        return self._withheld.get(executable) is not None

    def _took(self, args: Sequence[Any], params: dict[str, Any], frame: types.FrameType | None) -> None:
        """A call of a program took those of its arguments that are donated."""
        if frame is None:
            return
        debug_info = getattr(getattr(params.get("jaxpr"), "jaxpr", None), "debug_info", None)
        donated = params["donated_invars"]
        leaves = list(itertools.compress(args, donated))
        names, in_place = self._names_of(params.get("jaxpr"), getattr(debug_info, "arg_names", None) or ())
        if len(names) == len(args):
            paths = tuple(itertools.compress(names, donated))
        else:
            paths = _paths_in_call(leaves, _watched_call(frame))
        name = str(params.get("name", ""))
        donor = self._ledger.donor(self._by_source(getattr(debug_info, "func_src_info", None)) or Function(name, name))
        variant = donor.variant("indirect", paths)
        variant.in_place = in_place
        donor.record_each(leaves, variant, frame)

    def _names_of(self, jaxpr: Any, of_jax: Sequence[str]) -> tuple[Sequence[str], frozenset[str]]:
        """The user's names for the leaves of a program, and what it updates in place; kept for later calls."""
        known = self._names.get(jaxpr)
        if known is None:
            names = self._paths_of(jaxpr) or of_jax
            roots = [argument_of(name) for name, path in zip(names, of_jax, strict=False) if is_in_module(path)]
            known = names, frozenset(roots)
            self._names.set(jaxpr, known)
        return known

    # Ahead of time

    def compiled(self, lowered: Any, compiled: Any) -> None:
        """A program was compiled ahead of time; if it donates, its calls are looked at."""
        infos = sys.modules["jax"].tree_util.tree_leaves(compiled.args_info)
        donated = [bool(getattr(info, "donated", False)) for info in infos]
        if any(donated) and getattr(compiled, "_call", 0) is None:
            details = getattr(getattr(lowered, "_lowering", None), "compile_args", {}).get("all_args_info")
            debug_info = getattr(details, "debug_info", None)
            names = getattr(debug_info, "arg_names", None)
            if names is None or len(names) != len(donated):
                names = [path for path, _ in named_leaves_of([("args", compiled.args_info[0])])]
                names += [path for path, _ in named_leaves_of(compiled.args_info[1].items())]
            source = getattr(debug_info, "func_src_info", None)
            name = source.partition(" at ")[0] if isinstance(source, str) else "unknown"
            function = self._by_source(source) or Function(name, name)
            compiled._call = CompiledCall(compiled, function, donated, tuple(names))


class _Implementation(Observer):
    """The implementation of a jitted call."""

    component = "donation"

    def __init__(self, donations: IndirectDonations) -> None:
        self._donations = donations

    def begun(self, *args: Any, **kwargs: Any) -> Any:
        return (args, kwargs) if True in kwargs.get("donated_invars", ()) else None

    def ended(self, state: Any, result: Any) -> Replaced | None:
        args, params = state
        self._donations.ran(args, params)
        return None


class _CallPython(_Implementation):
    def begun(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    def ended(self, state: Any, result: Any) -> Replaced | None:
        args, params = state
        self._donations.missed(args, params, result)
        return None


class _Fastpath(_Implementation):
    def begun(self, *args: Any, **kwargs: Any) -> Any:
        return True if self._donations.is_withheld(args[0]) else None

    def ended(self, state: Any, result: Any) -> Replaced | None:
        return Replaced(None)


class _LoweredCompile(_Implementation):
    def begun(self, *args: Any, **kwargs: Any) -> Any:
        return args[0]

    def ended(self, state: Any, result: Any) -> Replaced | None:
        self._donations.compiled(state, result)
        return None


class CompiledCall:
    """Stands in for the call of a compiled program that donates; keeps nothing of its arguments."""

    def __init__(self, compiled: Any, function: Function, donated: list[bool], names: tuple[str, ...]) -> None:
        # Weakly: the program shall not wait for the collector when its owner lets it go.
        self._compiled = weakref.ref(compiled)
        self._function = function
        self._donated = donated
        self._names = names
        self._paths = tuple(itertools.compress(names, donated))
        self._call: Callable[..., Any] | None = None

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        call = self._call
        try:
            result = self.first_call(args, kwargs) if call is None else call(*args, **kwargs)
        except BaseException as error:
            self._failed(error, args, kwargs)
            drop_frame(error, sys._getframe().f_code)
            # A debugger may keep this frame, and the frame would keep arguments that the caller has given away.
            del args, kwargs
            raise
        try:
            self._took(args, kwargs, sys._getframe(1))
        except Exception:
            guard.failed("donation")
        return result

    def _took(self, args: tuple[Any, ...], kwargs: dict[str, Any], frame: types.FrameType) -> None:
        ledger = current_ledger()
        if ledger is not None:
            leaves = ledger.arrays.flatten((args, kwargs), None)[0]
            donor = ledger.donor(self._function)
            variant = donor.variant("aot", self._paths)
            donor.record(list(itertools.compress(leaves, self._donated)), variant, frame)

    def _failed(self, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            desk = current_desk()
            if desk is not None:
                leaves = desk.ledger.arrays.flatten((args, kwargs), None)[0]
                named = list(zip(self._names, leaves, strict=False))
                desk.program_failed(self._function, error, named, list(itertools.compress(named, self._donated)))
        except Exception:
            guard.failed("donation")

    def first_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let JAX make its own call, in its own way, and remember it."""
        compiled: Any = self._compiled()
        compiled._call = None
        try:
            return compiled(*args, **kwargs)
        except BaseException as error:
            # JAX's `__call__` is above us as well, so that its second frame says nothing new.
            drop_frame(error, sys._getframe().f_code)
            drop_frame(error, type(compiled).__call__.__code__)
            raise
        finally:
            self._call, compiled._call = compiled._call, self


def _is_first_call(frame: types.FrameType) -> bool:
    """Whether nobody else tells what the call took, as for an eager transformation and a watched call."""
    return frame.f_code.co_name != "call_impl_cache_miss" and _watched_call(frame) is None


def _watched_call(frame: types.FrameType | None) -> tuple[Calls, dict[str, Any]] | None:
    """The watched call that the frame is part of, with its variables."""
    watched = Watched.__call__.__code__
    for _ in range(_MAX_FRAMES):
        if frame is None:
            return None
        if frame.f_code is watched:
            return frame.f_locals["calls"], frame.f_locals
        frame = frame.f_back
    return None


def _paths_in_call(leaves: list[Any], call: tuple[Calls, dict[str, Any]] | None) -> tuple[str, ...]:
    """Paths of leaves in the watched call that they are for; what is not there is another's, a tangent for example."""
    named = [] if call is None else named_leaves_of(call[0].all_roots(call[1]["args"], call[1]["kwargs"]))
    return tuple(path_in(named, leaf) or f"args[{i}]" for i, leaf in enumerate(leaves))
