"""The miss hooks: the function that each trace, lowering and backend compile belongs to.

Three private functions are instrumented, all of which JAX calls only when a call missed its C++ cache (or for
`lower`/`trace`/`eval_shape`): the one that traces, the one that lowers, and the one that compiles. A cached call runs
none of them. Functions that the C++ fast path never serves (`debug.print`, `io_callback`, under eager `grad`) pay 1 to
2 µs per call for the first and third.

The trace hook knows the Python function and gets a jaxpr; the lowering hook gets the jaxpr and returns a computation;
the compile hook gets the computation. Ahead-of-time compiles take the same steps separately, so each step is kept,
weakly, by the object that it returned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.compile.cache_keys import CacheKeyHooks
from jitwatch.jaxhooks.compile.hot_lines import Samples
from jitwatch.jaxhooks.compile.modules import ModuleHooks
from jitwatch.jaxhooks.compile.monitoring import CompileSink
from jitwatch.jaxhooks.compile.phases import PhaseClock, Program, Work
from jitwatch.jaxhooks.compile.profiling import CompileProfiler, Profile
from jitwatch.jaxhooks.compile.refusals import unhashable_static
from jitwatch.jaxhooks.identity.call_site import call_site, frame_of_jax
from jitwatch.jaxhooks.identity.identities import Identities, function_of_program
from jitwatch.jaxhooks.identity.unwrapping import code_of, unwrap
from jitwatch.jaxhooks.identity.wrappers import Wrappers
from jitwatch.jaxhooks.memory.programs import Executables
from jitwatch.jaxhooks.observer import Observer, Refused
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.jaxhooks.stack import entries
from jitwatch.jaxhooks.values.contents import Contents, contents_of
from jitwatch.jaxhooks.values.signatures import SignatureReader, Traced
from jitwatch.jaxhooks.weak import WeakIdMap
from jitwatch.model.copies import replaced
from jitwatch.model.function import Function
from jitwatch.model.signature import Signature

#: JAX's frames between a call (or `lower`) and the trace hook; `eval_shape` has none of them.
_COMPILING_CALLERS = frozenset({"cache_miss", "_python_pjit_helper", "jit_lower", "lower"})
#: JAX's functions for a direct call, the last ones on pmap's path until 0.9; a compile without them is ahead of time.
_CALLS = frozenset({"_pjit_call_impl_python", "cache_miss", "xla_pmap_impl_lazy", "_xla_pmap_impl_lazy"})
_MAX_FRAMES = 6
#: Programs lowered without any traced call, after which the trace hook is reported as not working.
_MAX_UNCALLED = 3
_MAX_NUMBERS = 10_000
#: What counts as a failed compile; an exit is the job's own wish.
_FAILURES = (Exception, KeyboardInterrupt)


@dataclass(slots=True, eq=False)
class _Call:
    """An observed call of one of JAX's functions.

    Attributes:
        work: What JAX's phases are credited to.
        depth: Number of open phases when the call began.
        trace_s: Seconds of the preceding trace, if there was one.
        trace_samples: Samples of that trace.
        sign: Returns the signature that a traced program is lowered for.
        subject: Of a trace, function, JAX's options, arguments and keyword arguments; of a compile, the computation.
        profile: The profile of this compile, if it is profiled.
        has_ended: Whether the function has returned; what it then raises is what the job requested (`RecompileError`).
    """

    work: Work
    depth: int
    program: Program | None = None
    trace_s: float | None = None
    trace_samples: Samples | None = None
    sign: Callable[[Any], Signature] | None = None
    subject: Any = None
    profile: Profile | None = None
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
        profiler: CompileProfiler,
    ) -> None:
        self._sink = sink
        self._profiler = profiler
        self._executables = executables
        self._wrappers = wrappers
        self._phases = phases
        self._identities = identities
        self._programs: WeakIdMap[Program] = WeakIdMap()
        self._computations: WeakIdMap[Program] = WeakIdMap()
        self._signatures = SignatureReader(identities)
        self.modules = ModuleHooks(phases, sink)
        self._cache_keys = CacheKeyHooks(phases, sink)
        #: By label, the number of the function object that was called last.
        self._numbers: dict[str, int] = {}
        self._has_called = False
        self._uncalled = 0

    def install(self, patcher: Patcher) -> None:
        """Instrument JAX's functions; `compat.missing_hooks()` must be empty."""
        # User code runs below this function, at each level of nested jitted functions: inlined, to add no frames.
        infer = Observer(self.infer_begun, self.infer_ended, self.infer_failed)
        patcher.instrument(compat.infer_hook().get(), infer, inline=True)
        self.modules.install(patcher)
        self._cache_keys.install(patcher)
        compiles = Observer(self.compile_begun, self.compile_ended, self.phase_failed)
        patcher.instrument(compat.LOWER.get(), Observer(self.lower_begun, self.lower_ended, self.phase_failed))
        patcher.instrument(compat.COMPILE.get(), compiles)
        if compat.has_pmap_path():
            lowers = Observer(self.pmap_lower_begun, self.lower_ended, self.phase_failed)
            patcher.instrument(compat.PMAP_LOWER.get(), lowers)
            patcher.instrument(compat.PMAP_COMPILE.get(), compiles)

    def paths_of(self, closed_jaxpr: Any) -> tuple[str, ...]:
        """Return the user's names for the leaves of a program, or nothing if its trace was not seen."""
        program = self._programs.get(closed_jaxpr)
        return program.traced.signature.paths if program is not None and program.traced is not None else ()

    # Called around JAX's functions

    def infer_begun(self, fun: Any, ji: Any, args: Any, kwargs: Any, *_: Any, **__: Any) -> _Call | None:
        """Handle that JAX looks for the program of a call; it traces the function if there is none."""
        phases = self._phases
        if phases.thread.work:
            # Inside another trace every jnp operation passes here; its time belongs to that trace.
            return None
        self._has_called = True
        work = Work("trace", self._function_of(fun, ji, args))
        return self._entered(_Call(work, len(phases.thread.open), subject=(fun, ji, args, kwargs)))

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
            fun, ji, args, kwargs = call.subject
            self._phases.thread.last = (getattr(fun, "__name__", ""), function)
            if not function.is_internal:
                self._number(function.label, fun)
            read = partial(self._signatures.traced, fun, ji, args, kwargs, result[0])
            self._remember_program(result[0].params["jaxpr"], ji, call.work, function, read)

    def infer_failed(self, call: _Call, error: BaseException) -> None:
        """Handle that the function, or JAX before it, raised an exception."""
        fun, ji, args, kwargs = call.subject
        is_compile = False
        try:
            code = code_of(unwrap(fun))
            # A rejected argument is not a failed compile: the function itself was not running.
            is_compile = any(one.tb_frame.f_code is code for one in entries(error.__traceback__)) and _has_caller(
                _COMPILING_CALLERS
            )
        finally:
            if is_compile:
                self.phase_failed(call, error)
            else:
                self._phases.leave(call.work, call.depth)
        function = call.work.function
        if isinstance(error, (TypeError, ValueError)) and function is not None and not function.is_internal:
            found = unhashable_static(ji, args, kwargs)
            if found is not None:
                self._sink.refused(function, argument=found[0], type_name=found[1])

    def lower_begun(
        self, closed_jaxpr: Any, _: Any, fun_name: Any, shardings: Any, __: Any, layouts: Any, *___: Any, **____: Any
    ) -> _Call:
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
        folders = self._identities.jax_folders
        contents = Contents() if program.function.is_internal else contents_of(closed_jaxpr, folders)
        return self._lower(program, lambda traced: self._signatures.lowered(traced, shardings, layouts, contents))

    def pmap_lower_begun(self, fun: Any, *args: Any, **kwargs: Any) -> _Call:
        """Handle the same on pmap's separate path."""
        avals = args[8] if len(args) > 8 else kwargs.get("avals", ())
        function = self._identities.of(fun) or function_of_program(getattr(fun, "__name__", ""))
        traced = self._signatures.abstract(avals, fun)
        program = Program(function, trace_s=self._phases.pop_unowned("trace"), traced=traced)
        return self._lower(program, lambda traced: self._signatures.lowered(traced, (), None, Contents()))

    def _lower(self, program: Program, sign: Callable[[Any], Signature]) -> _Call:
        trace_s, program.trace_s = program.trace_s, None
        work = Work("lower", program.function)
        depth = len(self._phases.thread.open)
        return self._entered(_Call(work, depth, program, trace_s, program.pop_samples(), sign))

    def lower_ended(self, call: _Call, computation: Any) -> None:
        """Handle that JAX has lowered the program."""
        self._phases.leave(call.work, call.depth)
        program, sign = call.program, call.sign
        assert program is not None
        assert sign is not None
        lowered = Program(program.function, trace_s=call.trace_s, lower_s=call.work.seconds)
        own, before = call.work.samples, call.trace_samples
        lowered.samples = before.joined(own) if before is not None else own
        self._computations.set(computation, lowered)
        if program.traced is not None:
            lowered.signature = sign(program.traced)

    def compile_begun(self, computation: Any, *_: Any, **__: Any) -> _Call:
        """Handle that JAX compiles a computation, or returns the executable that it has."""
        program = self._computations.get(computation) or Program(function_of_program(getattr(computation, "_name", "")))
        work, thread, profiler = Work("compile", program.function), self._phases.thread, self._profiler
        if program.signature is not None:
            work.constant_bytes = sum(one.bytes for one in program.signature.constants)
        work.signature, work.before_s = program.signature, (program.trace_s or 0.0) + (program.lower_s or 0.0)
        # Not inside a trace, nor if there is an executable, which JAX then returns.
        is_profiled = profiler.is_wanted and not program.function.is_internal and not thread.work and not thread.open
        call = self._entered(_Call(work, len(thread.open), program, subject=computation))
        if is_profiled and getattr(computation, "_executable", None) is None:
            try:
                call.profile = profiler.begin(program.function)
            except BaseException:
                self._phases.leave(work, call.depth)
                raise
        return call

    def compile_ended(self, call: _Call, executable: Any) -> None:
        """Handle that there is an executable. Raises `Refused` if the job forbids a compile here."""
        work, program = call.work, call.program
        self._phases.leave(work, call.depth)
        profile, profiler = call.profile, self._profiler
        if profile is not None:
            # The session of a program from the persistent cache shows no pass.
            (profiler.drop if work.cache == "hit" or work.seconds is None else profiler.end)(profile)
        call.has_ended = True
        if work.seconds is None or program is None:
            return
        if profile is None and profiler.is_wanted:
            profiler.compiled_elsewhere(work.seconds)
        self._executables.add(program.function, executable, work.seconds)
        refusal = self._report(call.subject, program, work)
        if profile is not None:
            profiler.hand_over(profile, call_site(self._identities.jax_folders)[0])
        # Inside a trace an error would leave JAX in an inconsistent state; there it is only counted.
        if refusal is not None and not self._phases.thread.work:
            raise Refused(refusal)

    def phase_failed(self, call: _Call, error: BaseException) -> None:
        """Handle that a phase raised an exception."""
        work, program = call.work, call.program
        self._phases.leave(work, call.depth)
        if call.profile is not None:
            self._profiler.drop(call.profile)
        # An enclosing hook sees the same exception, so only the outermost one reports it. Interrupts are reported too:
        # they end long compiles.
        is_reported = isinstance(error, _FAILURES) and not call.has_ended and not self._phases.thread.work
        if is_reported and work.function is not None:
            before: tuple[float | None, ...] = (call.trace_s,)
            if work.phase == "compile":
                before = program.pop_seconds() if program is not None else ()
            spent_s = sum(one or 0.0 for one in (*before, work.seconds))
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
            program = Program(function, trace_s=work.seconds, traced=traced, samples=work.samples)
            self._programs.set(jaxpr, program)
            self._wrappers.remember_source(ji.fun_sourceinfo, function)
            return
        if work.seconds is not None:
            known.trace_s, known.samples = work.seconds, work.samples
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
        found = self._wrappers.by_source(compat.source_of(jaxpr))
        last = self._phases.thread.last
        if found is None and last is not None and last[0] == name:
            found = last[1]
        return found if found is not None else function_of_program(name)

    def _report(self, computation: Any, program: Program, work: Work) -> BaseException | None:
        """Report a compile; return what the job wants to be raised instead of running the program."""
        trace_s, lower_s = program.pop_seconds()
        samples = program.pop_samples()
        signature = program.signature
        if signature is not None and signature.statics:
            self._wrappers.remember_statics(program.function, signature.statics)
        if signature is not None and signature.origin == "call" and not _has_caller(_CALLS):
            signature = replaced(signature, origin="aot")
        arguments = getattr(computation, "compile_args", None)
        return self._sink.compiled(
            program.function,
            (trace_s, lower_s, work.seconds or 0.0),
            work.cache,
            signature,
            has_host_callbacks=bool(arguments.get("host_callbacks") if isinstance(arguments, dict) else None),
            program_text=lambda: _text_of(computation.stablehlo()),
            hot_lines=samples.rows() if samples is not None else (),
            module=work.module,
        )


def _text_of(module: Any) -> str:
    """The text of a lowered program with the source lines of its operations."""
    try:
        return str(module.operation.get_asm(enable_debug_info=True))
    except (AttributeError, TypeError):  # another kind of module
        return str(module)


def watch_clearing(patcher: Patcher, on_cleared: Callable[[], None]) -> None:
    """Call `on_cleared` after the job has cleared JAX's caches, or one of them, in the thread that does."""
    for hook in (compat.CLEAR_ALL, compat.CLEAR_ONE):
        patcher.observe(hook, Observer(lambda *_, **__: True, lambda *_: on_cleared()))


def _has_caller(names: frozenset[str]) -> bool:
    """Whether one of these functions of JAX is near the observed one in the stack."""
    frame = frame_of_jax()
    for _ in range(_MAX_FRAMES):
        if frame is None:
            return False
        if frame.f_code.co_name in names:
            return True
        frame = frame.f_back
    return False
