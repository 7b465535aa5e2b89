"""Events about compiles: compiles and their causes, pitfalls, storms, the steady state."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal

from jitwatch.model.events.base import Event
from jitwatch.model.function import Change, Function
from jitwatch.model.rows import HotLineRow, XlaPassRow
from jitwatch.model.signature import Signature
from jitwatch.model.taxonomy import HARMLESS_CAUSES, Cause, MissReason, Phase


def is_harmless(expected: str | None, causes: Collection[str]) -> bool:
    """Whether a recompile loses nothing.

    Args:
        expected: The reason given to `jitwatch.expected()`; None outside of it.
        causes: Causes of the recompile.
    """
    return expected is not None or (bool(causes) and HARMLESS_CAUSES.issuperset(causes))


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionWrapped(Event):
    """A function was passed to `jax.jit`. Counted, not logged.

    Attributes:
        mutable_defaults: Parameters whose default value is a list, a dict or another mutable object; empty for
            functions of libraries.
        call_site: `file:line` of the user's code that called `jax.jit`, if there are such parameters.
    """

    function: Function
    mutable_defaults: tuple[str, ...] = ()
    call_site: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled(Event):
    """A compile that succeeded.

    Attributes:
        function: The compiled function.
        call_site: `file:line` of the user's code that caused the compile.
        trace_s, lower_s, compile_s: Exclusive seconds by phase; None when the phase did not run
            (a new sharding compiles without a trace).
        persistent_cache: Whether XLA's result came from the persistent cache.
        persistent_cache_reason: After a miss: why the program was not written to the cache; if it was, why the cache
            did not have it, which needs an index (option `cache_index`).
        persistent_cache_explanation: The reason in words, with what changed since the earlier program.
        persistent_cache_written: Whether the program was written to the cache after a miss.
        cache_entries: Entries of the function's jit caches after the compile.
        expected: The reason given to `jitwatch.expected()`; None outside of it.
        thread: Name of the thread that compiled.
        caller: Name of the function that contains `call_site`.
        signature: What it was compiled for, if the hooks know it; the diagnosis removes it.
        nth: Number of this compile among those of the function, from 1.
        causes: Causes of the recompile.
        changes: What changed since the nearest earlier compile.
        changes_left_out: Number of further changes.
        pitfall: Name of the pitfall that the compile shows.
        advice: What to change.
        pitfall_subject: What the pitfall is about.
        pitfall_message: What happened so far.
        reason: The changes in words.
        explanation: Function, call site, changes, cost and advice in a few sentences.
        hlo: Name of the file with the lowered program, with the option `hlo_dir`.
        program: Fingerprint of the program in hex: equal in all processes that compile the same program.
        on_all_processes: Whether the program runs on devices of every process of the job, all of which must compile it.
        ahead_of_time: Whether `lower().compile()` compiled it instead of a call.
        constant_bytes: Bytes of the large arrays (1 MiB or more) that are constants of the program.
        trace_hot_lines: The lines in which a trace or lowering of more than a second spent its time.
        is_ignored: Whether the option `ignore` matches the function, which then has no storm, pitfall or violation.
    """

    kind: ClassVar[str] = "jit.compiled"
    required: ClassVar[tuple[str, ...]] = ("function", "compile_s")
    #: `kind` of the second and later compiles of a function.
    repeated_kind: ClassVar[str] = "jit.recompiled"
    hidden: ClassVar[frozenset[str]] = frozenset({"signature", "pitfall_message"})
    log_only: ClassVar[frozenset[str]] = frozenset({"thread", "caller", "changes_left_out"})
    optional: ClassVar[frozenset[str]] = frozenset(
        {
            "persistent_cache_reason",
            "persistent_cache_explanation",
            "persistent_cache_written",
            "caller",
            "nth",
            "causes",
            "changes",
            "changes_left_out",
            "pitfall",
            "pitfall_subject",
            "reason",
            "advice",
            "explanation",
            "hlo",
            "program",
            "on_all_processes",
            "ahead_of_time",
            "constant_bytes",
            "trace_hot_lines",
            "is_ignored",
        }
    )

    function: Function
    call_site: str | None = None
    trace_s: float | None
    lower_s: float | None
    compile_s: float
    persistent_cache: Literal["hit", "miss", "off"] = "off"
    persistent_cache_reason: MissReason | Literal[""] = ""
    persistent_cache_explanation: str = ""
    persistent_cache_written: bool = False
    expected: str | None = None
    cache_entries: int | None = None
    thread: str = ""
    caller: str | None = None
    signature: Signature | None = None
    nth: int | None = None
    causes: tuple[Cause, ...] = ()
    changes: tuple[Change, ...] = ()
    changes_left_out: int = 0
    pitfall: str | None = None
    pitfall_subject: str = ""
    pitfall_message: str = ""
    advice: str | None = None
    reason: str | None = None
    explanation: str | None = None
    hlo: str | None = None
    program: str = ""
    on_all_processes: bool = False
    ahead_of_time: bool = False
    constant_bytes: int = 0
    trace_hot_lines: tuple[HotLineRow, ...] = ()
    is_ignored: bool = False

    @property
    def total_s(self) -> float:
        """Seconds of all phases."""
        return (self.trace_s or 0.0) + (self.lower_s or 0.0) + self.compile_s

    @property
    def is_harmless(self) -> bool:
        """Whether the recompile loses nothing: expected, or the first use under a transform or on a device."""
        return is_harmless(self.expected, self.causes)

    @property
    def lost_s(self) -> float:
        """Lost seconds, provided that this is a recompile."""
        return 0.0 if self.is_harmless else self.total_s


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMissed(Event):
    """Why the persistent cache did not have a program, if this was found after the event of the compile.

    Attributes:
        function: The compiled function.
        call_site: `file:line` of the user's code that caused the compile.
        program: Fingerprint of the program in hex.
        reason: As `persistent_cache_reason` of `jit.compiled`.
        explanation: The reason in words, with what changed since the earlier program.
        compile_s: Seconds of its compile in XLA.
        is_counted: Whether the event of the compile already had the reason, without its details.
    """

    kind: ClassVar[str] = "jit.cache_missed"
    required: ClassVar[tuple[str, ...]] = ("function",)
    optional: ClassVar[frozenset[str]] = frozenset({"program", "is_counted"})

    function: Function
    call_site: str | None = None
    program: str = ""
    reason: MissReason = "unknown"
    explanation: str = ""
    compile_s: float = 0.0
    is_counted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CompilerSeen(Event):
    """Flags, versions and devices that all programs depend on. Emitted before the first compile of a user's function.

    Attributes:
        jaxlib: Version of jaxlib.
        platform, platform_version: Name and version of the backend: `gpu`, `cuda 12.8`.
        device_kind: Kind of the devices that it compiled for.
        devices: Number of devices of all processes.
        xla_flags: Flags of `XLA_FLAGS` and `LIBTPU_INIT_ARGS`, sorted, without those that have no effect on programs
            (`--xla_dump_to`).
        process_index, processes: Index of this process and number of processes, from jax.distributed.
    """

    kind: ClassVar[str] = "run.compiler"

    jaxlib: str
    platform: str
    platform_version: str
    device_kind: str
    devices: int
    xla_flags: tuple[str, ...] = ()
    process_index: int = 0
    processes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramsDiverged(Event):
    """This process and another one compiled different programs for the devices of all processes. Emitted once.

    Attributes:
        function: The function.
        call_site: `file:line` of the user's code in this process.
        nth: Number of the program among those of the function in this process, from 1.
        program: Fingerprint of the program of this process.
        other_process_index: Index of the other process.
        other_program: Fingerprint of the program of the other process.
        other_call_site: `file:line` of the user's code in the other process.
        message: What happened, in a sentence.
        advice: What to look for.
    """

    kind: ClassVar[str] = "programs.diverged"
    required: ClassVar[tuple[str, ...]] = ("function",)
    is_urgent: ClassVar[bool] = True

    function: Function
    call_site: str | None = None
    nth: int = 1
    program: str
    other_process_index: int
    other_program: str
    other_call_site: str | None = None
    message: str
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiling(Event):
    """A backend compile has run for ten seconds. Emitted once, while it runs, so that one that hangs is recorded.

    Attributes:
        function: The function that compiles.
        call_site: `file:line` of the user's code that caused the compile.
        program: Fingerprint of the program, in hexadecimal, if it is known.
        for_s: Seconds since the phase began.
        phase: The phase that runs.
    """

    kind: ClassVar[str] = "jit.compiling"
    is_urgent: ClassVar[bool] = True
    required: ClassVar[tuple[str, ...]] = ("function",)
    optional: ClassVar[frozenset[str]] = frozenset({"program"})

    function: Function
    call_site: str | None = None
    program: str = ""
    for_s: float
    phase: Phase = "compile"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileProfiled(Event):
    """The profile of a compile was read; with `profile_compiles`. Follows the event of the compile.

    Attributes:
        function: The compiled function.
        call_site: `file:line` of the user's code that caused the compile.
        profiled_s: Seconds of the compile that were profiled.
        autotuning_s: The part of these seconds that XLA spent on autotuning.
        xla_passes: XLA's phases and passes, the longest first, each without those nested in it.
        file: Path of the profile's file, if it is kept.
    """

    kind: ClassVar[str] = "jit.compile_profiled"
    required: ClassVar[tuple[str, ...]] = ("function",)
    log_only: ClassVar[frozenset[str]] = frozenset({"file"})
    optional: ClassVar[frozenset[str]] = frozenset({"file"})

    function: Function
    call_site: str | None = None
    profiled_s: float
    autotuning_s: float = 0.0
    xla_passes: tuple[XlaPassRow, ...] = ()
    file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileFailed(Event):
    """A trace, lowering or backend compile failed with an exception."""

    kind: ClassVar[str] = "jit.compile_failed"
    required: ClassVar[tuple[str, ...]] = ("function",)

    function: Function
    call_site: str | None = None
    phase: Phase
    error: str
    message: str
    spent_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRefused(Event):
    """JAX refused a call because a static argument is not hashable. Not logged: the user gets JAX's error.

    Attributes:
        argument: Name of the parameter.
        type: Name of the value's class.
    """

    function: Function
    call_site: str | None = None
    argument: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PitfallFound(Event):
    """A pitfall was found. Reported once for a function and a subject.

    Attributes:
        function: The function whose compile, call or donation shows it.
        call_site: `file:line` of the user's code.
        pitfall: Name of the pitfall, the value of the metric label.
        subject: What the pitfall is about: an argument, a captured variable or a call site; may be empty.
        message: What happened, in a sentence.
        advice: What to change.
        lost_s: Lost seconds of the function so far.
    """

    kind: ClassVar[str] = "jit.pitfall"
    required: ClassVar[tuple[str, ...]] = ("pitfall", "function")

    function: Function
    call_site: str | None = None
    pitfall: str
    subject: str = ""
    message: str
    advice: str
    lost_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StormStarted(Event):
    """A recompile storm of a function began.

    Attributes:
        recompiles: Number of recompiles that reached the threshold.
        within_s: Length of the window in which they occurred.
    """

    kind: ClassVar[str] = "jit.storm_started"
    required: ClassVar[tuple[str, ...]] = ("function",)

    function: Function
    recompiles: int
    within_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StormEnded(Event):
    """A recompile storm ended: the function has not recompiled for the length of the window.

    Attributes:
        recompiles: Number of recompiles, including those that reached the threshold.
        lasted_s: Time from the recompile that started the storm to the last one.
        lost_s: Seconds of the recompiles from the one that started the storm on.
    """

    kind: ClassVar[str] = "jit.storm_ended"
    required: ClassVar[tuple[str, ...]] = ("function",)

    function: Function
    recompiles: int
    lasted_s: float
    lost_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyViolated(Event):
    """A function compiled in the steady state.

    Attributes:
        call_site: `file:line` of the user's code that caused the compile.
        spent_s: Seconds that the compile took.
        action: The argument `on_recompile` of `jitwatch.steady()`.
        causes: Causes of the compile; empty for a first compile.
        reason: The changes in words.
        since: Unix time at which the steady state of the process began; None if it is that of a `with` block.
    """

    kind: ClassVar[str] = "jit.steady_violation"
    is_urgent: ClassVar[bool] = True
    required: ClassVar[tuple[str, ...]] = ("function",)

    function: Function
    call_site: str | None
    spent_s: float
    action: Literal["warn", "raise", "count"]
    causes: tuple[Cause, ...] = ()
    reason: str = ""
    since: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CachesCleared(Event):
    """The job cleared JAX's caches. Not logged; the recompiles that follow are."""

    call_site: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistentCacheSaved(Event):
    """JAX's estimate of what a persistent-cache hit saved; may be negative. Counted, not logged."""

    saved_s: float
