"""Donations outside of watched calls: eager transformations, ahead-of-time programs, functions jitted before the agent.

Under eager `grad`, `vmap` and `jvp` a watched call sees tracers, and JAX runs the program by its Python implementation,
which gets the arrays and knows which are donated (tangents too). The same implementation runs the first call of every
function that misses JAX's cache, also of functions that were jitted before the agent was installed. If such a first
call runs on several devices on JAX ≤ 0.10, where using a deleted array ends the process, the C++ fast path is not given
the program: all its calls then run in Python and mark what they donate, and are slower by the cost of JAX's Python
path. The object that `lower().compile()` returns is called directly; its `_call` is replaced if it donates.

Cost: nothing on a cached call; a tenth of a microsecond for each jitted function under an eager transformation.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.donation.ledger import Donor, Ledger
from jitwatch.jaxhooks.donation.opportunities import Opportunities
from jitwatch.jaxhooks.donation.watched import Calls, Watched, active_agent
from jitwatch.jaxhooks.identity.call_site import frame_of_jax
from jitwatch.jaxhooks.identity.wrappers import Wrappers
from jitwatch.jaxhooks.observer import Observer, Replaced, drop_frame
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.stack import Args, Kwargs, callers
from jitwatch.jaxhooks.values.paths import is_module_path, named_leaves, path_in
from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.model.function import Function, argument_of

_MAX_FRAMES = 200


class IndirectDonations:
    """Instruments JAX's implementation of jitted calls and the last step of ahead-of-time compiles."""

    def __init__(
        self,
        ledger: Ledger,
        wrappers: Wrappers,
        paths_of: Callable[[Any], tuple[str, ...]],
        opportunities: Opportunities,
    ) -> None:
        self._ledger = ledger
        self._paths_of = paths_of
        self._by_source = wrappers.by_source
        self._opportunities = opportunities
        #: Executables that the C++ fast path must not get.
        self._withheld: WeakIdMap[bool] = WeakIdMap()
        #: By JAX's closed jaxpr: names of its leaves, and arguments that it updates in place.
        self._names: WeakIdMap[tuple[Sequence[str], frozenset[str]]] = WeakIdMap()

    def install(self, patcher: Patcher) -> None:
        """Instrument the functions of JAX that exist under their expected names."""
        for hook, begun, ended in (
            (compat.jit_implementation_hook(), _if_donating, self._call_ran),
            (compat.CALL_PYTHON, lambda *args, **params: (args, params), self._call_missed),
            (compat.FASTPATH, lambda executable, *_, **__: self._withheld.get(executable), lambda *_: Replaced(None)),
            (compat.LOWERED_COMPILE, lambda lowered, *_, **__: lowered, self._compiled),
        ):
            patcher.observe(hook, Observer(begun, ended, component="donation"))

    def _call_ran(self, state: tuple[Sequence[Any], dict[str, Any]], _: Any) -> None:
        """Record a program that donates and was run by JAX's implementation of a jitted call."""
        caller = _caller_of_jax()
        if caller is not None:
            self._record_donation(*state, caller)

    def _call_missed(self, state: tuple[Sequence[Any], dict[str, Any]], results: Any) -> None:
        """Record a call that the C++ fast path could not serve and that has run."""
        args, params = state
        caller = _caller_of_jax()
        if caller is None:
            return
        self._opportunities.called(args, results[0], params, caller)
        if True in params.get("donated_invars", ()) and _is_first_call(caller):
            self._record_donation(args, params, caller)
            arrays = self._ledger.arrays
            if arrays.marks and any(type(one) is arrays.kind and len(one.sharding.device_set) > 1 for one in args):
                # C++ would end the process at an unmarked deleted array.
                self._withheld.set(results[1], True)

    def _record_donation(self, args: Sequence[Any], params: Kwargs, frame: FrameType) -> None:
        jaxpr, donated = params.get("jaxpr"), params["donated_invars"]
        leaves = list(itertools.compress(args, donated))
        names, in_place = self._names_of(jaxpr, getattr(compat.debug_info_of(jaxpr), "arg_names", None) or ())
        paths = tuple(itertools.compress(names, donated))
        if len(names) != len(args):
            call = _watched_call(frame)
            named = [] if call is None else named_leaves(call[0].all_roots(call[1]["args"], call[1]["kwargs"]))
            # Some leaves are from elsewhere, for example a tangent.
            paths = tuple(path_in(named, leaf) or f"args[{i}]" for i, leaf in enumerate(leaves))
        name = str(params.get("name", ""))
        donor = self._ledger.donor(self._by_source(compat.source_of(jaxpr)) or Function(name, name))
        variant = donor.variant("indirect", paths)
        variant.in_place = in_place
        donor.record_each(leaves, variant, frame)

    def _names_of(self, jaxpr: Any, of_jax: Sequence[str]) -> tuple[Sequence[str], frozenset[str]]:
        """Return the user's names for a program's leaves, and the arguments that it updates in place; cached."""
        known = self._names.get(jaxpr)
        if known is None:
            names = self._paths_of(jaxpr) or of_jax
            roots = [argument_of(name) for name, path in zip(names, of_jax, strict=False) if is_module_path(path)]
            known = names, frozenset(roots)
            self._names.set(jaxpr, known)
        return known

    def _compiled(self, lowered: Any, compiled: Any) -> None:
        """Record the calls of a program that was compiled ahead of time, if it donates."""
        infos = sys.modules["jax"].tree_util.tree_leaves(compiled.args_info)
        donated = [bool(getattr(info, "donated", False)) for info in infos]
        if any(donated) and getattr(compiled, "_call", 0) is None:
            details = getattr(getattr(lowered, "_lowering", None), "compile_args", {}).get("all_args_info")
            debug_info = getattr(details, "debug_info", None)
            names = getattr(debug_info, "arg_names", None)
            if names is None or len(names) != len(donated):
                names = [path for path, _ in named_leaves([("args", compiled.args_info[0])])]
                names += [path for path, _ in named_leaves(compiled.args_info[1].items())]
            source = getattr(debug_info, "func_src_info", None)
            name = source.partition(" at ")[0] if isinstance(source, str) else "unknown"
            function = self._by_source(source) or Function(name, name)
            compiled._call = CompiledCall(compiled, function, donated, tuple(names))


def _if_donating(*args: Any, **params: Any) -> tuple[Sequence[Any], dict[str, Any]] | None:
    """Return arguments and parameters of a jitted call that donates."""
    return (args, params) if True in params.get("donated_invars", ()) else None


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
        self._donor: Donor | None = None

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
            self._record_donation(args, kwargs, sys._getframe(1))
        except Exception:
            guard.failed("donation")
        return result

    def _record_donation(self, args: Args, kwargs: Kwargs, frame: FrameType) -> None:
        agent = active_agent()
        if agent is not None:
            leaves = agent.ledger.arrays.flatten((args, kwargs), None)[0]
            donor = agent.ledger.donor(self._function)
            variant = donor.variant("aot", self._paths)
            if donor is not self._donor:
                self._donor = donor
                variant.reset()  # other programs of the function share it, which may have other shapes
            donor.record(list(itertools.compress(leaves, self._donated)), variant, frame)

    def _failed(self, error: BaseException, args: Args, kwargs: Kwargs) -> None:
        try:
            agent = active_agent()
            if agent is not None:
                leaves = agent.ledger.arrays.flatten((args, kwargs), None)[0]
                named = list(zip(self._names, leaves, strict=False))
                agent.program_failed(self._function, error, named, list(itertools.compress(named, self._donated)))
        except Exception:
            guard.failed("donation")

    def first_call(self, args: Args, kwargs: Kwargs) -> Any:
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


def _caller_of_jax() -> FrameType | None:
    frame = frame_of_jax()
    return frame.f_back if frame is not None else None


def _is_first_call(frame: FrameType) -> bool:
    """Whether no other hook records this call, as for an eager transformation and a watched call."""
    return frame.f_code.co_name != "call_impl_cache_miss" and _watched_call(frame) is None


def _watched_call(frame: FrameType | None) -> tuple[Calls, dict[str, Any]] | None:
    """Return the watched call that encloses the frame, and its variables."""
    watched = Watched.__call__.__code__
    found = next((one for one in callers(frame, _MAX_FRAMES) if one.f_code is watched), None)
    return (found.f_locals["calls"], found.f_locals) if found is not None else None
