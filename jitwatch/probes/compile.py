"""Compiles: every compile of every jitted function, its duration by phase, and the compiles in progress.

Hooked: JAX's miss path (`jaxhooks.compile.misses`) for the function that is compiled, `jax.monitoring` for the start
and end of its phases. Cost: nothing on a cached call, and some tens of microseconds for a compile.

Not seen: compiles before the agent was installed; work of XLA outside of JAX; user code inside an eager `lax.scan`,
which JAX compiles under its own name (`__jax__`).

    jitwatch_compiles_total{function="train.train_step"} 2.0
    jitwatch_compile_seconds_total{function="train.train_step"} 4.31
    jitwatch_compile_busy_seconds_total 5.07
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from jitwatch import guard
from jitwatch.diagnosis.expected import expected_reason
from jitwatch.errors import JitwatchError, RecompileError
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.compile.phases import CacheResult, Lookup, Module, Running
from jitwatch.model.events import (
    CacheMissed,
    CachesCleared,
    Compiled,
    CompileFailed,
    CompilerSeen,
    PersistentCacheSaved,
    StaticRefused,
    SteadyViolated,
)
from jitwatch.model.function import Function
from jitwatch.model.rows import HotLineRow
from jitwatch.model.signature import Signature
from jitwatch.model.taxonomy import JAX_LABEL, MissReason, Phase, UnwrittenReason
from jitwatch.probes.probe import Probe, ProbeContext
from jitwatch.render import wording
from jitwatch.state.programs import number_of

if TYPE_CHECKING:
    from jitwatch.diagnosis.cache_misses import Miss
    from jitwatch.probes.cache_misses import CacheMisses

logger = logging.getLogger("jitwatch")

_MAX_MESSAGE = 300
#: Seconds that the end of the agent waits for the index of the persistent cache.
_SETTLE_S = 0.3


class CompileProbe(Probe):
    """Converts the session's signals to events, and the activity of its phases to gauges."""

    name = "compile"
    is_live = True

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self._misses: CacheMisses | None = None

    def start(self) -> None:
        folder = self.context.cache_index()
        if folder is not None:
            self._explain_misses(folder)
        self.context.session.watch_compiles(self)

    def _explain_misses(self, folder: str) -> None:
        try:
            # Lazy: it compares programs, which takes a fifth of all imports, and few jobs have an index.
            from jitwatch.probes.cache_misses import CacheMisses
        except (ImportError, OSError) as error:  # as without a free file descriptor
            logger.warning("jitwatch: misses of the persistent cache are not explained: %s", error)
            return
        self._misses = CacheMisses(folder, run=self.context.run, is_redacted=self.context.is_redacted)
        if compat.persistent_cache_is_on():
            self._misses.start()

    def settle(self) -> None:
        if self._misses is not None:
            self._misses.close(_SETTLE_S)

    def stop(self) -> None:
        self.settle()

    def refresh(self) -> None:
        activity, store = self.context.session.phases.activity, self.context.store
        running = activity.running()
        now = time.monotonic()
        names = {thread.ident: thread.name for thread in threading.enumerate()} if running else {}
        store.set_total("compile_busy_seconds", activity.busy_s())
        store.set("compiles_in_progress", len(running))
        store.set("compile_oldest_in_progress_seconds", now - running[0].start if running else 0.0)
        store.set("compiling_fingerprint", float(self._compiling(running)))
        store.set_running(
            [
                {
                    "function": one.function.label if one.function else JAX_LABEL,
                    "phase": one.phase,
                    "for_s": now - one.start,
                    "thread": names.get(one.ident, ""),
                }
                for one in running
            ]
        )

    def sample(self) -> None:
        if not self.context.session.repair_listeners():
            self.context.store.add("agent_errors", labels=("monitoring",))

    def _compiling(self, running: list[Running]) -> int:
        """The fingerprint of the program that XLA is compiling; of several, the one that began first."""
        place = compat.process_place()
        is_alone = place is None or place[1] == 1
        modules = [one.module for one in running if one.module is not None]
        return next((number_of(one.fingerprint or "") for one in modules if is_alone or one.on_all_processes), 0)

    # As a `CompileSink`

    def compiled(
        self,
        function: Function,
        seconds: tuple[float | None, float | None, float],
        cache: CacheResult,
        signature: Signature | None = None,
        *,
        has_host_callbacks: bool = False,
        program_text: Callable[[], str] | None = None,
        module: Module | None = None,
        hot_lines: tuple[HotLineRow, ...] = (),
    ) -> JitwatchError | None:
        trace_s, lower_s, compile_s = seconds
        reason: MissReason | Literal[""] = ""
        why, is_written = "", False
        site, caller = self.context.session.call_site()
        lookup = module.lookup if module is not None else None
        if cache == "hit" and lookup is not None:
            self._missed(function, site, module, "", compile_s)  # added to the index, if it is new
        elif cache in ("miss", "written"):
            unwritten: UnwrittenReason | Literal[""] = ""
            if cache == "miss" or (lookup is not None and lookup.write_error):
                unwritten = compat.unwritten_reason(
                    compile_s,
                    has_host_callbacks=has_host_callbacks,
                    write_error=lookup.write_error if lookup is not None else "",
                )
            is_written = not unwritten
            reason, why = self._missed(function, site, module, unwritten, compile_s)
        following = self.context.emit(
            Compiled(
                function=function,
                call_site=site,
                trace_s=trace_s,
                lower_s=lower_s,
                compile_s=compile_s,
                persistent_cache="miss" if cache == "written" else cache,
                persistent_cache_reason=reason,
                persistent_cache_explanation=why,
                persistent_cache_written=is_written,
                signature=signature,
                caller=caller,
                expected=expected_reason(),
                cache_entries=self.context.session.wrappers.entries_of(function),
                thread=threading.current_thread().name,
                hlo=self._keep_program(function, program_text),
                program=(module.fingerprint if module is not None else None) or "",
                ahead_of_time=signature is not None and signature.origin == "aot",
                on_all_processes=module is not None and module.on_all_processes,
                constant_bytes=sum(one.bytes for one in signature.constants) if signature is not None else 0,
                trace_hot_lines=hot_lines,
            )
        )
        for one in following:
            if isinstance(one, SteadyViolated) and one.action == "raise":
                text = f"{wording.of_steady_violation(one)}. The compiled program is kept: calling again runs it"
                return RecompileError(text, function=function.label, call_site=one.call_site)
        return None

    def _missed(
        self,
        function: Function,
        site: str | None,
        module: Module | None,
        unwritten: UnwrittenReason | Literal[""],
        compile_s: float,
    ) -> tuple[MissReason | Literal[""], str]:
        """Why the persistent cache did not have a program or it was not written, and the explanation."""
        lookup = module.lookup if module is not None else None
        if lookup is None or module is None:
            return unwritten, ""
        # Lazy: few jobs use the persistent cache.
        from jitwatch.render import persistent_cache

        program, minimum_s = module.fingerprint or "", compat.persistent_cache_minimum_s()
        error = lookup.write_error or (lookup.error if unwritten == "no_folder" else "")

        def words(miss: Miss | None) -> str:
            return persistent_cache.explanation(
                miss, unwritten=unwritten, compile_s=compile_s, minimum_s=minimum_s, error=error
            )

        def late(miss: Miss, is_known: bool) -> None:
            self.context.emit(
                CacheMissed(
                    function=function,
                    call_site=site,
                    program=program,
                    reason=unwritten or miss.reason,
                    explanation=words(miss),
                    compile_s=compile_s,
                    is_counted=is_known or bool(unwritten),
                )
            )

        miss = None
        if self._misses is not None:
            miss = self._misses.ended(
                lookup, unwritten=unwritten, compile_s=compile_s, fingerprint=program, on_late=late
            )
        lookup.text = str  # releases the module
        return unwritten or (miss.reason if miss is not None else ""), words(miss)

    def _keep_program(self, function: Function, text: Callable[[], str] | None) -> str | None:
        programs = self.context.programs
        if programs is None or text is None or function.is_internal:
            return None
        try:
            name = programs.write(function.label, text)
        except Exception:
            guard.failed("hlo")
            return None
        if name is None:
            self.context.store.add("agent_events_dropped", labels=("hlo",))
        return name

    def failed(self, function: Function, *, phase: Phase, error: BaseException, spent_s: float) -> None:
        self.context.emit(
            CompileFailed(
                function=function,
                call_site=self.context.session.call_site()[0],
                phase=phase,
                error=type(error).__name__,
                message=_first_line(error),
                spent_s=spent_s,
            )
        )

    def refused(self, function: Function, *, argument: str, type_name: str, call_site: str | None = None) -> None:
        site = call_site or self.context.session.call_site()[0]
        self.context.emit(StaticRefused(function=function, call_site=site, argument=argument, type=type_name))

    def cleared(self) -> None:
        self.context.emit(CachesCleared(call_site=self.context.session.call_site()[0]))

    def compiler_seen(self, event: CompilerSeen) -> None:
        self.context.emit(event)

    def cache_used(self) -> None:
        if self._misses is not None:
            self._misses.start()

    def cache_wants(self, key: str, *, is_hit: bool) -> bool:
        return self._misses is not None and self._misses.wants(key, is_hit=is_hit)

    def cache_read(self, function: Function, lookup: Lookup) -> None:
        if self._misses is not None:
            self._misses.read(function, lookup)

    def unconfirmed(self, name: str) -> None:
        version = compat.version_of("jax")
        self.context.failed(
            self.name,
            f"jax {version} compiled {name} on a path without hooks; such compiles are counted under JAX's names only. "
            "Upgrade jitwatch, or report the version of jax",
        )

    def saved(self, seconds: float) -> None:
        self.context.emit(PersistentCacheSaved(saved_s=seconds))


def _first_line(error: BaseException) -> str:
    """First line of an error's message, from its string arguments. No method of a user's class is called."""
    if type(error).__module__.partition(".")[0] not in ("builtins", "jax", "jaxlib", "numpy"):
        return ""
    text = " ".join(str(argument) for argument in error.args if isinstance(argument, str))
    return text.strip().partition("\n")[0][:_MAX_MESSAGE]
