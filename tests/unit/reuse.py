"""What JAX makes for each compile, made once for several: the tests look at JAX and at the agent, not at XLA.

A test that needs a program of its own has the fixture `compiled_anew`; with `COMPILE_ANEW=1` every test has.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jax._src import compiler
from jax._src.interpreters import mlir

#: JAX from 0.11 on uses a context of MLIR for so many programs. It takes as long as half a small compile to make one.
PROGRAMS_PER_CONTEXT = 10
#: Programs that are kept.
MOST_PROGRAMS = 1_000

_programs: OrderedDict[tuple[object, ...], Any] = OrderedDict()
_lock = threading.Lock()
_is_on = "COMPILE_ANEW" not in os.environ


def reuse_contexts() -> None:
    """Let an older JAX use its contexts of MLIR as a newer one does."""
    if hasattr(mlir, "_thread_local_context"):
        return
    make, mine = mlir.make_ir_context, threading.local()

    def make_ir_context() -> Any:
        if mlir.ir.Context.current is not None:
            return make()  # another program is being lowered
        uses = getattr(mine, "uses", 0)
        if not uses % PROGRAMS_PER_CONTEXT:
            mine.context = make()
        mine.uses = uses + 1
        return mine.context

    mlir.make_ir_context = make_ir_context


def reuse_programs() -> None:
    """Let XLA compile a program once: half of the compiles are of a program that another test has compiled.

    All that JAX does around it, which is what the agent observes, is done for each compile.
    """
    compile_anew = compiler.backend_compile_and_load

    @functools.wraps(compile_anew)
    def compile_once(backend: Any, module: Any, executable_devices: Any, options: Any, host_callbacks: Any) -> Any:
        if not _is_on or host_callbacks:
            return compile_anew(backend, module, executable_devices, options, host_callbacks)
        text = module.operation.get_asm(enable_debug_info=False)
        key = (backend, text, tuple(executable_devices), options.SerializeAsString())
        with _lock:
            found = _programs.get(key)
        if found is None:
            found = compile_anew(backend, module, executable_devices, options, host_callbacks)
        with _lock:
            _programs[key] = found
            _programs.move_to_end(key)
            if len(_programs) > MOST_PROGRAMS:
                _programs.popitem(last=False)
        return found

    compiler.backend_compile_and_load = compile_once


@contextmanager
def compiled_anew() -> Iterator[None]:
    """Let XLA compile every program."""
    global _is_on
    before, _is_on = _is_on, False
    try:
        yield
    finally:
        _is_on = before
