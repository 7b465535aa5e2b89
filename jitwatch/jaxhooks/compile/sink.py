"""The receiver of compiles: the compile probe, as the hooks see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.compile.phases import CacheResult
from jitwatch.model.events import Compiled
from jitwatch.model.function import Function
from jitwatch.model.signature import Signature
from jitwatch.model.taxonomy import Phase


class CompileSink(Protocol):
    """Receives what happens to compiles, in the thread that compiles and with no lock held."""

    def compiled(self, event: Compiled, program_text: Callable[[], str] | None = None) -> BaseException | None:
        """Report a successful backend compile; the receiver completes the event.

        Returns an error to raise before the program runs, or None. The text is the lowered StableHLO, slow for a large
        program.
        """

    def unconfirmed(self, name: str) -> None:
        """Report a program of this name that a hook should have seen and did not."""

    def refused(self, function: Function, *, argument: str, type_name: str, call_site: str | None = None) -> None:
        """Report a call that JAX refused because a static argument of this class has no hash.

        `call_site` is None while the call is on the stack.
        """

    def failed(self, function: Function, *, phase: Phase, error: BaseException, spent_s: float) -> None:
        """Report a compile that ended in `error` in this phase."""

    def saved(self, seconds: float) -> None:
        """Report the compile time that the persistent cache saved, by JAX's estimate; it may be negative."""

    def cleared(self) -> None:
        """Report that the job cleared JAX's caches, of one function or all."""


def compiled_event(
    function: Function,
    seconds: tuple[float | None, float | None, float],
    cache: CacheResult,
    signature: Signature | None = None,
    *,
    has_host_callbacks: bool = False,
) -> Compiled:
    """Return the event of a compile, as far as the hooks know it.

    `seconds` are those of its trace and its lowering, if they ran, and of the backend compile.
    """
    trace_s, lower_s, compile_s = seconds
    reason = compat.unwritten_reason(compile_s, has_host_callbacks=has_host_callbacks) if cache == "miss" else ""
    return Compiled(
        function=function,
        trace_s=trace_s,
        lower_s=lower_s,
        compile_s=compile_s,
        persistent_cache="miss" if cache == "written" else cache,
        persistent_cache_reason=reason,
        signature=signature,
    )
