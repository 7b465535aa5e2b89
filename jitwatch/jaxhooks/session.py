"""The JAX session of one agent: installs the hooks that probes request, and restores JAX."""

from __future__ import annotations

import logging
import time
import types
from collections.abc import Callable
from typing import Any

from jitwatch.errors import UnsupportedJaxError
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.compile.clearing import watch_clearing
from jitwatch.jaxhooks.compile.misses import MissHooks
from jitwatch.jaxhooks.compile.monitoring import Listeners
from jitwatch.jaxhooks.compile.phases import PhaseClock
from jitwatch.jaxhooks.compile.refusals import refusal_of
from jitwatch.jaxhooks.compile.sink import CompileSink
from jitwatch.jaxhooks.donation.calls import caches_cleared
from jitwatch.jaxhooks.donation.donation_hooks import DonationHooks
from jitwatch.jaxhooks.donation.opportunities import LARGE
from jitwatch.jaxhooks.donation.violations import DonationSink
from jitwatch.jaxhooks.exceptions import watch_raises
from jitwatch.jaxhooks.identity.call_site import call_site, site_of_error
from jitwatch.jaxhooks.identity.identities import Identities, function_of_program
from jitwatch.jaxhooks.identity.wrappers import Wrappers
from jitwatch.jaxhooks.memory.executables import Executables
from jitwatch.jaxhooks.memory.oom import OnOutOfMemory, OutOfMemoryWatch
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.model.function import Function
from jitwatch.model.taxonomy import Phase

logger = logging.getLogger("jitwatch")


class JaxSession:
    """All changes made in JAX, and the state that the hooks share.

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
        """Find the folders of JAX, which the job has imported."""
        self.identities.find_jax_folders()

    def watch_compiles(self, sink: CompileSink) -> None:
        """Report compiles to `sink`.

        Raises:
            UnsupportedJaxError: jax.monitoring cannot be listened to, or a private hook is missing; in the second case
                compiles are still counted, by the names that JAX reports.
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
        """Report every function that is passed to `jax.jit` from now on, and earlier ones when they are called.

        Raises:
            UnsupportedJaxError: The private hook is missing.
        """
        self._on_wrapped, self._on_seen = on_wrapped, on_seen
        self.wrappers.install(self._patcher)

    def watch_memory(self, on_error: OnOutOfMemory) -> None:
        """Report out-of-memory errors, before they propagate.

        Raises:
            UnsupportedJaxError: JAX's backends are not where expected, so that listing devices could create one.
        """
        reasons = [compat.BACKENDS.missing(), compat.DEFAULT_BACKEND.missing()]
        if any(reasons):
            raise UnsupportedJaxError("; ".join(filter(None, reasons)))
        folders = self.identities.jax_folders
        self._out_of_memory = OutOfMemoryWatch(on_error, site_of=lambda trace: site_of_error(trace, folders))
        self._out_of_memory.install(self._patcher)

    def function_named(self, program: str) -> str | None:
        """Return the label of the function that JAX calls `jit(name)`, if this thread called it last."""
        last = self.phases.thread.last
        return last[1].label if last is not None and program in (f"jit({last[0]})", last[0]) else None

    def call_failed(self, error: BaseException) -> None:
        """Check the error of a watched call, which propagates unchanged."""
        if self._out_of_memory is not None:
            self._out_of_memory.check(error)

    def watch_donations(self, sink: DonationSink, *, marks: bool, large: int = LARGE) -> DonationHooks:
        """Let `jax.jit` return watched functions for those that donate, and report violations.

        Args:
            sink: Receives donors and violations.
            marks: Whether donated arrays may be marked.
            large: Bytes that a donation must save per call to be an opportunity.

        Raises:
            UnsupportedJaxError: A private hook is missing.
        """
        hooks = DonationHooks(
            self.identities,
            sink,
            marks=marks,
            large=large,
            by_source=self.wrappers.by_source,
            lowering=self._lowering,
            paths_of=self._paths_of,
            on_failed=self.call_failed,
        )
        self.wrappers.install(self._patcher)
        hooks.install(self._patcher)
        self.wrappers.on_created = hooks.created
        return hooks

    def take_absent(self) -> list[str]:
        """Return what the probe that has just started does not see, and why: hooks that this JAX lacks."""
        return self._patcher.take_absent()

    def repair_listeners(self) -> bool:
        """Register listeners that other code has cleared; return False if there were any."""
        if self._listeners is None or self._listeners.is_intact():
            return True
        self._listeners.repair()
        return False

    def forget_locks(self) -> None:
        """Replace locks in a forked child, where the threads that held them no longer exist."""
        self.phases = PhaseClock(time.monotonic)

    def call_site(self) -> tuple[str | None, str | None]:
        """Return `file:line` and function of the user's code that is calling JAX in this thread."""
        return call_site(self.identities.jax_folders)

    def restore(self) -> list[str]:
        """Restore JAX; return the names that other code has replaced since, which are left as they are."""
        left = self._patcher.restore()
        self._out_of_memory = None
        self.wrappers.forget()
        self.executables.forget()
        for name in left:
            logger.warning("jitwatch: %s was replaced by other code after install(); it stays as it is", name)
        return left

    # Signals of the listeners

    def phase_started(self, phase: Phase, name: str) -> None:
        """Handle that JAX starts a phase in this thread."""
        function = self._misses.current_function(phase) if self._misses is not None else None
        self.phases.start(phase, function)

    def phase_ended(self, phase: Phase, name: str, duration_s: float) -> None:
        """Handle that JAX ended a phase in this thread, successfully or not."""
        ended = self.phases.end(phase, duration_s)
        if phase == "trace" or ended.is_credited or ended.is_failed or self._sink is None:
            return
        if self._misses is not None:
            # All hooks are installed, and none encloses this phase.
            self._sink.unconfirmed(name)
        if phase == "compile":
            # Only the name is known.
            pop = self.phases.pop_unowned
            pop("compile")  # it is `ended`
            self._sink.compiled(
                function_of_program(name),
                trace_s=pop("trace"),
                lower_s=pop("lower"),
                compile_s=ended.seconds,
                persistent_cache=ended.cache,
                unwritten=compat.unwritten_reason(ended.seconds) if ended.cache == "miss" else "",
            )

    def cache_requested(self) -> None:
        """Handle a request to the persistent cache: a miss unless `cache_hit` follows."""
        if compat.persistent_cache_is_on():
            self.phases.mark_cache("miss")

    def cache_hit(self) -> None:
        """Handle that the persistent cache held the program."""
        self.phases.mark_cache("hit")

    def cache_written(self) -> None:
        """Handle that the program was written to the persistent cache."""
        self.phases.mark_cache("written")

    def cache_saved(self, seconds: float) -> None:
        """Handle JAX's estimate of the compile time that a hit saved."""
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
