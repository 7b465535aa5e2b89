"""The facts that flow through the agent: frozen, slotted, JSON-able, free of JAX objects.

A probe makes an event, the store numbers and counts it, exporters read the numbered record. A fact cleans its texts
when it is made (`cleaning`): names, paths, keys, values and messages come from the job.
Durations are seconds of a monotonic clock (field names end in `_s`).
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from jitwatch.cleaning import cleaned, is_clean
from jitwatch.signature import Signature

#: Version of metric and event names (`build_info{schema}`, event field `schema`).
SCHEMA = 1

Phase = Literal["trace", "lower", "compile"]
#: Why a program that the persistent cache does not know is not written to it.
UnwrittenReason = Literal["host_callback", "short_compile", "small_entry", "other_process", "unknown"]
PHASES: tuple[Phase, ...] = ("trace", "lower", "compile")

#: Why a function was compiled again; the values of the metric label `cause`.
Cause = Literal[
    "shape",
    "dtype",
    "weak_type",
    "tree_structure",
    "static_arg",
    "sharding",
    "device",
    "committed",
    "layout",
    "new_function",
    "config",
    "transform",
    "cache_cleared",
    "aot",
    "unknown",
]
CAUSES: tuple[Cause, ...] = get_args(Cause)
#: Causes that say nothing against the function: it is compiled for another use, for the first time.
HARMLESS_CAUSES: frozenset[Cause] = frozenset({"transform", "device"})

#: The known mistakes, the values of the metric label `pitfall`.
PITFALLS = (
    "static_arg_churn",
    "jit_in_loop",
    "closure_capture",
    "unhashable_static",
    "identity_hashed_static",
    "mutable_default",
    "too_many_statics",
    "shape_churn",
    "dtype_flip",
    "weak_type",
    "sharding_flip",
    "tree_flip",
    "config_flip",
    "cache_thrash",
    "eager_churn",
    "use_after_donate",
    "double_donation",
    "unusable_donation",
    "missed_donation",
    "captured_constant",
    "unrolled_loop",
    "compile_during_steady",
)

#: How a donation can go wrong; the values of the metric label `kind`.
DonationKind = Literal["use_after_donate", "unusable", "double_donation"]
#: What is known of a donating call, or of an array that shares a buffer with what it donated; empty for nothing.
Circumstance = Literal["", "rebound", "failed", "pending", "device_put", "shard", "in_place"]
DONATION_KINDS: tuple[DonationKind, ...] = get_args(DonationKind)

#: Label of everything that JAX compiles for itself (`convert_element_type`, `jit(add)` …).
JAX_LABEL = "__jax__"
#: Label of the functions past the cap of named ones.
OTHER_LABEL = "__other__"
#: Label of a function of which nothing is known.
UNKNOWN_LABEL = "unknown"
#: Label of the process totals that stand in for series by function in summary detail.
ALL_LABEL = "__all__"


@dataclass(frozen=True, slots=True)
class Function:
    """Identity of a jitted function: one unwrapped code object of the user.

    Attributes:
        label: `module.qualname`, the value of the metric label `function`; `__jax__` for JAX's own.
        name: The bare name, for JAX's own the name of the operation (`convert_element_type`).
        location: `file:line` of its definition, or None when it has no source (C functions).
        is_library: Whether an installed library defines it.
    """

    label: str
    name: str
    location: str | None = None
    is_library: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        _clean(self, "label", "name", "location")

    @property
    def is_internal(self) -> bool:
        """Whether JAX made it for its own use."""
        return self.label == JAX_LABEL


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between a compile and the nearest earlier one of the same function.

    Attributes:
        path: What changed, as `batch['tokens']`, `config.hidden_dim` or `jax_enable_x64`.
        kind: Which cause that is.
        before, after: Short text, made without running code of the user; never contents of arrays.
    """

    path: str
    kind: Cause
    before: str
    after: str

    def __post_init__(self) -> None:
        _clean(self, "path", "before", "after")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of every event. `kind` is the field `event` of the log; an empty one is never logged."""

    kind: ClassVar[str] = ""
    #: Written to the event log before the call that caused it goes on.
    is_urgent: ClassVar[bool] = False
    #: Fields that stay inside of the agent, and fields that are only shown when they hold something.
    hidden: ClassVar[frozenset[str]] = frozenset()
    optional: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        _clean(self, *self.__slots__)

    def payload(self) -> dict[str, Any]:
        """The event's own fields, in order, ready for JSON; a function becomes three fields."""
        shown: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name in self.hidden or (one.name in self.optional and not value):
                continue
            if isinstance(value, Function):
                shown |= {"function": value.label, "name": value.name, "location": value.location}
            elif isinstance(value, tuple):
                shown[one.name] = [asdict(one) if isinstance(one, Change) else one for one in value]
            else:
                shown[one.name] = value
        return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionWrapped(Event):
    """A function was passed to `jax.jit`; counted, not logged.

    Attributes:
        mutable_defaults: Its parameters whose default value is a list, a dict or another mutable object; of a
            library's function, none are told.
        call_site: `file:line` of the user's code that jitted it, where there are such parameters.
    """

    function: Function
    mutable_defaults: tuple[str, ...] = ()
    call_site: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled(Event):
    """A compile that succeeded.

    Attributes:
        function: What was compiled.
        call_site: `file:line` of the user's code that caused it.
        trace_s, lower_s, compile_s: Exclusive seconds by phase; None when the phase did not run
            (a new sharding compiles without a trace).
        persistent_cache: Whether XLA's result came from the persistent cache.
        persistent_cache_reason: Why a program that the cache did not know was not written to it; empty where it was.
        cache_entries: Entries of the function's jit caches when the compile ended, its own among them.
        expected: The reason given to `jitwatch.expected()` around it, or None.
        thread: Name of the thread that compiled.
        caller: Name of the function that `call_site` is in.
        signature: What it was compiled for, if the hooks know; the diagnosis takes it out.
        nth: Which compile of the function this is, from 1, as the diagnosis counts them.
        causes, changes: Why it was compiled again, and what changed against the nearest earlier compile.
        changes_left_out: How many more changes there were.
        pitfall, advice: A known mistake behind it, and what to change.
        pitfall_subject, pitfall_message: What the mistake is about, and what happened so far.
        reason: What changed, in words.
        explanation: All of that in a few sentences.
        hlo: Name of the file with the program, if those are written.
        constant_bytes: Bytes of the large arrays (a mebibyte or more) that are baked into the program.
        is_ignored: Whether the function is one that never alarms.
    """

    kind: ClassVar[str] = "jit.compiled"
    #: `kind` of the second and later compiles of a function.
    repeated_kind: ClassVar[str] = "jit.recompiled"
    hidden: ClassVar[frozenset[str]] = frozenset({"signature", "nth", "pitfall_message"})
    optional: ClassVar[frozenset[str]] = frozenset(
        {
            "persistent_cache_reason",
            "caller",
            "causes",
            "changes",
            "changes_left_out",
            "pitfall",
            "pitfall_subject",
            "reason",
            "advice",
            "explanation",
            "hlo",
            "constant_bytes",
            "is_ignored",
        }
    )

    function: Function
    call_site: str | None = None
    trace_s: float | None
    lower_s: float | None
    compile_s: float
    persistent_cache: Literal["hit", "miss", "off"] = "off"
    persistent_cache_reason: UnwrittenReason | Literal[""] = ""
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
    constant_bytes: int = 0
    is_ignored: bool = False

    @property
    def total_s(self) -> float:
        """Seconds of all phases."""
        return (self.trace_s or 0.0) + (self.lower_s or 0.0) + self.compile_s

    @property
    def is_planned(self) -> bool:
        """Whether it was announced, or is the first for another use: a recompile that is no loss."""
        return self.expected is not None or (bool(self.causes) and HARMLESS_CAUSES.issuperset(self.causes))

    @property
    def lost_s(self) -> float:
        """Seconds that a recompile cost and the first program would have saved."""
        return 0.0 if self.is_planned else self.total_s


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileFailed(Event):
    """A trace, lowering or backend compile of a call ended in an exception."""

    kind: ClassVar[str] = "jit.compile_failed"

    function: Function
    call_site: str | None = None
    phase: Phase
    error: str
    message: str
    spent_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRefused(Event):
    """JAX refused a call because a static argument has no hash; its error is the user's, so it is not logged.

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
    """A known mistake, told once for a function and a subject.

    Attributes:
        function: Whose compile, call or donation showed it.
        call_site: `file:line` of the user's code.
        pitfall: Which one, the value of the metric label.
        subject: What it is about: an argument, a variable, a line; or empty.
        message: What happened, in a sentence.
        advice: What to change.
        lost_s: Seconds that it has cost so far.
    """

    kind: ClassVar[str] = "jit.pitfall"

    function: Function
    call_site: str | None = None
    pitfall: str
    subject: str = ""
    message: str
    advice: str
    lost_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StormStarted(Event):
    """A function recompiles again and again.

    Attributes:
        recompiles: How many there were when the line was crossed.
        within_s: In how many seconds, at most.
    """

    kind: ClassVar[str] = "jit.storm_started"

    function: Function
    recompiles: int
    within_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StormEnded(Event):
    """A storm is over: the function has not recompiled for a window.

    Attributes:
        recompiles: How many there were, from those that started it to the last.
        lasted_s: From the recompile that started it to the last.
        lost_s: Seconds of the recompiles from the one that started it on.
    """

    kind: ClassVar[str] = "jit.storm_ended"

    function: Function
    recompiles: int
    lasted_s: float
    lost_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyViolated(Event):
    """A function compiled although the job had said that warm-up is over.

    Attributes:
        call_site: `file:line` of the user's code that caused it.
        spent_s: Seconds that the compile took.
        action: What the job wanted done about it.
        causes: Why it was compiled.
        reason: The same in words.
        since: Unix time since which the process is steady; None where only a block of this thread is.
    """

    kind: ClassVar[str] = "jit.steady_violation"
    is_urgent: ClassVar[bool] = True

    function: Function
    call_site: str | None
    spent_s: float
    action: Literal["warn", "raise", "count"]
    causes: tuple[Cause, ...] = ()
    reason: str = ""
    since: float | None = None

    @property
    def sentence(self) -> str:
        """What happened and what to do, for a log or an error."""
        where = f" at {self.call_site}" if self.call_site else ""
        why = f" ({self.reason})" if self.reason else ""
        return (
            f"{self.function.label} compiled{where} although the job is steady{why}; {self.spent_s:.2f} s lost. If "
            "that was meant, put it into `with jitwatch.expected(...)` or pass "
            f"allow=({self.function.label!r},) to steady()"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DonorMade(Event):
    """A function that donates was made or first called; its calls are counted. Not logged."""

    function: Function


@dataclass(frozen=True, slots=True, kw_only=True)
class DonationViolation(Event):
    """A donation went wrong.

    Attributes:
        violation: What it is; the field `kind` of the log.
        function: Whose call it was; where no jitted function of the user was called, the donor.
        call_site: `file:line` of the user's code.
        leaf: Path of the array in the call.
        shape, dtype, bytes: The array; for several, the first and the size of all.
        donated_by: The donor of a deleted array, `unknown` where nobody saw it.
        donated_at: `file:line` of that call.
        donated_leaf: Path of the array in it.
        calls_ago: 1 for the last call of that function, 2 for the one before.
        other_leaf: Of a double donation: path of the other argument with the same buffer.
        donor: The donor with its bare name. Not logged, like what follows.
        circumstance: What is known of the donating call.
        argument: Source text of the argument in that call, or its parameter's name.
        other_is_donated: Whether the call donates `other_leaf` as well.
        more: How many more pairs of arguments of the call share a buffer.
    """

    kind: ClassVar[str] = "donation.violation"
    is_urgent: ClassVar[bool] = True
    hidden: ClassVar[frozenset[str]] = frozenset({"donor", "circumstance", "argument", "other_is_donated", "more"})
    optional: ClassVar[frozenset[str]] = frozenset(
        {"donated_by", "donated_at", "donated_leaf", "calls_ago", "other_leaf"}
    )

    violation: DonationKind
    function: Function
    call_site: str | None = None
    leaf: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    donated_by: str | None = None
    donated_at: str | None = None
    donated_leaf: str | None = None
    calls_ago: int | None = None
    other_leaf: str | None = None
    donor: Function | None = None
    circumstance: Circumstance = ""
    argument: str = ""
    other_is_donated: bool = False
    more: int = 0

    def payload(self) -> dict[str, Any]:
        """The fields, with `kind` as the contract has it."""
        shown = Event.payload(self)
        return {"kind": shown.pop("violation"), **shown}

    @property
    def summary(self) -> str:
        """What happened, for a double donation."""
        if not self.other_leaf:
            return f"one buffer was passed twice to a call of {self.function.name} that donates it"
        more = "" if not self.more else f"; {self.more} more pair{'s'[: self.more > 1]} of its arguments as well"
        call = f"in one call of {self.function.name}"
        if self.other_is_donated:
            return f"{call} both {self.leaf} and {self.other_leaf} are donated, which share a buffer{more}"
        return f"{call} {self.leaf} is donated and {self.other_leaf} has the same buffer{more}"

    @property
    def advice(self) -> str:
        """What to change. It never says to assign a result to an argument that it may not be the successor of."""
        if self.violation == "double_donation":
            copied = self.other_leaf or "one of them"
            return f"copy {copied} before the call (jnp.copy), or do not donate it"
        if self.donor is None:
            return (
                "which call donated its buffer is not known; use the result of that call, or keep a copy (jnp.copy) "
                "from before it"
            )
        argument = self.argument or "the argument"
        is_plain = argument.isidentifier() and argument != "args"
        copied = f"jnp.copy({argument})" if argument == self.donated_leaf else f"jax.tree.map(jnp.copy, {argument})"
        kept = copied if is_plain else "a copy"
        match self.circumstance:
            case "failed":
                return (
                    f"that call failed after it had donated {argument}, so that no value of it is left: keep {kept} "
                    "from before the call, or restore a checkpoint"
                )
            case "pending":
                return (
                    f"the result of that call was not assigned yet (a signal handler or a callback ran first): use it "
                    f"after the assignment, or keep {kept} from before the call"
                )
            case "device_put":
                return (
                    "what was used is another array over the same buffer: jax.device_put made no copy, since the array "
                    "was on that device already; use jnp.copy"
                )
            case "shard":
                return (
                    f"what was used shares its shards with {argument}: copy them to the host (np.asarray) before that "
                    "call, or use jnp.copy"
                )
            case "in_place":
                return f"{argument} is updated in place by that call: read its arrays again, or copy them before"
            case "rebound":
                return (
                    f"that line assigns its result to {argument}, so that what was used is another reference to the "
                    f"old value: use {argument}, or keep {kept} from before the call"
                )
        return (
            f"if the result of that call is the next value of {argument}, assign it to {argument}; "
            f"if not, do not donate {argument}, or keep {kept} from before the call"
        )

    @property
    def note(self) -> str:
        """What is added to the user's error."""
        if self.violation == "double_donation":
            return f"donated and passed again: {self.summary}; {self.advice}"
        if self.donor is None:
            return f"donated before: {self.advice}"
        where = f" at {_basename(self.donated_at)}" if self.donated_at else ""
        argument = self.argument or argument_of(self.donated_leaf or "")
        return f"donated to {self.donor.name}({argument}){where}, leaf {self.donated_leaf}; {self.advice}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DonationMissed(Event):
    """A function could work in the memory of an argument that its caller drops; not logged, its pitfall is.

    Attributes:
        call_site: `file:line` of the call.
        leaf: Path of the largest argument.
        bytes: What a call would save.
    """

    function: Function
    call_site: str | None
    leaf: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CachesCleared(Event):
    """The job emptied JAX's caches; not logged, the recompiles that follow are."""

    call_site: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PersistentCacheSaved(Event):
    """JAX's estimate of what a persistent-cache hit saved; may be negative. Counted, not logged."""

    saved_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped(Event):
    """The training loop's heartbeat; counted, not logged."""

    steps: int
    duration_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed(Event):
    """The agent watches this process."""

    kind: ClassVar[str] = "agent.installed"

    version: str
    jax: str | None
    jaxlib: str | None
    python: str
    pid: int
    url: str | None
    probes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Uninstalled(Event):
    """The agent put everything back."""

    kind: ClassVar[str] = "agent.uninstalled"
    is_urgent: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFailed(Event):
    """A probe, or one hook of it, does not work here; the rest goes on."""

    kind: ClassVar[str] = "agent.probe_failed"

    probe: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMoved(Event):
    """The event log goes on in another file than the one that was named.

    Attributes:
        wanted: The file that was named.
        path: The file of this process alone.
        because: Why: another process writes to it, or somebody else has put it there.
    """

    kind: ClassVar[str] = "agent.log_moved"

    wanted: str
    path: str
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary(Event):
    """What the run's compiles cost, written when the agent stops.

    Attributes:
        wall_s: Seconds since the agent was installed.
        busy_s: The part of it in which at least one thread compiled.
        lost_s, lost_ratio, lost_steps: What recompiles cost: seconds, their share of `wall_s`, and how many
            training steps take as long (None without steps).
        top: The functions that cost most, each with its compiles, seconds, losses and causes.
        pitfalls: The known mistakes that were found, each with its line, cost and advice.
        pitfalls_left_out: How many more there were.
        persistent_cache: What the persistent cache answered and what was not written to it, if it was asked.
    """

    kind: ClassVar[str] = "run.summary"
    is_urgent: ClassVar[bool] = True
    optional: ClassVar[frozenset[str]] = frozenset({"persistent_cache"})

    wall_s: float
    compiles: int
    recompiles: int
    failures: int
    compile_s: float
    busy_s: float
    jax_compiles: int
    lost_s: float = 0.0
    lost_ratio: float = 0.0
    lost_steps: float | None = None
    top: tuple[dict[str, Any], ...] = ()
    pitfalls: tuple[dict[str, Any], ...] = ()
    pitfalls_left_out: int = 0
    persistent_cache: dict[str, Any] = field(default_factory=dict)


def argument_of(path: str) -> str:
    """The argument that a path begins with."""
    return re.split(r"[.\[]", path, maxsplit=1)[0] or path


def _clean(fact: object, *names: str) -> None:
    """Clean these fields of a fact that is being made; most are clean, so that nothing is set."""
    for name in names:
        value = getattr(fact, name)
        if not is_clean(value):
            object.__setattr__(fact, name, cleaned(value))


def _basename(place: str) -> str:
    return re.split(r"[/\\]", place)[-1]
