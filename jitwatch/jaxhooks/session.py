"""One agent's hold on this process's JAX: installs hooks on demand and puts everything back."""

from __future__ import annotations

import logging
import time
import types
from collections.abc import Callable
from typing import Any, Protocol

from jitwatch.errors import UnsupportedJaxError
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.compile.cache_clearing import watch_clearing
from jitwatch.jaxhooks.compile.misses import MissHooks, Sink
from jitwatch.jaxhooks.compile.monitoring import Listeners
from jitwatch.jaxhooks.compile.phases import PhaseClock
from jitwatch.jaxhooks.compile.refusals import refusal_of
from jitwatch.jaxhooks.donation.calls import caches_cleared
from jitwatch.jaxhooks.donation.facts import DonationSink
from jitwatch.jaxhooks.donation.hooks import DonationHooks
from jitwatch.jaxhooks.exceptions import watch_raises
from jitwatch.jaxhooks.identity.call_site import call_site, site_of_error
from jitwatch.jaxhooks.identity.identities import Identities, named
from jitwatch.jaxhooks.identity.wrappers import Wrappers
from jitwatch.jaxhooks.memory.executables import Executables
from jitwatch.jaxhooks.memory.oom import OnOutOfMemory, OutOfMemoryWatch
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import Phase

logger = logging.getLogger("jitwatch")


class CompileSink(Sink, Protocol):
    """The compile probe, as the session sees it."""

    def saved(self, seconds: float) -> None:
        """The persistent cache saved so many seconds, by JAX's estimate."""

    def cleared(self) -> None:
        """The job emptied JAX's caches, those of one function or all."""


class JaxSession:
    """Everything that was changed in JAX, and the state that the hooks share.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.phases = PhaseClock(clock)
        self.identities = Identities()
        self.wrappers = Wrappers(identities=self.identities, on_wrapped=self._wrapped, on_seen=self._seen)
        self.executables = Executables()
        self._patcher = Patcher()
        self._on_wrapped: Callable[[Function, tuple[str, ...]], None] | None = None
        self._on_seen: Callable[[Function], None] | None = None
        self._sink: CompileSink | None = None
        self._misses: MissHooks | None = None
        self._listeners: Listeners | None = None
        self._out_of_memory: OutOfMemoryWatch | None = None

    def attach(self) -> None:
        """JAX is there now: learn where its files are."""
        self.identities.learn_jax_folders()

    def watch_compiles(self, sink: CompileSink) -> None:
        """Report compiles to `sink`.

        Raises:
            UnsupportedJaxError: jax.monitoring cannot be listened to, or a private hook is missing;
                in the second case compiles are still counted, by the names that JAX reports.
        """
        self._sink = sink
        self._listeners = Listeners(self)
        try:
            self._listeners.install(self._patcher)
        except (AttributeError, KeyError) as error:
            self._listeners = None
            raise UnsupportedJaxError(f"jax.monitoring cannot be listened to: {error}") from error
        missing = compat.missing_hooks()
        if missing:
            raise UnsupportedJaxError("; ".join(missing.values()) + "; compiles are counted by JAX's names only")
        newer = compat.newer_than_tested(compat.version_of("jax"))
        if newer is not None:
            logger.info("jitwatch: %s", newer)
        self._misses = MissHooks(
            sink=sink,
            phases=self.phases,
            identities=self.identities,
            wrappers=self.wrappers,
            executables=self.executables,
        )
        self._misses.install(self._patcher)

        def cleared() -> None:
            caches_cleared()
            sink.cleared()

        watch_clearing(self._patcher, cleared)
        watch_raises(self._patcher, (ValueError,), self._raised)

    def watch_wrappers(
        self, on_wrapped: Callable[[Function, tuple[str, ...]], None], on_seen: Callable[[Function], None]
    ) -> None:
        """Report every function that is passed to `jax.jit` from now on, and older ones when they are called.

        Raises:
            UnsupportedJaxError: The private hook is missing.
        """
        self._on_wrapped, self._on_seen = on_wrapped, on_seen
        self.wrappers.install(self._patcher)

    def watch_memory(self, on_error: OnOutOfMemory) -> None:
        """Report errors that say that memory ran out, before they go on.

        Raises:
            UnsupportedJaxError: JAX keeps its backends elsewhere, so that asking for devices could make one.
        """
        reasons = [compat.BACKENDS.missing(), compat.DEFAULT_BACKEND.missing()]
        if any(reasons):
            raise UnsupportedJaxError("; ".join(filter(None, reasons)))
        folders = self.identities.jax_folders
        self._out_of_memory = OutOfMemoryWatch(on_error, site_of=lambda trace: site_of_error(trace, folders))
        self._out_of_memory.install(self._patcher)

    def function_named(self, program: str) -> str | None:
        """Label of the function that JAX's `jit(name)` means, if it is the last one that this thread called."""
        last = self.phases.thread.last
        return last[1].label if last is not None and program in (f"jit({last[0]})", last[0]) else None

    def call_failed(self, error: BaseException) -> None:
        """A call that Python of ours encloses ended in `error`, which goes on unchanged."""
        if self._out_of_memory is not None:
            self._out_of_memory.look(error)

    def watch_donations(self, sink: DonationSink, *, marks: bool) -> DonationHooks:
        """Hand out watched functions for those that donate, and report misuse to `sink`.

        Args:
            sink: Told of donors and misuse.
            marks: Whether dead arrays may be marked.

        Raises:
            UnsupportedJaxError: A private hook is missing.
        """
        hooks = DonationHooks(
            self.identities,
            sink,
            marks=marks,
            by_source=self.wrappers.by_source,
            lowering=self._lowering,
            paths_of=self._paths_of,
            on_failed=self.call_failed,
        )
        self.wrappers.install(self._patcher)
        hooks.install(self._patcher)
        self.wrappers.hand_out = hooks.created
        return hooks

    def take_absent(self) -> list[str]:
        """What the probe that has just started does not see, and why: names that this JAX does not have."""
        return self._patcher.take_absent()

    def repair_listeners(self) -> bool:
        """Register listeners again that somebody cleared; False if that was necessary."""
        if self._listeners is None or self._listeners.is_intact():
            return True
        self._listeners.repair()
        return False

    def forget_locks(self) -> None:
        """In a forked child: no other thread is left that could release a lock."""
        self.phases = PhaseClock(time.monotonic)

    def call_site(self) -> tuple[str | None, str | None]:
        """`file:line` and function of the user's code that is calling JAX in this thread."""
        return call_site(self.identities.jax_folders)

    def restore(self) -> list[str]:
        """Put JAX back; returns the names that somebody else replaced after us and that stay theirs."""
        left = self._patcher.restore()
        self._out_of_memory = None
        self.wrappers.forget()
        self.executables.forget()
        for name in left:
            logger.warning("jitwatch: %s was replaced by other code after install(); it stays as it is", name)
        return left

    # Signals of the listeners

    def phase_started(self, phase: Phase, name: str) -> None:
        """JAX starts a phase in this thread."""
        function = self._misses.current_function(phase) if self._misses is not None else None
        self.phases.start(phase, function)

    def phase_ended(self, phase: Phase, name: str, duration_s: float) -> None:
        """JAX ended a phase in this thread, well or not."""
        ended = self.phases.end(phase, duration_s)
        if phase == "trace" or ended.is_credited or ended.is_failed or self._sink is None:
            return
        # No hook of ours encloses it, although all are installed.
        if self._misses is not None:
            self._sink.unconfirmed(name)
        if phase == "compile":
            # All that is known is the name.
            take = self.phases.take_loose
            take("compile")  # it is `ended`
            self._sink.compiled(
                named(name),
                trace_s=take("trace"),
                lower_s=take("lower"),
                compile_s=ended.seconds,
                persistent_cache=ended.cache,
                unwritten=compat.unwritten_reason(ended.seconds) if ended.cache == "miss" else "",
            )

    def cache_asked(self) -> None:
        """JAX asks its persistent cache, which answers 'miss' unless `cache_hit` follows."""
        if compat.persistent_cache_is_on():
            self.phases.mark_cache("miss")

    def cache_hit(self) -> None:
        """The persistent cache knew the program."""
        self.phases.mark_cache("hit")

    def cache_written(self) -> None:
        """The persistent cache holds the program from now on."""
        self.phases.mark_cache("written")

    def cache_saved(self, seconds: float) -> None:
        """JAX's estimate of what the hit saved."""
        if self._sink is not None:
            self._sink.saved(seconds)

    def _lowering(self) -> Function | None:
        return self._misses.current_function("lower") if self._misses is not None else None

    def _paths_of(self, closed_jaxpr: Any) -> tuple[str, ...]:
        return self._misses.paths_of(closed_jaxpr) if self._misses is not None else ()

    def _wrapped(self, function: Function, mutable_defaults: tuple[str, ...]) -> None:
        if self._on_wrapped is not None and not function.is_internal:
            self._on_wrapped(function, mutable_defaults)

    def _seen(self, function: Function) -> None:
        if self._on_seen is not None:
            self._on_seen(function)

    def _raised(self, error: BaseException, frame: types.FrameType, offset: int) -> None:
        refusal = refusal_of(error, frame, offset, self.identities)
        if refusal is not None and self._sink is not None and not refusal.function.is_internal:
            self._sink.refused(
                refusal.function, argument=refusal.argument, type_name=refusal.type, call_site=refusal.call_site
            )
