"""Donations that a program cannot use: no result has the type of the argument, so its buffer is not reused.

JAX reports them in a warning when it lowers the program; filters may hide it, and it is shown once. Hooked: the name
`warnings` in JAX's module, replaced by a stand-in that inspects this one warning and passes on all. The unused
arguments are read from the variables of the function that warns; of the warning's text only the start is read.
"""

from __future__ import annotations

import itertools
import math
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jitwatch import guard
from jitwatch.jaxhooks import compat
from jitwatch.jaxhooks.donation.violations import UNKNOWN, DonationSink, violation
from jitwatch.jaxhooks.identity.wrappers import Wrappers
from jitwatch.jaxhooks.observer import drop_frame
from jitwatch.jaxhooks.patcher import Patcher
from jitwatch.model.function import Function

_START = "Some donated buffers were not usable"


class UnusableDonations:
    """Reports every program that is lowered with a donation it cannot use.

    `lowering` returns the function whose program this thread is lowering, if known.
    """

    def __init__(self, sink: DonationSink, wrappers: Wrappers, lowering: Callable[[], Function | None]) -> None:
        self._sink = sink
        self._by_source = wrappers.by_source
        self._lowering = lowering

    def install(self, patcher: Patcher) -> None:
        """Start inspecting the warnings."""
        if patcher.has(compat.MLIR_WARNINGS):
            owner = compat.MLIR_WARNINGS.resolve()
            patcher.replace(owner, compat.MLIR_WARNINGS.attribute, _Warnings(owner.warnings, self._inspect))

    def _inspect(self, message: Any, frame: types.FrameType) -> None:
        if not isinstance(message, str) or not message.startswith(_START):
            return
        variables = frame.f_locals
        avals = variables.get("sharded_in_avals", variables.get("in_avals", ()))
        donated = variables.get("donated_args", ())
        names = variables.get("arg_names")
        if names is None or len(names) != len(avals):
            names = [""] * len(avals)
        # Under eager `grad` the inputs are not the arguments of the user's function, and some have no name.
        names = [name or f"args[{i}]" for i, name in enumerate(names)]
        unusable = list(itertools.compress(zip(names, avals, strict=True), donated))
        if not unusable:
            return
        first, aval = unusable[0]
        leaf = first if len(unusable) == 1 else f"{first} and {len(unusable) - 1} more"
        size = sum(math.prod(one.shape) * getattr(one.dtype, "itemsize", 0) for _, one in unusable)
        source = compat.source_of(variables.get("jaxpr"))
        function = self._lowering() or self._by_source(source) or UNKNOWN
        event = violation("unusable", function, leaf)
        self._sink.violation_found(replace(event, shape=tuple(aval.shape), dtype=str(aval.dtype), bytes=size))


class _Warnings:
    """Stands in for the module `warnings` in one module of JAX."""

    def __init__(self, module: Any, inspect: Callable[[Any, types.FrameType], None]) -> None:
        self._module = module
        self._inspect = inspect

    def warn(self, message: Any, category: Any = None, stacklevel: int = 1, source: Any = None, **rest: Any) -> None:
        try:
            self._inspect(message, sys._getframe(1))
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
