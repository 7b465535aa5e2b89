"""The miss hooks: whose trace, lowering or backend compile it is that JAX reports.

Three private functions are replaced, all of which JAX calls only when a call missed its C++ cache
(or for `lower`/`trace`/`eval_shape`): the one that traces, the one that lowers, the one that hands
the program to XLA. A cached call runs nothing of this. Functions that JAX never serves from C++
(`debug.print`, `io_callback`, under eager `grad`) pay 1–2 µs a call for the first and third.

The way of a compile: the trace hook knows the Python function and gets a jaxpr; the lowering hook
gets the jaxpr and returns a computation; the compile hook gets the computation. AOT walks the same
way in steps, so each step is remembered by the object it returned, weakly.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from jitwatch import guard
from jitwatch.events import Function, Phase
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.executables import Executables
from jitwatch.jaxhooks.identity import Identities, code_of, named, unwrap
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.phases import CacheResult, PhaseClock, Program, Work
from jitwatch.jaxhooks.refusals import unhashable_static
from jitwatch.jaxhooks.signatures import SignatureReader, Traced
from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.jaxhooks.wrappers import Wrappers
from jitwatch.signature import Signature

#: JAX's frames between a call (or `lower`) and the trace hook; `eval_shape` has none of them.
_COMPILING_CALLERS = frozenset({"cache_miss", "_python_pjit_helper", "jit_lower", "lower"})
_MAX_FRAMES = 6
#: What ends a compile against the job's will; an exit is its own.
_FAILURES = (Exception, KeyboardInterrupt)
#: JAX's function for a direct call; a compile without it among its callers was asked for ahead of time.
_CALL = "_pjit_call_impl_python"


class Sink(Protocol):
    """Who wants to know; called in the thread that compiles, outside of any lock."""

    def compiled(
        self,
        function: Function,
        *,
        trace_s: float | None,
        lower_s: float | None,
        compile_s: float,
        persistent_cache: CacheResult,
        signature: Signature | None = None,
        program_text: Callable[[], str] | None = None,
    ) -> BaseException | None:
        """A backend compile succeeded. An error in answer is raised before the program runs.

        `program_text` gives the lowered StableHLO, which takes a while for a large program.
        """

    def refused(self, function: Function, *, argument: str, type_name: str, call_site: str | None = None) -> None:
        """JAX refused a call since this static argument has no hash; where, unless it is still on the stack."""

    def failed(self, function: Function, *, phase: Phase, error: BaseException, spent_s: float) -> None:
        """A compile ended in `error` in this phase."""


class MissHooks:
    """Installs the hooks and turns what they see into calls of the sink."""

    def __init__(
        self,
        *,
        sink: Sink,
        phases: PhaseClock,
        identities: Identities,
        wrappers: Wrappers,
        executables: Executables,
    ) -> None:
        self._sink = sink
        self._executables = executables
        self._wrappers = wrappers
        self._phases = phases
        self._identities = identities
        self._programs: WeakIdMap[Program] = WeakIdMap()
        self._computations: WeakIdMap[Program] = WeakIdMap()
        self._signatures = SignatureReader(identities)

    def install(self, patcher: Patcher) -> None:
        """Replace JAX's functions; `compat.missing_hooks()` must be empty."""
        for hook, wrap in (
            (compat.infer_hook(), self._wrap_infer),
            (compat.LOWER, self._wrap_lower),
            (compat.COMPILE, self._wrap_compile),
        ):
            owner = hook.resolve()
            patcher.replace(owner, hook.attribute, wrap(getattr(owner, hook.attribute)))
        if compat.has_pmap_path():
            owner = compat.PMAP_LOWER.resolve()
            patcher.replace(owner, compat.PMAP_LOWER.attribute, self._wrap_pmap_lower(_of(compat.PMAP_LOWER)))
            owner = compat.PMAP_COMPILE.resolve()
            patcher.replace(owner, compat.PMAP_COMPILE.attribute, self._wrap_compile(_of(compat.PMAP_COMPILE)))

    def current_function(self, phase: Phase) -> Function | None:
        """Whose phase starts in this thread, as far as the enclosing hook knows."""
        work = self._phases.thread.work
        return work[-1].function if work and work[-1].phase == phase else None

    # The three hooks. Each calls JAX's function with the very arguments it was given.

    def _wrap_infer(self, original: Callable[..., Any]) -> Callable[..., Any]:
        thread, enter, leave = self._phases.thread, self._phases.enter, self._phases.leave

        def infer_params(fun: Any, ji: Any, args: Any, kwargs: Any) -> Any:
            if thread.work:
                # Inside of another trace, where every jnp operation comes by: its time is that trace's.
                return original(fun, ji, args, kwargs)
            work = Work("trace")
            depth = len(thread.open)
            # One `try` around all of it: an interrupt between our steps must not leave the work open.
            try:
                try:
                    work.function = self._function_of(fun, ji, args)
                    enter(work)
                except Exception:
                    guard.failed("compile")
                result = original(fun, ji, args, kwargs)
            except BaseException as error:
                self._trace_failed(work, depth, fun, error)
                if isinstance(error, (TypeError, ValueError)):
                    self._tell_unhashable(work.function, ji, args, kwargs)
                raise
            leave(work, depth)
            try:
                if work.function is not None:
                    thread.last = (getattr(fun, "__name__", ""), work.function)
                    read = partial(self._signatures.traced, fun, ji, args, kwargs, result[0])
                    self._remember_program(result[0].params["jaxpr"], ji, work, work.function, read)
            except Exception:
                guard.failed("compile")
            return result

        return infer_params

    def _wrap_lower(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def lower_sharding_computation(
            closed_jaxpr: Any, api_name: Any, fun_name: Any, *args: Any, **kwargs: Any
        ) -> Any:
            def program() -> Program:
                known = self._programs.get(closed_jaxpr)
                if known is not None:
                    return known
                function = self._derived_from(closed_jaxpr, fun_name)
                traced = None if function.is_internal else self._signatures.derived(closed_jaxpr)
                return Program(function, traced=traced)

            def sign(traced: Any) -> Signature:
                shardings, layouts = args[0], args[2]
                constants = getattr(closed_jaxpr, "consts", None)
                return self._signatures.lowered(traced, shardings, layouts, constants)

            return self._lower(program, lambda: original(closed_jaxpr, api_name, fun_name, *args, **kwargs), sign)

        return lower_sharding_computation

    def _wrap_pmap_lower(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def lower_parallel_callable(fun: Any, *args: Any, **kwargs: Any) -> Any:
            def program() -> Program:
                function = self._identities.of(fun) or named(getattr(fun, "__name__", ""))
                traced = self._signatures.abstract(args[8] if len(args) > 8 else kwargs.get("avals", ()), fun)
                return Program(function, trace_s=self._phases.take_loose("trace"), traced=traced)

            def sign(traced: Any) -> Signature:
                return self._signatures.lowered(traced, (), None, None)

            return self._lower(program, lambda: original(fun, *args, **kwargs), sign)

        return lower_parallel_callable

    def _lower(self, find: Callable[[], Program], call: Callable[[], Any], sign: Callable[[Any], Signature]) -> Any:
        work = Work("lower")
        depth = len(self._phases.thread.open)
        trace_s = None
        try:
            try:
                program = find()
                work.function = program.function
                trace_s, program.trace_s = program.trace_s, None
                self._phases.enter(work)
            except Exception:
                guard.failed("compile")
            computation = call()
        except BaseException as error:
            self._phase_failed(work, depth, error, before_s=trace_s or 0.0)
            raise
        self._phases.leave(work, depth)
        try:
            if work.function is not None:
                lowered = Program(work.function, trace_s=trace_s, lower_s=work.seconds)
                if program.traced is not None:
                    lowered.signature = sign(program.traced)
                self._computations.set(computation, lowered)
        except Exception:
            guard.failed("compile")
        return computation

    def _wrap_compile(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def compile(computation: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: A001 - JAX's own name
            work = Work("compile")
            depth = len(self._phases.thread.open)
            program = None
            try:
                try:
                    program = self._computations.get(computation) or Program(named(getattr(computation, "_name", "")))
                    work.function = program.function
                    self._phases.enter(work)
                except Exception:
                    guard.failed("compile")
                executable = original(computation, *args, **kwargs)
            except BaseException as error:
                self._phase_failed(work, depth, error, before_s=_hand_out(program))
                raise
            self._phases.leave(work, depth)
            refusal = None
            try:
                if work.seconds is not None and program is not None:
                    self._executables.made(program.function, executable)
                    refusal = self._compiled(program, work.seconds, work.cache, computation)
            except Exception:
                guard.failed("compile")
            # Inside of a trace an error would leave JAX's state half-way; there it is only counted.
            if refusal is not None and not self._phases.thread.work:
                raise refusal
            return executable

        return compile

    # What the hooks found

    def _function_of(self, fun: Any, ji: Any, args: Any) -> Function:
        function = self._identities.of(fun)
        if function is None:
            function = self._identities.of_call(fun, args, ji.static_argnums)
            self._wrappers.resolved(fun, function)
        self._wrappers.called(fun, ji, function)
        return function

    def _remember_program(
        self, jaxpr: Any, ji: Any, work: Work, function: Function, read: Callable[[], Traced]
    ) -> None:
        known = self._programs.get(jaxpr)
        if known is None:
            traced = None if function.is_internal else read()
            program = Program(function, trace_s=work.seconds, traced=traced)
            self._programs.set(jaxpr, program)
            self._wrappers.remember_source(ji.fun_sourceinfo, function)
            return
        if work.seconds is not None:
            known.trace_s = work.seconds
        if known.traced is not None:
            # The function may have been jitted once more, with other options; JAX took the trace from its cache.
            known.traced = self._signatures.with_options(known.traced, ji)

    def _derived_from(self, jaxpr: Any, name: str) -> Function:
        """The function of a program that no trace hook saw: made by grad or vmap, or inside of another trace."""
        source = getattr(getattr(getattr(jaxpr, "jaxpr", None), "debug_info", None), "func_src_info", None)
        found = self._wrappers.by_source(source)
        last = self._phases.thread.last
        if found is None and last is not None and last[0] == name:
            found = last[1]
        return found if found is not None else named(name)

    def _compiled(self, program: Program, seconds: float, cache: CacheResult, computation: Any) -> BaseException | None:
        trace_s, lower_s = program.trace_s, program.lower_s
        program.trace_s = program.lower_s = None
        signature = program.signature
        if signature is not None and signature.origin == "call" and not _is_called(sys._getframe(2)):
            signature = replace(signature, origin="aot")
        return self._sink.compiled(
            program.function,
            trace_s=trace_s,
            lower_s=lower_s,
            compile_s=seconds,
            persistent_cache=cache,
            signature=signature,
            program_text=None if program.function.is_internal else lambda: str(computation.stablehlo()),
        )

    def _tell_unhashable(self, function: Function | None, ji: Any, args: Any, kwargs: Any) -> None:
        try:
            found = unhashable_static(ji, args, kwargs)
            if found is not None and function is not None and not function.is_internal:
                self._sink.refused(function, argument=found[0], type_name=found[1])
        except Exception:
            guard.failed("compile")

    def _phase_failed(self, work: Work, depth: int, error: BaseException, before_s: float) -> None:
        try:
            self._phases.leave(work, depth)
            # An enclosing hook sees the same exception; the outermost one reports it. Of a compile that took long
            # enough to be interrupted, somebody will ask which one it was.
            if isinstance(error, _FAILURES) and not self._phases.thread.work and work.function is not None:
                spent = before_s + (work.seconds or 0.0)
                self._sink.failed(work.function, phase=work.phase, error=error, spent_s=spent)
        except Exception:
            guard.failed("compile")

    def _trace_failed(self, work: Work, depth: int, fun: Any, error: BaseException) -> None:
        try:
            is_ours = _ran_in(error, code_of(unwrap(fun))) and _is_called_to_compile(sys._getframe(2))
        except Exception:
            is_ours = False
            guard.failed("compile")
        if is_ours:
            self._phase_failed(work, depth, error, before_s=0.0)
        else:
            self._phases.leave(work, depth)


def _of(hook: compat.Hook) -> Any:
    return getattr(hook.resolve(), hook.attribute)


def _hand_out(program: Program | None) -> float:
    if program is None:
        return 0.0
    spent = (program.trace_s or 0.0) + (program.lower_s or 0.0)
    program.trace_s = program.lower_s = None
    return spent


def _ran_in(error: BaseException, code: types.CodeType | None) -> bool:
    """Whether the function itself was running: a rejected argument is no failed compile."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is code:
            return True
        trace = trace.tb_next
    return False


def _is_called(frame: types.FrameType | None) -> bool:
    """Whether JAX compiles for a call that is waiting; pmap's path until 0.9 has no other way."""
    for _ in range(_MAX_FRAMES):
        if frame is None:
            return False
        if frame.f_code.co_name in (_CALL, "xla_pmap_impl_lazy", "_xla_pmap_impl_lazy", "cache_miss"):
            return True
        frame = frame.f_back
    return False


def _is_called_to_compile(frame: types.FrameType | None) -> bool:
    """Whether JAX traces for a call or for `lower`, not for `eval_shape` or `make_jaxpr`."""
    for _ in range(_MAX_FRAMES):
        if frame is None:
            return False
        if frame.f_code.co_name in _COMPILING_CALLERS:
            return True
        frame = frame.f_back
    return False
