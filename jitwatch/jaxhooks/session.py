"""The JAX session of one agent: installs the hooks that probes request, and restores JAX."""

from __future__ import annotations

import logging
import time
import types
from collections.abc import Callable

from jitwatch.errors import UnsupportedJaxError
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.compile.misses import MissHooks, watch_clearing
from jitwatch.jaxhooks.compile.modules import OnProgram
from jitwatch.jaxhooks.compile.monitoring import CompileSink, Listeners
from jitwatch.jaxhooks.compile.phases import PhaseClock
from jitwatch.jaxhooks.compile.profiling import CompileProfiler, Request
from jitwatch.jaxhooks.compile.refusals import REFUSAL, refusal_of
from jitwatch.jaxhooks.donation.donation_hooks import DonationHooks
from jitwatch.jaxhooks.donation.opportunities import LARGE
from jitwatch.jaxhooks.donation.violations import DonationSink
from jitwatch.jaxhooks.donation.watched import caches_cleared
from jitwatch.jaxhooks.exceptions import watch_raises
from jitwatch.jaxhooks.identity.call_site import call_site, is_users, site_of_error
from jitwatch.jaxhooks.identity.identities import Identities
from jitwatch.jaxhooks.identity.wrappers import Wrappers
from jitwatch.jaxhooks.memory.oom_errors import OnOutOfMemory, OutOfMemoryWatch
from jitwatch.jaxhooks.memory.programs import Executables
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.model.function import Function

logger = logging.getLogger("jitwatch")


class JaxSession:
    """All changes made in JAX, and the state that the hooks share."""

    def __init__(self) -> None:
        self.phases = PhaseClock(time.monotonic)
        self.identities = Identities()
        self.wrappers = Wrappers(self.identities)
        self.executables = Executables(lambda file: is_users(file, self.identities.jax_folders))
        self.profiler = CompileProfiler()
        self._patcher = Patcher()
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
            UnsupportedJaxError: No listener can be registered with jax.monitoring, or a private hook is missing; in
                the second case compiles are still counted, by the names that JAX reports.
        """
        self._sink = sink
        listeners = Listeners(self.phases, sink)
        try:
            listeners.install(self._patcher)
        except (AttributeError, KeyError) as error:
            raise UnsupportedJaxError(f"no listener can be registered with jax.monitoring: {error}") from error
        self._listeners = listeners
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
            profiler=self.profiler,
        )
        self._misses.install(self._patcher)
        self._install_profiler()
        listeners.are_hooks_installed = True

        def cleared() -> None:
            caches_cleared()
            sink.cleared()

        watch_clearing(self._patcher, cleared)
        watch_raises(self._patcher, (ValueError,), (REFUSAL,), self._raised)

    def profile_compiles(self, request: Request | None = None, seconds: float = 0.0) -> None:
        """Profile compiles of the user's functions, until a request is withdrawn or for a number of seconds.

        Where JAX's profiler cannot be used, nothing is profiled, and `profiler.problem` says why.
        """
        if request is not None:
            self.profiler.request(request)
        if seconds:
            self.profiler.allow(seconds)
        self._install_profiler()

    def _install_profiler(self) -> None:
        profiler = self.profiler
        if self._misses is not None and profiler.is_requested and not profiler.is_installed and not profiler.problem:
            profiler.install(self._patcher)

    def watch_wrappers(
        self, on_wrapped: Callable[[Function, tuple[str, ...]], None], on_seen: Callable[[Function], None]
    ) -> None:
        """Report every function that is passed to `jax.jit` from now on, and earlier ones when they are called.

        Raises UnsupportedJaxError if the private hook is missing.
        """
        self.wrappers.on_wrapped, self.wrappers.on_seen = on_wrapped, on_seen
        self.wrappers.install(self._patcher)

    def watch_memory(self, on_error: OnOutOfMemory) -> None:
        """Report out-of-memory errors, before they propagate.

        Raises UnsupportedJaxError if JAX's backends are not where expected, so that listing devices could create one.
        """
        reasons = [compat.BACKENDS.missing(), compat.DEFAULT_BACKEND.missing()]
        if any(reasons):
            raise UnsupportedJaxError("; ".join(filter(None, reasons)))
        folders = self.identities.jax_folders
        self._out_of_memory = OutOfMemoryWatch(on_error, site_of=lambda trace: site_of_error(trace, folders))
        self._out_of_memory.install(self._patcher)

    def watch_donations(self, sink: DonationSink, *, marks: bool, large: int = LARGE) -> DonationHooks:
        """Let `jax.jit` return watched functions for those that donate, and report violations.

        Args:
            sink: Receives donors and violations.
            marks: Whether donated arrays may be marked.
            large: Bytes that a donation must save per call to be an opportunity.
        """
        misses = self._misses
        hooks = DonationHooks(
            self.wrappers,
            sink,
            marks=marks,
            large=large,
            lowering=lambda: self.phases.function_of("lower"),
            paths_of=misses.paths_of if misses is not None else lambda _: (),
            on_failed=self.call_failed,
        )
        self.wrappers.install(self._patcher)
        hooks.install(self._patcher)
        self.wrappers.on_created = hooks.created
        return hooks

    def watch_programs(self, on_program: OnProgram) -> None:
        """Report each program of a user's function before XLA compiles it, in the thread that does."""
        if self._misses is not None:
            self._misses.modules.on_program = on_program

    def function_named(self, program: str) -> str | None:
        """Return the label of the function that JAX calls `jit(name)`, if this thread called it last."""
        last = self.phases.thread.last
        return last[1].label if last is not None and program in (f"jit({last[0]})", last[0]) else None

    def call_failed(self, error: BaseException) -> None:
        """Check the error of a watched call, which propagates unchanged."""
        if self._out_of_memory is not None:
            self._out_of_memory.check(error)

    def take_absent(self) -> list[str]:
        """Return what the probe that has just started does not see, and why: hooks that this JAX lacks."""
        return self._patcher.take_absent()

    def repair_listeners(self) -> bool:
        """Register listeners that other code has cleared; return False if there were any."""
        return self._listeners is None or self._listeners.repair()

    def forget_locks(self) -> None:
        """Replace locks in a forked child, where the threads that held them no longer exist."""
        self.phases = PhaseClock(time.monotonic)
        # A session of the profiler is the parent's. The old object keeps it, so that it is not stopped here.
        self.profiler = CompileProfiler()

    def call_site(self) -> tuple[str | None, str | None]:
        """Return `file:line` and function of the user's code that is calling JAX in this thread."""
        return call_site(self.identities.jax_folders)

    def restore(self) -> list[str]:
        """Restore JAX; return the names that other code has replaced since, which are left as they are."""
        self.profiler.forget()
        left = self._patcher.restore()
        self._out_of_memory = None
        self.wrappers.forget()
        self.executables.forget()
        for name in left:
            logger.warning("jitwatch: %s was replaced by other code after install(); it is left unchanged", name)
        return left

    def _raised(self, error: BaseException, frame: types.FrameType, offset: int) -> None:
        refusal = refusal_of(error, frame, offset, self.identities)
        if refusal is not None and self._sink is not None and not refusal.function.is_internal:
            self._sink.refused(
                refusal.function, argument=refusal.argument, type_name=refusal.type, call_site=refusal.call_site
            )
