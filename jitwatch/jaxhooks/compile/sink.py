"""The receiver of compile events: the compile probe, as the hooks see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from jitwatch.jaxhooks.compile.phases import CacheResult
from jitwatch.model.function import Function
from jitwatch.model.signature import Signature
from jitwatch.model.taxonomy import Phase, UnwrittenReason


class CompileSink(Protocol):
    """Receives compile events, in the thread that compiles and with no lock held."""

    def compiled(
        self,
        function: Function,
        *,
        trace_s: float | None,
        lower_s: float | None,
        compile_s: float,
        persistent_cache: CacheResult,
        unwritten: UnwrittenReason | Literal[""] = "",
        signature: Signature | None = None,
        program_text: Callable[[], str] | None = None,
    ) -> BaseException | None:
        """Report a successful backend compile.

        Args:
            function: The function that was compiled.
            trace_s: Seconds of its trace, if one ran.
            lower_s: Seconds of its lowering, if one ran.
            compile_s: Seconds of the backend compile.
            persistent_cache: What the persistent cache had.
            unwritten: Why the program was not written to the persistent cache after a miss.
            signature: Of the call, if known.
            program_text: Returns the lowered StableHLO; slow for a large program.

        Returns:
            An error to raise before the program runs, or None.
        """

    def unconfirmed(self, name: str) -> None:
        """Report a program of this name that a hook should have seen and did not."""

    def refused(self, function: Function, *, argument: str, type_name: str, call_site: str | None = None) -> None:
        """Report a call that JAX refused because a static argument has no hash.

        Args:
            function: The called function.
            argument: The static argument.
            type_name: Its class.
            call_site: `file:line`, unless the call is still on the stack.
        """

    def failed(self, function: Function, *, phase: Phase, error: BaseException, spent_s: float) -> None:
        """Report a compile that ended in `error` in this phase."""

    def saved(self, seconds: float) -> None:
        """Report the compile time that the persistent cache saved, by JAX's estimate."""

    def cleared(self) -> None:
        """Report that the job cleared JAX's caches, of one function or all."""
