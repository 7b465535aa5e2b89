"""Donations that a program cannot use: no result has the type of the argument, so its memory stays as it is.

JAX says so in a warning when it lowers the program, which filters may hide and which is shown once. The name
`warnings` in JAX's module is replaced by a stand-in that looks at that one warning and passes all on. What is
wasted stands in the variables of the function that warns; the warning's text is not read beyond its start.
"""

from __future__ import annotations

import itertools
import math
import sys
import types
from collections.abc import Callable
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.donation.facts import UNKNOWN, DonationSink, Misuse
from jitwatch.jaxhooks.instrument import drop_frame
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.model.function import Function

_START = "Some donated buffers were not usable"


class UnusableDonations:
    """Tells of every program that is lowered with a donation it cannot use.

    Args:
        sink: Told of it.
        lowering: The function whose program this thread lowers now, if known.
        by_source: The function that JAX's text for where it comes from stands for, if known.
    """

    def __init__(
        self,
        sink: DonationSink,
        *,
        lowering: Callable[[], Function | None],
        by_source: Callable[[Any], Function | None],
    ) -> None:
        self._sink = sink
        self._lowering = lowering
        self._by_source = by_source

    def install(self, patcher: Patcher) -> None:
        """Listen from now on."""
        if patcher.has(compat.MLIR_WARNINGS):
            owner = compat.MLIR_WARNINGS.resolve()
            patcher.replace(owner, compat.MLIR_WARNINGS.attribute, _Warnings(owner.warnings, self._warned))

    def _warned(self, message: Any, frame: types.FrameType) -> None:
        if not isinstance(message, str) or not message.startswith(_START):
            return
        found = frame.f_locals
        avals = found.get("sharded_in_avals", found.get("in_avals", ()))
        donated = found.get("donated_args", ())
        names = found.get("arg_names")
        if names is None or len(names) != len(avals):
            names = [""] * len(avals)
        # Under eager `grad` what comes in are no arguments of the user's function, and some have no name.
        names = [name or f"args[{i}]" for i, name in enumerate(names)]
        wasted = list(itertools.compress(zip(names, avals, strict=True), donated))
        if not wasted:
            return
        first, aval = wasted[0]
        leaf = first if len(wasted) == 1 else f"{first} and {len(wasted) - 1} more"
        size = sum(math.prod(one.shape) * getattr(one.dtype, "itemsize", 0) for _, one in wasted)
        function = self._function(found.get("jaxpr"))
        self._sink.misused(Misuse("unusable", function, leaf, tuple(aval.shape), str(aval.dtype), size))

    def _function(self, jaxpr: Any) -> Function:
        source = getattr(getattr(getattr(jaxpr, "jaxpr", None), "debug_info", None), "func_src_info", None)
        return self._lowering() or self._by_source(source) or UNKNOWN


class _Warnings:
    """The module `warnings` for one module of JAX."""

    def __init__(self, module: Any, heard: Callable[[Any, types.FrameType], None]) -> None:
        self._module = module
        self._heard = heard

    def warn(self, message: Any, category: Any = None, stacklevel: int = 1, source: Any = None, **rest: Any) -> None:
        try:
            self._heard(message, sys._getframe(1))
        except Exception:
            guard.failed("donation")
        try:
            self._module.warn(message, category, stacklevel + 1, source, **rest)
        except Warning as error:  # a filter makes it an error
            drop_frame(error, _WARN)
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


_WARN = _Warnings.warn.__code__
