"""The miss hooks: the function that each trace, lowering and backend compile belongs to.

Three private functions are instrumented, all of which JAX calls only when a call missed its C++ cache (or for
`lower`/`trace`/`eval_shape`): the one that traces, the one that lowers, and the one that compiles. A cached call runs
none of them. Functions that the C++ fast path never serves (`debug.print`, `io_callback`, under eager `grad`) pay 1 to
2 µs per call for the first and third.

The steps of a compile: the trace hook knows the Python function and gets a jaxpr; the lowering hook gets the jaxpr and
returns a computation; the compile hook gets the computation. Ahead-of-time compiles take the same steps separately, so
each step is kept, weakly, by the object that it returned.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.compile.phases import PhaseClock, Program, Work
from jitwatch.jaxhooks.compile.refusals import unhashable_static
from jitwatch.jaxhooks.compile.sink import CompileSink
from jitwatch.jaxhooks.identity.call_site import frame_of_jax
from jitwatch.jaxhooks.identity.identities import Identities, function_of_program
from jitwatch.jaxhooks.identity.unwrapping import code_of, unwrap
from jitwatch.jaxhooks.identity.wrappers import Wrappers
from jitwatch.jaxhooks.memory.executables import Executables
from jitwatch.jaxhooks.observer import Observer, Refused
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.values.contents import Contents, contents_of
from jitwatch.jaxhooks.values.signatures import SignatureReader
from jitwatch.jaxhooks.values.traced import Traced
from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.model.function import Function
from jitwatch.model.signature import Signature
from jitwatch.model.taxonomy import Phase, UnwrittenReason

#: JAX's frames between a call (or `lower`) and the trace hook; `eval_shape` has none of them.
_COMPILING_CALLERS = frozenset({"cache_miss", "_python_pjit_helper", "jit_lower", "lower"})
_MAX_FRAMES = 6
#: Programs lowered without any traced call, after which the trace hook is reported as not working.
_MAX_UNCALLED = 3
_MAX_NUMBERS = 10_000
#: What counts as a failed compile; an exit is the job's own wish.
_FAILURES = (Exception, KeyboardInterrupt)
#: JAX's function for a direct call; a compile without it among its callers is ahead of time.
_CALL = "_pjit_call_impl_python"


@dataclass(slots=True, eq=False)
class _Call:
    """An observed call of one of JAX's functions.

    Attributes:
        work: What JAX's phases are credited to.
        depth: Number of open phases when the call began.
        program: The program, as far as it is known.
        trace_s: Seconds of the preceding trace, if there was one.
        read: Completes the record, once the result is known.
        requested: Function, JAX's options, arguments and keyword arguments of the call that needs a program.
        has_ended: Whether the function has returned; what it then raises is what the job requested (`RecompileError`).
    """

    work: Work
    depth: int
    program: Program | None = None
    trace_s: float | None = None
    read: Callable[[Any], Any] | None = None
    requested: tuple[Any, ...] = ()
    has_ended: bool = False


class MissHooks:
    """Installs the hooks and reports what they see to the sink."""

    def __init__(
        self,
        *,
        sink: CompileSink,
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
        #: By label, the number of the function object that was called last.
        self._numbers: dict[str, int] = {}
        self._has_called = False
        self._uncalled = 0

    def install(self, patcher: Patcher) -> None:
        """Instrument JAX's functions; `compat.missing_hooks()` must be empty."""
        # User code runs below this function, at each level of nested jitted functions: inlined, to add no frames.
        patcher.instrument(compat.infer_hook().get(), _Infer(self), inline=True)
        patcher.instrument(compat.LOWER.get(), _Lower(self))
        patcher.instrument(compat.COMPILE.get(), _Compile(self))
        if compat.has_pmap_path():
            patcher.instrument(compat.PMAP_LOWER.get(), _PmapLower(self))
            patcher.instrument(compat.PMAP_COMPILE.get(), _Compile(self))

    def current_function(self, phase: Phase) -> Function | None:
        """Return the function of the phase that starts in this thread, as far as the enclosing hook knows it."""
        work = self._phases.thread.work
        return work[-1].function if work and work[-1].phase == phase else None

    # Called by the observers

    def infer_begun(self, fun: Any, ji: Any, args: Any, kwargs: Any) -> _Call | None:
        """Handle that JAX looks for the program of a call; it traces the function if there is none."""
        phases = self._phases
        if phases.thread.work:
            # Inside another trace every jnp operation passes here; its time belongs to that trace.
            return None
        self._has_called = True
        work = Work("trace", self._function_of(fun, ji, args))
        return self._entered(_Call(work, len(phases.thread.open), requested=(fun, ji, args, kwargs)))

    def _entered(self, call: _Call) -> _Call:
        try:
            self._phases.enter(call.work)
            return call
        except BaseException:  # an interrupt must not leave the work open
            self._phases.leave(call.work, call.depth)
            raise

    def infer_ended(self, call: _Call, result: Any) -> None:
        """Handle that JAX has found or made the program."""
        self._phases.leave(call.work, call.depth)
        function = call.work.function
        if function is not None:
            fun, ji, args, kwargs = call.requested
            self._phases.thread.last = (getattr(fun, "__name__", ""), function)
            if not function.is_internal:
                self._number(function.label, fun)
            read = partial(self._signatures.traced, fun, ji, args, kwargs, result[0])
            self._remember_program(result[0].params["jaxpr"], ji, call.work, function, read)

    def infer_failed(self, call: _Call, error: BaseException) -> None:
        """Handle that the function, or JAX before it, raised an exception."""
        fun, ji, args, kwargs = call.requested
        is_compile = False
        try:
            is_compile = _ran_in(error, code_of(unwrap(fun))) and _is_called_to_compile(frame_of_jax())
        finally:
            if is_compile:
                self.phase_failed(call, error)
            else:
                self._phases.leave(call.work, call.depth)
        if isinstance(error, (TypeError, ValueError)):
            self._report_unhashable(call.work.function, ji, args, kwargs)

    def lower_begun(self, closed_jaxpr: Any, fun_name: Any, shardings: Any, layouts: Any) -> _Call:
        """Handle that JAX lowers a jaxpr to StableHLO."""
        program = self._programs.get(closed_jaxpr)
        if program is None:
            self._confirm_calls(fun_name)
            function = self._derived_from(closed_jaxpr, fun_name)
            reader = self._signatures
            number = self._numbers.get(function.label, 0)
            traced = reader.operation(closed_jaxpr) if function.is_internal else reader.derived(closed_jaxpr, number)
            program = Program(function, traced=traced)
        # Operations outside of jit have no contents of interest.
        contents = (
            Contents() if program.function.is_internal else contents_of(closed_jaxpr, self._identities.jax_folders)
        )
        return self._lower(program, lambda traced: self._signatures.lowered(traced, shardings, layouts, contents))

    def pmap_lower_begun(self, fun: Any, avals: Any) -> _Call:
        """Handle the same on pmap's separate path."""
        function = self._identities.of(fun) or function_of_program(getattr(fun, "__name__", ""))
        traced = self._signatures.abstract(avals, fun)
        program = Program(function, trace_s=self._phases.pop_unowned("trace"), traced=traced)
        return self._lower(program, lambda traced: self._signatures.lowered(traced, (), None, Contents()))

    def _lower(self, program: Program, sign: Callable[[Any], Signature]) -> _Call:
        trace_s, program.trace_s = program.trace_s, None
        call = _Call(Work("lower", program.function), len(self._phases.thread.open), program, trace_s)
        call.read = sign
        return self._entered(call)

    def paths_of(self, closed_jaxpr: Any) -> tuple[str, ...]:
        """Return the user's names for the leaves of a program, or nothing if its trace was not seen."""
        program = self._programs.get(closed_jaxpr)
        return program.traced.paths if program is not None and program.traced is not None else ()

    def lower_ended(self, call: _Call, computation: Any) -> None:
        """Handle that JAX has lowered the program."""
        self._phases.leave(call.work, call.depth)
        program, sign = call.program, call.read
        assert program is not None
        assert sign is not None
        lowered = Program(program.function, trace_s=call.trace_s, lower_s=call.work.seconds)
        self._computations.set(computation, lowered)
        if program.traced is not None:
            lowered.signature = sign(program.traced)

    def compile_begun(self, computation: Any) -> _Call:
        """Handle that JAX compiles a computation, or returns the executable that it has."""
        program = self._computations.get(computation) or Program(function_of_program(getattr(computation, "_name", "")))
        call = _Call(Work("compile", program.function), len(self._phases.thread.open), program)
        call.read = partial(self._compiled, computation)
        return self._entered(call)

    def compile_ended(self, call: _Call, executable: Any) -> None:
        """Handle that there is an executable. Raises `Refused` if the job forbids a compile here."""
        work, program = call.work, call.program
        self._phases.leave(work, call.depth)
        call.has_ended = True
        assert call.read is not None
        if work.seconds is None or program is None:
            return
        self._executables.add(program.function, executable)
        refusal = call.read(call)
        # Inside a trace an error would leave JAX in an inconsistent state; there it is only counted.
        if refusal is not None and not self._phases.thread.work:
            raise Refused(refusal)

    def phase_failed(self, call: _Call, error: BaseException) -> None:
        """Handle that a phase raised an exception."""
        work = call.work
        self._phases.leave(work, call.depth)
        # An enclosing hook sees the same exception, so only the outermost one reports it. Interrupts are reported too:
        # they end long compiles.
        if (
            isinstance(error, _FAILURES)
            and not call.has_ended
            and not self._phases.thread.work
            and work.function is not None
        ):
            before_s = _pop_seconds(call.program) if work.phase == "compile" else call.trace_s
            spent_s = (before_s or 0.0) + (work.seconds or 0.0)
            self._sink.failed(work.function, phase=work.phase, error=error, spent_s=spent_s)

    # Records

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
            traced = self._signatures.operation(jaxpr) if function.is_internal else read()
            program = Program(function, trace_s=work.seconds, traced=traced)
            self._programs.set(jaxpr, program)
            self._wrappers.remember_source(ji.fun_sourceinfo, function)
            return
        if work.seconds is not None:
            known.trace_s = work.seconds
        if known.traced is not None:
            # The function may have been jitted again with other options; JAX took the trace from its cache.
            known.traced = self._signatures.with_options(known.traced, ji)

    def _number(self, label: str, fun: Any) -> None:
        """Keep which function object was traced last, for the programs that JAX derives from it."""
        if len(self._numbers) >= _MAX_NUMBERS:
            self._numbers.clear()
        self._numbers[label] = self._signatures.number_of(fun)

    def _confirm_calls(self, name: str) -> None:
        """Count a program without a traced call: it was traced before the agent, or the trace hook does not work."""
        if not self._has_called:
            self._uncalled += 1
            if self._uncalled == _MAX_UNCALLED:
                self._sink.unconfirmed(name)

    def _derived_from(self, jaxpr: Any, name: str) -> Function:
        """Return the function of a program that no trace hook saw: made by grad or vmap, or inside another trace."""
        source = getattr(getattr(getattr(jaxpr, "jaxpr", None), "debug_info", None), "func_src_info", None)
        found = self._wrappers.by_source(source)
        last = self._phases.thread.last
        if found is None and last is not None and last[0] == name:
            found = last[1]
        return found if found is not None else function_of_program(name)

    def _compiled(self, computation: Any, call: _Call) -> BaseException | None:
        program, work = call.program, call.work
        assert program is not None
        trace_s, lower_s = program.trace_s, program.lower_s
        program.trace_s = program.lower_s = None
        signature = program.signature
        if signature is not None and signature.statics:
            self._wrappers.remember_statics(program.function, signature.statics)
        if signature is not None and signature.origin == "call" and not _is_called(frame_of_jax()):
            signature = replace(signature, origin="aot")
        return self._sink.compiled(
            program.function,
            trace_s=trace_s,
            lower_s=lower_s,
            compile_s=work.seconds or 0.0,
            persistent_cache=work.cache,
            unwritten=_unwritten(computation, work.seconds or 0.0) if work.cache == "miss" else "",
            signature=signature,
            program_text=None if program.function.is_internal else lambda: str(computation.stablehlo()),
        )

    def _report_unhashable(self, function: Function | None, ji: Any, args: Any, kwargs: Any) -> None:
        found = unhashable_static(ji, args, kwargs)
        if found is not None and function is not None and not function.is_internal:
            self._sink.refused(function, argument=found[0], type_name=found[1])


def _unwritten(computation: Any, compile_s: float) -> UnwrittenReason:
    """Return why the persistent cache does not get the program of a computation."""
    arguments = getattr(computation, "compile_args", None)
    callbacks = arguments.get("host_callbacks") if isinstance(arguments, dict) else None
    return compat.unwritten_reason(compile_s, has_host_callbacks=bool(callbacks))


class _Hook(Observer):
    """Observes one of JAX's functions on the way of a compile."""

    def __init__(self, hooks: MissHooks) -> None:
        self.hooks = hooks

    def failed(self, state: _Call, error: BaseException) -> None:
        self.hooks.phase_failed(state, error)


class _Infer(_Hook):
    def begun(self, *args: Any, **kwargs: Any) -> Any:
        fun, ji, positional, keywords, *_ = args
        return self.hooks.infer_begun(fun, ji, positional, keywords)

    def ended(self, state: _Call, result: Any) -> None:
        self.hooks.infer_ended(state, result)

    def failed(self, state: _Call, error: BaseException) -> None:
        self.hooks.infer_failed(state, error)


class _Lower(_Hook):
    def begun(self, *args: Any, **kwargs: Any) -> Any:
        closed_jaxpr, _, fun_name, shardings, _, layouts, *_ = args
        return self.hooks.lower_begun(closed_jaxpr, fun_name, shardings, layouts)

    def ended(self, state: _Call, result: Any) -> None:
        self.hooks.lower_ended(state, result)


class _PmapLower(_Lower):
    def begun(self, *args: Any, **kwargs: Any) -> Any:
        return self.hooks.pmap_lower_begun(args[0], args[9] if len(args) > 9 else kwargs.get("avals", ()))


class _Compile(_Hook):
    def begun(self, *args: Any, **kwargs: Any) -> Any:
        return self.hooks.compile_begun(args[0])

    def ended(self, state: _Call, result: Any) -> None:
        self.hooks.compile_ended(state, result)


def _pop_seconds(program: Program | None) -> float:
    """Return and reset the seconds that were spent on a program."""
    if program is None:
        return 0.0
    spent = (program.trace_s or 0.0) + (program.lower_s or 0.0)
    program.trace_s = program.lower_s = None
    return spent


def _ran_in(error: BaseException, code: types.CodeType | None) -> bool:
    """Whether the function itself was running: a rejected argument is not a failed compile."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is code:
            return True
        trace = trace.tb_next
    return False


def _is_called(frame: types.FrameType | None) -> bool:
    """Whether JAX compiles for a waiting call; pmap's path until 0.9 has no other way."""
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
